"""The filter between records and statements: one code, one machine, and what is left out is said."""

import csv
import io
from pathlib import Path

import msgspec
import pytest
from support.hostile_records import write
from support.records import MADE_ON, PRINT, flat, record

from apo_bench.cli.main import main
from apo_bench.evidence.cells import ANY_DATA, Installed, Machine, Made, cells
from apo_bench.evidence.costs import Costs
from apo_bench.evidence.leaderboard import leaderboard
from apo_bench.evidence.step_costs import Probes
from apo_bench.planning.installed import InstalledCode
from apo_bench.plugins.registry import optimizers, tasks
from apo_bench.records.outcome import Crashed, Diverged, Failed, Outcome, Reason
from apo_bench.records.run import Role, RunRecord
from apo_bench.records.spec import Device, Scale
from apo_bench.render.leaderboard import leaderboard_markdown, leaderboard_text
from apo_bench.store.store import Store

CPU = Device.CPU


def made(
    optimizer: str, seed: int, test: float | None, code: str, *, outcome: Outcome | None = None, machine: str = "a"
) -> RunRecord:
    """A record made with some version of the harness on some machine."""
    one = record(optimizer, seed, test, outcome=outcome)
    one = one.under(fingerprint=msgspec.structs.replace(PRINT, harness=code))
    return msgspec.structs.replace(one, environment=msgspec.structs.replace(MADE_ON, device_name=machine))


def installed(code: str) -> Installed:
    return lambda _: msgspec.structs.replace(PRINT, harness=code, data=ANY_DATA)


def scores(records: list[RunRecord], code: Installed | None = None) -> dict[str, dict[int, float]]:
    return {runs.cell.optimizer.name: runs.tests for runs in cells(records, "s", Scale.LOCAL, code=code).cells}


def test_after_a_version_was_tried_and_taken_back_its_values_are_gone() -> None:
    records = [made("adam", seed, 80.0, "good") for seed in range(3)] + [made("adam", 0, 10.0, "bad")]
    assert scores(records, installed("good")) == {"adam": {0: 80.0, 1: 80.0, 2: 80.0}}
    board = leaderboard("s", Scale.LOCAL, records, (), installed("good"))
    assert board.provenance == ()
    assert "†" not in leaderboard_markdown(board)


def test_a_cell_is_never_of_two_versions() -> None:
    """Without the code, the newest result decides; with code that it was not made with, it does too, and is marked."""
    records = [made("adam", 0, 80.0, "one"), made("adam", 1, 70.0, "two"), made("adam", 2, 60.0, "three")]
    assert scores(records) == {"adam": {2: 60.0}}
    assert scores(records, installed("two")) == {"adam": {1: 70.0}}
    held = cells(records, "s", Scale.LOCAL, code=installed("four"))
    (runs,) = held.cells
    assert (runs.made, runs.tests, runs.left_out, held.left_out) == (Made.OTHER, {2: 60.0}, 2, 2)
    board = leaderboard("s", Scale.LOCAL, records, (), installed("four"))
    for page in (leaderboard_markdown(board), leaderboard_text(board)):
        assert "adam †" in page
        assert "2 runs left out" in " ".join(page.split())
        assert "1 run in rows marked †" in " ".join(page.split())


def test_rows_of_two_versions_are_not_compared() -> None:
    records = [made("sgdm", seed, 80.0 + seed, "old") for seed in range(3)]
    records += [made("adam", seed, 90.0 + 1.01 * seed, "new") for seed in range(3)]
    adam, sgdm = leaderboard("s", Scale.LOCAL, records, (), installed("new")).sections[0].rows
    assert (adam.is_outdated, sgdm.is_outdated) == (False, True)
    assert adam.versus_reference is None
    same = [one.under(fingerprint=PRINT) for one in records]
    assert leaderboard("s", Scale.LOCAL, same).sections[0].rows[0].versus_reference is not None


def test_another_optimizer_s_code_is_no_other_ground() -> None:
    def of(name: str) -> list[RunRecord]:
        own = msgspec.structs.replace(PRINT, optimizer=name)
        return [record(name, seed, 80.0 + seed).under(fingerprint=own) for seed in range(3)]

    rows = leaderboard("s", Scale.LOCAL, of("sgdm") + of("adam")).sections[0].rows
    assert [row.versus_reference is None for row in rows] == [row.competitor == "sgdm" for row in rows]


def test_a_result_of_other_data_is_another_cell_s() -> None:
    other = made("adam", 1, 10.0, "h").under(fingerprint=msgspec.structs.replace(PRINT, data="other"))
    records = [other, made("adam", 0, 80.0, "h")]
    assert scores(records, installed("h")) == {"adam": {0: 80.0}}
    assert scores(records[::-1], installed("h")) == {"adam": {1: 10.0}}


@pytest.mark.parametrize("outcome", [Failed(step=1, message="boom"), Diverged(step=1, reason=Reason.TEST)])
def test_no_result_of_earlier_code_stands_in_for_today_s_failure(outcome: Outcome) -> None:
    records = [made("adam", 0, 80.0, "old"), made("adam", 0, None, "new", outcome=outcome)]
    (runs,) = cells(records, "s", Scale.LOCAL, code=installed("new")).cells
    assert (runs.made, runs.tests, runs.has_mean) == (Made.INSTALLED, {}, False)


