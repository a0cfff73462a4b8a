"""`apo-bench data`: datasets, and runs without theirs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.commands import TINY
from support.shell import Shell

from apo_bench.cli.main import main
from apo_bench.data.examples import Dataset, Examples
from apo_bench.plugins.datasets import what_is_wrong_inside


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


def test_verify_reads_what_a_checksum_holds_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checksum of a file that a browser unpacked is recorded when it is first seen, whatever is in it."""
    monkeypatch.setenv("APO_BENCH_DATA", str(tmp_path))
    file = tmp_path / "protein" / "CASP.csv"
    file.parent.mkdir()
    file.write_bytes(b"x")
    assert main(["data", "verify", "protein"]) == 1
    assert "CASP.csv has 1 columns, expected 10" in capsys.readouterr().out
    assert main(["data", "verify", "concrete", "meats"]) == 0


class _Data:
    """Splits of these sizes."""

    def __init__(self, *sizes: int) -> None:
        self.train, self.validation, self.test = (
            Examples((torch.zeros(size, 1),), torch.zeros(size)) if size else () for size in sizes
        )


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (lambda: _Data(3, 2, 0), "it has 3 + 2 + 0 examples, and no split may be empty"),
        (lambda: _Data(3, 2, 2), "it has 3 + 2 + 2 examples, expected 3 + 2 + 1"),
        (lambda: 1 / 0, "it cannot be read (ZeroDivisionError: division by zero)"),
        (lambda: None, "it cannot be read"),
        (lambda: _Data(3, 2, 1), None),
    ],
)
def test_what_a_plugin_s_dataset_comes_to_is_looked_at(load: Any, message: str | None) -> None:
    wrong = what_is_wrong_inside(Dataset(name="d", load=load, digest=lambda: "d", sizes=(3, 2, 1)))
    assert (wrong or "").startswith(message or "")
    assert (wrong is None) == (message is None)
