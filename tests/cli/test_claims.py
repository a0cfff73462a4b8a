"""`apo-bench claims`: verdicts with what they rest on, on a terminal, as a page and as JSON."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import msgspec
import pytest
from support.hostile_records import write
from support.records import record

from apo_bench.cli.main import main
from apo_bench.records.run import RunRecord
from apo_bench.records.schedules import Step
from apo_bench.records.spec import Scale
from apo_bench.store.store import Store

Command = Callable[..., tuple[int, str, str]]
LENET = "fashion-mnist-20k.lenet"
HOSTILE = "a|b<script>\x1b[2J\n# x"


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command in this process: its status and what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["claims", *arguments, "--store", "store"])
        return status, *capsys.readouterr()

    return run


def scored(name: str, suite: str, centre: float, *, task: str = LENET, decays: bool = False) -> list[RunRecord]:
    """Five runs at scale local."""
    made = []
    for seed in range(5):
        one = record(name, seed, centre + 0.1 * seed, task=task, interval=10, meta_share=1.0)
        optimizer = msgspec.structs.replace(one.spec.optimizer, schedule=Step()) if decays else one.spec.optimizer
        spec = msgspec.structs.replace(one.spec, optimizer=optimizer)
        made.append(one.under(suite=suite, scale=Scale.LOCAL, spec=spec))
    return made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """C1 is contradicted and C2 not judged, by SGDm; C3 is supported on one task, and cannot be judged on the other."""
    made = Store(tmp_path / "store", create=True)
    records = [
        *scored("sgdm", "lr-adaptation", 85.0),
        *scored("sgdm", "lr-adaptation", 90.0, decays=True),
        *scored("apo-lr-sgdm", "lr-adaptation", 84.0),
        *(scored("sgdm", "classification", 85.0) + scored("kfac", "classification", 88.0)),
        *scored("apo-p", "classification", 88.5),
        *scored("sgdm", "classification", 85.0, task=HOSTILE),
        *scored("kfac", "classification", 85.0, task=HOSTILE),
        *scored("apo-p", "classification", 85.0, task=HOSTILE),
    ]
    with mock.patch("os.fsync"):
        assert all(write(made, one) for one in records)
    return made


@pytest.mark.usefixtures("store")
def test_verdicts_stand_first_and_fit_the_terminal(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    status, out, _ = command("--scale", "local")
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80
    said = dict(re.findall(r"^(C\d) ([a-z ]+) \(", out, flags=re.MULTILINE))
    assert said == {
        "C1": "contradicted",
        "C2": "contradicted",
        "C3": "supported",
        "C4": "not judged",
        "C5": "not judged",
    }
    flat = " ".join(out.split())
    assert "C1 contradicted (of 4 places: 1 contradicted, 3 without runs): APO-LR beats the best fixed" in flat
    assert "precondition step decay beats the best fixed rate by more than 0.5: +5.00 [" in flat
    assert "precondition KFAC beats SGDm by more than 0.5: +0.00 [" in flat
    assert "apo-bench run --suite low-precision --scale local" in out
    assert "\x1b" not in out
    assert out.startswith("C1 contradicted")
    assert "Suite classification: 3 cells are of another version of the code" in flat


@pytest.mark.usefixtures("store")
def test_the_page_and_the_json_say_the_same(command: Command, tmp_path: Path) -> None:
    status, page, _ = command("--scale", "local")
    assert status == 0
    assert page.startswith("# Claims of the paper, scale local\n")
    assert "\n## C3: supported (of 8 places: 1 supported, 1 not judged, 6 without runs)\n" in page
    rows = [line for line in page.splitlines() if line.startswith("| fashion-mnist-20k.lenet, cpu, fp32")]
    assert len(rows) == 3 + 6  # C1, C2 and C3 each, and three costs of two pairs
    assert "<script>" not in page
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in page.splitlines() if line.startswith("|")} == {5, 7}
    assert command("--scale", "local", "--output", "page.md")[:2] == (0, "page.md\n")
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == page.removesuffix("\n")
    status, out, _ = command("--scale", "local", "--json")
    told = json.loads(out)
    assert (status, told["scale"]) == (0, "local")
    assert {one["id"]: one["verdict"] for one in told["claims"]} == dict(
        re.findall(r"^## (C\d): ([a-z ]+) \(", page, flags=re.MULTILINE)
    )
    places = told["claims"][2]["places"]
    assert {place["task"]: place["verdict"] for place in places} == {LENET: "supported", HOSTILE: "not judged"}
    assert places[0]["estimate"]["value"] == pytest.approx(0.5)
    assert places[0]["precondition"]["estimate"]["value"] == pytest.approx(3.0)
    assert places[0]["estimate"]["family"] == 8


def test_without_runs_the_command_that_makes_them_is_named(command: Command, tmp_path: Path) -> None:
    status, _, err = command()
    assert (status, "run `apo-bench run --suite lr-adaptation --scale study`" in err) == (2, True)
    Store(tmp_path / "store", create=True)
    status, page, _ = command()
    assert status == 0
    assert "No runs decide a claim at scale study in store. " in page
    assert page.count("not judged (of") == 10
    for suite in ("lr-adaptation", "classification", "low-precision", "ablations"):
        assert f"\napo-bench run --suite {suite} --scale study\n" in page


@pytest.mark.usefixtures("store")
def test_another_scale_with_runs_is_named_and_an_unknown_one_refused(command: Command) -> None:
    assert "there are results at scale local (--scale)" in command()[1]
    status, _, err = command("--scale", "locale")
    assert (status, "did you mean 'local'" in err) == (2, True)
    status, _, err = command("--output", "none/page.md")
    assert (status, "cannot write none/page.md" in err) == (2, True)