def test_a_crash_of_the_machine_says_nothing_of_the_competitor() -> None:
    crash = made("adam", 0, None, "new", outcome=Crashed(message="killed"))
    (runs,) = cells([made("adam", 0, 80.0, "old"), crash], "s", Scale.LOCAL, code=installed("new")).cells
    assert (runs.made, runs.tests) == (Made.OTHER, {0: 80.0})
    (runs,) = cells([crash], "s", Scale.LOCAL, code=installed("new")).cells
    assert (runs.results, runs.failures) == ((), (crash,))


def test_a_result_is_preferred_to_a_later_failure_of_the_same_code() -> None:
    crash = made("adam", 0, None, "h", outcome=Crashed(message="killed"))
    (runs,) = cells([made("adam", 0, 80.0, "h"), crash], "s", Scale.LOCAL).cells
    assert runs.tests == {0: 80.0}


def test_times_are_of_one_machine_and_scores_of_all() -> None:
    records = [made("adam", seed, 80.0, "h", machine="slow" if seed == 9 else "fast") for seed in (0, 1, 9)]
    held = cells(records, "s", Scale.LOCAL)
    (runs,) = held.cells
    costs = Costs.of(runs, Probes())
    assert held.machines == {CPU: Machine("fast", 1)}
    assert len(runs.tests) == 3
    assert [one.spec.seed for one in costs.clocked] == [0, 1]
    assert (runs.elsewhere, held.elsewhere) == (1, {"slow, 1 thread": 1})
    page = leaderboard_markdown(leaderboard("s", Scale.LOCAL, records))
    assert "only the scores count of slow, 1 thread (1 run)" in page
    (chosen,) = cells(records, "s", Scale.LOCAL, machine=Machine("slow", 1)).cells
    assert [one.spec.seed for one in chosen.timed] == [9]


def test_a_cell_from_another_machine_has_scores_and_no_times() -> None:
    records = [made("sgdm", seed, 80.0, "h") for seed in range(2)] + [made("adam", 0, 81.0, "h", machine="b")]
    sgdm, adam = leaderboard("s", Scale.LOCAL, records).sections[0].rows  # one seed makes no order
    assert (adam.score is not None, adam.step_ms, adam.peak_memory_bytes) == (True, None, None)
    assert sgdm.step_ms == 4.5
    assert adam.state_bytes == 2048  # counted, and no clock's matter


def test_of_as_many_results_the_later_machine_counts() -> None:
    records = [made("adam", 0, 80.0, "h", machine="a"), made("adam", 1, 80.0, "h", machine="b")]
    assert cells(records, "s", Scale.LOCAL).machines == {CPU: Machine("b", 1)}


def test_one_probe_fits_a_cell() -> None:
    """That of its code on its machine: another machine's run, the newest, has no say."""
    probe = flat()
    runs = [msgspec.structs.replace(record("x", seed, 80.0), environment=MADE_ON) for seed in range(2)]
    other = msgspec.structs.replace(MADE_ON, device_name="another")
    runs.append(msgspec.structs.replace(record("x", 2, 80.0), environment=other))
    (row,) = leaderboard("s", Scale.LOCAL, runs, [probe]).sections[0].rows
    assert row.step is not None
    assert row.step.ratio == pytest.approx(2.0)


def test_runs_that_try_settings_are_of_one_version_too() -> None:
    tries = [record("adam", 100, 80.0 + lr, lr=lr) for lr in (0.1, 1.0)]
    stale = [one.under(fingerprint=msgspec.structs.replace(PRINT, harness="old")) for one in tries]
    held = cells([*tries, stale[0]], "s", Scale.LOCAL, code=lambda _: PRINT)
    assert all(one.role is Role.TUNING for one in held.tries)
    assert held.tries == tuple(tries)


@pytest.mark.parametrize("name", ["../../etc", "a|b`", "名前", "\u202eevil\x1b[2J", "x" * 900])
def test_hostile_names_are_cells_like_others(name: str) -> None:
    one = made(name, 0, 80.0, "old", machine=f"{name}\n# heading")
    records = [one, made(name, 1, 70.0, "new", machine=name)]
    page = leaderboard_markdown(leaderboard("s", Scale.LOCAL, records, (), installed("third")))
    assert "\n# heading" not in page
    assert "\x1b" not in page
    assert "1 run left out" in page


def test_nothing_is_a_suite_without_cells() -> None:
    held = cells([], "s", Scale.LOCAL)
    assert (held.cells, held.records, held.machines, held.left_out) == ((), (), {}, 0)
    assert cells([record("adam", 0, 1.0)], "other", Scale.LOCAL).cells == ()


@pytest.fixture
def taken_back(tmp_path: Path) -> Path:
    """A store in which the installed code made 80, and a version that is newer and gone made 10."""
    one = record("sgdm", 0, 80.0, task="concrete.mlp").under(suite="regression")
    present = InstalledCode(tasks(), optimizers())(one.spec)
    assert present is not None
    store = Store(tmp_path / "store", create=True)
    good = one.under(fingerprint=msgspec.structs.replace(present, data="d"))
    bad = record("sgdm", 0, 10.0, task="concrete.mlp").under(
        suite="regression", fingerprint=msgspec.structs.replace(present, data="d", harness="bad")
    )
    assert write(store, good)
    assert write(store, bad)
    return store.path


def test_report_and_export_show_the_installed_code(taken_back: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--suite", "regression", "--store", str(taken_back)]) == 0
    page = capsys.readouterr().out
    assert "80.00" in page
    assert "10.00" not in page
    assert main(["export", "--store", str(taken_back)]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row["value"], row["is_installed_code"], row["hyperparameter_lr"]) == ("80.0", "True", "0.1")
    assert row["code_harness"] != "bad"
    assert row["role"] == "reported"
