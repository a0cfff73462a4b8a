"""`apo-bench data`: datasets, and runs without theirs."""

import json

import pytest
from support.commands import TINY
from support.shell import Shell


@pytest.mark.slow
def test_data_list_fetch_and_verify(tiny_shell: Shell) -> None:
    rows = {row["name"]: row for row in json.loads(tiny_shell("data", "list", "--json").stdout)}
    assert rows["fashion-mnist-20k"]["state"] == rows["tiny"]["state"] == "ok"
    assert "apo-bench data fetch cifar10" in rows["cifar10"]["message"]
    tiny_shell("data", "verify", "fashion-mnist-20k")
    tiny_shell("data", "verify", "cifar10", status=1)
    assert "nothing to fetch" in tiny_shell("data", "fetch", "fashion-mnist-20k").stdout
    assert "fetch what? cifar10, cifar100" in tiny_shell("data", "fetch", status=2).stderr
    assert "did you mean 'cifar10'" in tiny_shell("data", "verify", "cifar1", status=2).stderr
    assert "did you mean 'fetch'" in tiny_shell("data", "fetsh", status=2).stderr


def test_missing_data_stop_only_their_own_cells(tiny_shell: Shell) -> None:
    command = (*TINY, "--tasks", "cifar10.lenet,cifar10.vgg16,tiny", "--optimizers", "sgd", "--precisions", "fp32")
    done = tiny_shell(*command, status=1)
    assert "1 of 1 runs have a result" in done.stdout
    (line,) = done.stderr.splitlines()
    assert "apo-bench data fetch cifar10" in line
