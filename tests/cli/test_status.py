"""`apo-bench status`: what a store holds."""

import json

from support.commands import PLUG, TINY
from support.shell import Shell, optimizer_plugin


def test_status_counts_what_there_is(tiny_shell: Shell) -> None:
    assert "no results at" in tiny_shell("status", status=2).stderr
    tiny_shell.install("plug", optimizer_plugin(["raise ValueError('no')"]), PLUG)
    tiny_shell(*TINY, "--optimizers", "sgd,plug", "--precisions", "fp32", status=1)
    status = json.loads(tiny_shell("status", "--json").stdout)
    assert status == {
        "suites": [
            {"suite": "classification", "scale": "smoke", "results": 1, "diverged": 0, "failed": 1, "interrupted": 0}
        ],
        "active": [],
    }
    assert "classification" in tiny_shell("status").stdout
