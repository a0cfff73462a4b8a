"""`apo-bench check`: a plugin's CI, and what is refused."""

import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from support.commands import PLUG
from support.shell import Shell, optimizer_plugin
from support.snapshots import held, runs

from apo_bench.plugins.registry import optimizers
from apo_bench.records.snapshot import decode_snapshot, encode_snapshot

SELECTION = ("--suite", "classification", "--scale", "smoke", "--tasks", "tiny", "--optimizers", "plug")
RUN = ("run", *SELECTION, "--precisions", "fp32", "--epochs", "1", "--seeds", "0")


@pytest.mark.slow
def test_a_plugins_ci(tiny_shell: Shell) -> None:
    """Save, change the optimizer, and be told: first that nothing was run since, then what is worse."""
    tiny_shell.install("plug", optimizer_plugin(["pass"]), PLUG)
    tiny_shell(*RUN)
    saved = tiny_shell("check", "--save", "held.json", "--suite", "classification")
    assert saved.stdout == "held.json: classification, scale smoke: 1 cells, 1 runs; commit it\n"
    same = tiny_shell("check", "--baseline", "held.json")
    assert same.stdout.endswith("1 not judged, 3 holds\n")

    body = ["self.kept = torch.zeros(1, dtype=torch.uint8); torch.ones(8, 8) @ torch.ones(8, 8)"]
    source = optimizer_plugin(body).replace(
        "    steps = 0\n",
        "    steps = 0\n\n    def state_tensors(self):\n"
        '        return {**super().state_tensors(), "kept": [self.kept]}\n',
    )
    tiny_shell.install("plug", source, PLUG)
    stale = tiny_shell("check", "--baseline", "held.json", status=1)
    assert stale.stderr == "apo-bench: 1 results from a different version of the code or the data are ignored\n"
    assert stale.stdout.startswith("missing: tiny plug fp32: no result; run the suite first\n")

    tiny_shell(*RUN)
    worse = tiny_shell("check", "--baseline", "held.json", "--output", "check.md", status=1)
    assert "worse: tiny plug fp32, FLOPs of a step" in worse.stdout
    assert "worse: tiny plug fp32, bytes of state" in worse.stdout
    assert "kept 0 → 1 bytes" in worse.stdout
    assert (
        (tiny_shell.folder / "check.md").read_text().startswith("# Check of classification, scale smoke: does not hold")
    )
    found = json.loads(tiny_shell("check", "--baseline", "held.json", "--json", status=1).stdout)
    assert found["holds"] is False
    assert [one["quantity"] for one in found["findings"] if one["verdict"] == "worse"] == ["flops", "state"]
    tiny_shell("check", "--baseline", "held.json", "--hold", "quality")
    tiny_shell("check", "--baseline", "held.json", "--hold", "flops", "--tolerance", "flops=10")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--baseline", "/dev/zero"),
            "/dev/zero is no baseline (it has more than 67,108,864 bytes); save one with --save",
        ),
        (("--baseline", "none.json"), "cannot read none.json (No such file or directory); save a baseline with --save"),
        (("--save", "b.json"), "--save needs --suite NAME"),
        (("--baseline", "b.json", "--hold", "flop"), "unknown quantity 'flop'; did you mean 'flops'?"),
        (("--baseline", "b.json", "--tolerance", "step=-1"), "--tolerance step=-1: expected step=N"),
        (("--baseline", "b.json", "--tolerance", "step"), "--tolerance step: expected step=N"),
        ((), "one of the arguments --baseline --save is required"),
    ],
)
def test_wrong_use_is_one_line(shell: Shell, arguments: Sequence[str], message: str) -> None:
    done = shell("check", *arguments, status=2)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_baseline_of_another_suite_is_refused(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "b.json").write_bytes(encode_snapshot(held(runs())))
    done = shell("check", "--baseline", "b.json", "--suite", "regression", status=2)
    assert done.stderr == "apo-bench: b.json is of suite 's', not 'regression'; leave --suite out\n"


@pytest.mark.slow
def test_our_own_optimizers_cost_what_they_did(shell: Shell) -> None:
    """A change that is meant saves the file again, as CONTRIBUTING says; the difference shows what it costs."""
    costs = Path(__file__).parents[2] / "benchmarks" / "costs.json"
    saved = decode_snapshot(costs.read_bytes(), costs.name)
    assert {cell.optimizer.name for cell in saved.cells} == set(optimizers().names())
    short = tuple(msgspec.structs.replace(cell, epochs=0.25) for cell in saved.cells)  # a step costs what it costs
    (shell.folder / "costs.json").write_bytes(encode_snapshot(msgspec.structs.replace(saved, cells=short)))
    task = ("--tasks", "fashion-mnist-20k.lenet", "--optimizers", "all", "--precisions", "fp32", "--seeds", "0")
    shell("run", "--suite", "classification", "--scale", "smoke", *task, "--epochs", "0.25", "--device", "cpu")
    shell("check", "--baseline", "costs.json", "--hold", "flops,calls,state")


@pytest.mark.slow
def test_results_of_a_branch_do_not_hide_those_of_the_code_that_is_here(tiny_shell: Shell) -> None:
    """Back on the first branch, `run` has nothing to do, and `check` looks at what `run` would reuse."""
    first, other = optimizer_plugin(["pass"]), optimizer_plugin(["self.kept = torch.zeros(4)"])
    tiny_shell.install("plug", first, PLUG)
    tiny_shell(*RUN)
    tiny_shell("check", "--save", "held.json", "--suite", "classification")
    tiny_shell.install("plug", other, PLUG)
    tiny_shell(*RUN)
    tiny_shell.install("plug", first, PLUG)
    assert "0 of 1 runs to be made" in tiny_shell(*RUN).stdout
    tiny_shell("check", "--baseline", "held.json")


def test_a_page_without_a_name_is_wrong_use(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "b.json").write_bytes(encode_snapshot(held(runs())))
    shell("run", "--suite", "classification", "--scale", "smoke", "--tasks", "none", status=2)
    (tmp_path / "apo-bench-results" / "runs").mkdir(parents=True, exist_ok=True)
    done = shell("check", "--baseline", "b.json", "--output", "", status=2)
    assert "name another place with --output" in done.stderr
