"""Grids: the best setting by validation on a seed that reports nothing, chosen and used by one command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from shell import Shell, optimizer_plugin
from test_leaderboard import FACTS, record
from test_values import Knobs, _no_build

from apo_bench.errors import UsageError
from apo_bench.evidence.leaderboard import leaderboard, planned_leaderboard
from apo_bench.evidence.tuning import GridSearch, Tuned, last_validation, searches_of, tune
from apo_bench.planning.grid import Waiting, tuning_points, unroll
from apo_bench.plugins.optimizer import Competitor
from apo_bench.records.events import CurvePoint
from apo_bench.records.outcome import Crashed, Diverged, Outcome, Reason
from apo_bench.records.run import Direction, RunRecord
from apo_bench.records.schedules import Constant, Step
from apo_bench.records.spec import Device, Precision, RunSpec, Scalar, Scale
from apo_bench.records.suite import TUNING_SEED, OptimizerEntry, Suite, TaskEntry
from apo_bench.render.figures import drawings
from apo_bench.render.leaderboard import leaderboard_markdown
from apo_bench.suites import SUITES, suite
from apo_bench.suites.lr_adaptation import GRID

COMPETITOR = Competitor(Knobs, _no_build, in_precision={Precision.FP16: {"interval": 20}})


def _suite(*competitors: OptimizerEntry, **fields: Any) -> Suite:
    return Suite(
        name="s",
        scale=Scale.SMOKE,
        title="S",
        tasks=fields.pop("tasks", (TaskEntry(task="a", epochs=2, seeds=(0, 1)),)),
        optimizers=competitors,
        precisions=fields.pop("precisions", (Precision.FP32,)),
        **fields,
    )


def _unrolled(chosen: Suite) -> list[Waiting]:
    found = unroll(chosen, {"o": COMPETITOR}, Device.CPU).runs
    assert all(isinstance(run, Waiting) for run in found)
    return [run for run in found if isinstance(run, Waiting)]


GRIDDED = OptimizerEntry(optimizer="o", overrides={"nesterov": True}, grid={"lr": (1, 0.1, 0.3)})


def test_a_grid_is_tried_on_the_tuning_seed_at_a_constant_schedule_with_the_same_budget_and_precision() -> None:
    stepped = msgspec.structs.replace(GRIDDED, schedule=Step())
    waiting = _unrolled(_suite(stepped, precisions=(Precision.FP32, Precision.FP16)))
    assert [(run.first.seed, run.first.precision) for run in waiting] == [
        (0, Precision.FP32),
        (0, Precision.FP16),
        (1, Precision.FP32),
        (1, Precision.FP16),
    ]
    for run in waiting:
        assert [point.optimizer.hyperparameters["lr"] for point in run.search.points] == [0.1, 0.3, 1.0]
        for point in run.search.points:
            assert point.seed == TUNING_SEED
            assert point.optimizer.schedule == Constant()
            assert point.precision == run.first.precision
            assert point.budget == run.first.budget
        chosen = run.at(run.search.points[1])
        assert chosen.optimizer.hyperparameters == run.search.points[1].optimizer.hyperparameters
        assert (chosen.seed, chosen.optimizer.schedule) == (run.first.seed, Step())


def test_entries_with_the_same_grid_share_its_runs_and_others_do_not() -> None:
    stepped = msgspec.structs.replace(GRIDDED, schedule=Step())
    other = msgspec.structs.replace(GRIDDED, overrides={})
    assert len({run.search.key for run in _unrolled(_suite(GRIDDED, stepped))}) == 1
    assert len({run.search.key for run in _unrolled(_suite(GRIDDED, other))}) == 2
    entry = TaskEntry(task="a", epochs=2)
    assert tuning_points(entry, (GRIDDED, stepped)) == {"o": 3}
    assert tuning_points(entry, (GRIDDED, other)) == {"o": 6}


def test_a_grid_of_two_hyperparameters_has_every_combination() -> None:
    both = OptimizerEntry(optimizer="o", grid={"lr": (0.1, 0.2), "interval": (1, 2, 3)})
    (first, *_) = _unrolled(_suite(both))
    assert len(first.search.points) == 6
    assert first.search.grid == {"lr": (0.1, 0.2), "interval": (1, 2, 3)}


def test_what_the_task_sets_is_not_searched() -> None:
    fixed = TaskEntry(task="a", epochs=2, overrides={"o": {"lr": 0.5}})
    (run,) = unroll(_suite(GRIDDED, tasks=(fixed,)), {"o": COMPETITOR}, Device.CPU).runs
    assert isinstance(run, RunSpec)
    assert run.optimizer.hyperparameters["lr"] == 0.5
    assert tuning_points(fixed, (GRIDDED,)) == {}


def test_a_grid_is_a_choice() -> None:
    with pytest.raises(ValueError, match=r"o.lr: a grid needs two values or more"):
        OptimizerEntry(optimizer="o", grid={"lr": (0.1, 0.1)})
    with pytest.raises(ValueError, match=r"o.lr is set to 0.1 and has a grid; drop one"):
        OptimizerEntry(optimizer="o", overrides={"lr": 0.1}, grid={"lr": (0.1, 0.2)})


def test_no_suite_reports_on_its_tuning_seed() -> None:
    with pytest.raises(UsageError, match="seed 1 is the tuning seed of suite 's'"):
        _suite(GRIDDED, tuning_seed=1)
    for name in SUITES:
        for scale in Scale:
            chosen = suite(name, scale)
            assert all(chosen.tuning_seed not in entry.seeds for entry in chosen.tasks)


def _search(rates: tuple[float, ...] = (0.1, 0.2, 0.3)) -> GridSearch:
    return GridSearch.of(record("o", TUNING_SEED, None, lr=rate).spec for rate in rates)


def _tried(rate: float, *validations: float, outcome: Outcome | None = None, **fields: Any) -> RunRecord:
    """A tuning run of two epochs with ten steps each that is evaluated twice an epoch; its test score is the rate's."""
    made = record("o", TUNING_SEED, 100 * rate, lr=rate, outcome=outcome, **fields)
    assert made.spec.budget.steps(FACTS.steps_per_epoch) == 10 * made.spec.budget.epochs
    count = 2 * int(made.spec.budget.epochs)
    places = range(count - len(validations) + 1, count + 1)
    curve = tuple(
        CurvePoint(
            step=5 * place,
            epoch=place / 2,
            seconds=1.0,
            train_loss=1.0,
            validation_loss=1.0,
            validation=value,
            learning_rate_factor=1.0,
        )
        for place, value in zip(places, validations, strict=True)
    )
    return msgspec.structs.replace(made, curve=curve)


def _tune(*records: RunRecord, rates: tuple[float, ...] = (0.1, 0.2, 0.3), final: bool = False) -> Tuned:
    return tune(_search(rates), {one.run_id: one for one in records}, final=final)


def _rate(tuned: Tuned) -> Scalar:
    assert tuned.chosen is not None
    return tuned.chosen.optimizer.hyperparameters["lr"]


def test_the_choice_is_by_validation_and_not_by_test() -> None:
    tuned = _tune(_tried(0.1, 80.0, 80.0), _tried(0.2, 90.0, 90.0), _tried(0.3, 85.0, 85.0))  # test: 10, 20, 30
    assert _rate(tuned) == 0.2
    assert tuned.validation == 90.0
    assert tuned.ends == ()


def test_the_choice_is_by_the_last_epochs_mean_and_not_by_the_best_of_the_curve() -> None:
    spiky = _tried(0.1, 99.0, 70.0, 80.0, 90.0)
    assert last_validation(spiky) == 85.0
    assert _rate(_tune(spiky, _tried(0.2, 86.0, 86.0), _tried(0.3, 10.0, 99.0))) == 0.2


def test_of_equal_ones_the_smaller_value_wins() -> None:
    assert _rate(_tune(*(_tried(rate, 50.0) for rate in (0.3, 0.2, 0.1)))) == 0.1


def test_less_is_better_where_the_metric_says_so() -> None:
    facts = msgspec.structs.replace(FACTS, direction=Direction.MINIMIZE)
    tuned = _tune(*(_tried(rate, value, facts=facts) for rate, value in ((0.1, 3.0), (0.2, 1.0), (0.3, 2.0))))
    assert _rate(tuned) == 0.2


def test_a_diverged_run_never_wins() -> None:
    diverged = _tried(0.3, 99.0, 99.0, outcome=Diverged(step=7, reason=Reason.TRAINING_LOSS))
    tuned = _tune(_tried(0.1, 50.0), _tried(0.2, 60.0), diverged)
    assert _rate(tuned) == 0.2
    assert tuned.diverged == 1
    assert tuned.line.endswith(": 60 (1 diverged)")


def test_where_all_diverged_there_is_no_choice() -> None:
    tuned = _tune(*(_tried(rate, outcome=Diverged(step=1, reason=Reason.TRAINING_LOSS)) for rate in (0.1, 0.2, 0.3)))
    assert tuned.is_final
    assert tuned.chosen is None
    assert "none has a validation accuracy (%) on seed 100 (3 diverged)" in tuned.line


def test_a_choice_waits_for_every_point_unless_they_are_given_up() -> None:
    found = (_tried(0.1, 50.0), _tried(0.2, 60.0))
    assert _tune(*found).chosen is None
    assert "to be chosen on seed 100 (2 of 3 tuning runs done)" in _tune(*found).line
    assert _rate(_tune(*found, final=True)) == 0.2
    failed = _tried(0.3, outcome=Crashed(message="no"))
    assert _rate(_tune(*found, failed)) == 0.2


@pytest.mark.parametrize(("best", "ends"), [(0.1, ("lr",)), (0.2, ()), (0.3, ("lr",))])
def test_an_end_of_the_grid_is_named(best: float, ends: tuple[str, ...]) -> None:
    tuned = _tune(*(_tried(rate, 60.0 if rate == best else 50.0) for rate in (0.1, 0.2, 0.3)))
    assert tuned.ends == ends
    assert ("lr at an end of the grid" in tuned.line) == bool(ends)


def test_words_have_no_ends() -> None:
    points = [record("o", TUNING_SEED, None, structure=word).spec for word in ("tril", "full")]
    search = GridSearch.of(points)
    assert search.grid == {"structure": ("full", "tril")}
    assert search.ends(points[0]) == ()


def test_tuning_runs_are_in_no_cell_and_no_figure_and_the_page_says_what_they_chose() -> None:
    tries = [_tried(0.1, 50.0), _tried(0.2, 60.0), _tried(0.3, 55.0)]
    reported = [record("o", seed, 70.0, lr=0.2) for seed in (0, 1)]
    name, scale = reported[0].suite, reported[0].scale
    board = leaderboard(name, scale, [*tries, *reported])
    ((row,),) = (section.rows for section in board.sections)
    assert (row.competitor, row.results) == ("o", 2)
    assert row.score is not None
    assert row.score.mean == 70.0
    (tuned,) = board.tuned
    assert _rate(tuned) == 0.2
    page = leaderboard_markdown(board)
    assert "lr = 0.2 of 0.1, 0.2, 0.3; best validation accuracy (%) on seed 100: 60" in page
    assert not list(drawings(name, scale, tries))
    planned = planned_leaderboard(name, scale, [*tries, *reported], [one.spec for one in reported], board.tuned)
    assert planned.tuned == board.tuned
    assert [section.rows[0].results for section in planned.sections] == [2]


def test_searches_are_found_among_the_runs() -> None:
    tries = [_tried(rate, 50.0) for rate in (0.3, 0.1, 0.2)]
    other = [record("p", TUNING_SEED, 1.0, lr=rate) for rate in (1.0, 2.0)]
    alone = record("q", TUNING_SEED, 1.0, lr=1.0)
    assert [search.key for search in searches_of([*other, *tries, alone])] == [
        _search().key,
        GridSearch.of(one.spec for one in other).key,
    ]


def test_at_paper_every_fixed_rate_is_tuned_and_at_local_none() -> None:
    for entry in suite("lr-adaptation", Scale.PAPER).tasks:
        for declared in entry.optimizers:
            assert declared.grid == ({"lr": GRID[declared.optimizer]} if declared.optimizer in GRID else {})
    assert not any(declared.grid for declared in suite("lr-adaptation", Scale.LOCAL).all_competitors())
    tuned = {d.optimizer for d in suite("lr-adaptation", Scale.SMOKE).all_competitors() if d.grid}
    assert tuned == {"sgdm"}


DRIVER = """
import sys
from apo_bench import suites
from apo_bench.cli.main import main
from apo_bench.records.schedules import Step
from apo_bench.records.spec import Precision
from apo_bench.records.suite import OptimizerEntry, Suite, TaskEntry


def gridded(scale):
    grid = {GRID}
    return Suite(
        name="gridded",
        scale=scale,
        title="A grid on the task tiny",
        tasks=(TaskEntry(task="tiny", epochs=2, seeds=(0, 1)),),
        optimizers=(
            OptimizerEntry(optimizer="NAME", grid=grid),
            OptimizerEntry(optimizer="NAME", grid=grid, schedule=Step()),
            OptimizerEntry(optimizer="adam"),
        ),
        precisions=(Precision.FP32,),
    )


if __name__ == "__main__":
    suites.SUITES["gridded"] = gridded
    sys.exit(main())
"""
RUN = ("run", "--suite", "gridded", "--scale", "smoke")


class Gridded:
    """The command line with a suite ``gridded``: an optimizer with a grid at two schedules, and another without."""

    def __init__(self, shell: Shell, optimizer: str, grid: str) -> None:
        self.shell = shell
        source = DRIVER.replace("{GRID}", grid).replace("NAME", optimizer)
        (shell.folder / "driver.py").write_text(source, encoding="utf-8")

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "driver.py", *RUN, *arguments],
            cwd=self.shell.folder,
            env=self.shell.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __call__(self, *arguments: str, status: int = 0) -> tuple[str, str]:
        process = self.start(*arguments)
        output, errors = process.communicate(timeout=200)
        assert process.returncode == status, f"{output}\n{errors}"
        return output, errors

    @property
    def records(self) -> list[dict[str, Any]]:
        paths = (self.shell.folder / "apo-bench-results").glob("runs/*/record.json")
        found = [json.loads(path.read_bytes()) for path in paths]
        return sorted(found, key=lambda one: str(one["finished_at"]))

    def rates(self, *, tuning: bool) -> list[float]:
        return [
            one["intent"]["spec"]["optimizer"]["hyperparameters"]["lr"]
            for one in self.records
            if (one["intent"]["role"] == "tuning") == tuning and one["intent"]["spec"]["optimizer"]["name"] != "adam"
        ]


def test_one_command_chooses_and_runs_and_the_same_command_reuses_it(tiny_shell: Shell) -> None:
    gridded = Gridded(tiny_shell, "sgdm", '{"lr": (1e-5, 0.03, 1e30)}')
    output, errors = gridded()
    assert "9 of 9 runs to be made" in output
    assert "3 of them are tuning runs, for which 4 others wait" in output
    assert gridded.rates(tuning=True) == [1e-5, 0.03, 1e30]  # shared by both schedules
    assert gridded.rates(tuning=False) == [0.03] * 4
    assert "[9/9]" in output
    assert "lr = 0.03 of 1e-05, 0.03, 1e+30" in output
    assert "6 of 6 runs have a result." in output
    assert errors == ""
    page = next((tiny_shell.folder / "apo-bench-results" / "leaderboards").iterdir()).read_text(encoding="utf-8")
    assert "lr = 0.03 of 1e-05, 0.03, 1e+30; best validation accuracy (%) on seed 100" in page
    assert "(1 diverged)" in page
    assert page.count("| sgdm") == 2  # at two schedules, and no row for what was tried

    output, _ = gridded()
    assert "0 of 9 runs to be made" in output
    assert len(gridded.records) == 9


def test_where_no_point_of_a_grid_works_its_runs_are_not_made(tiny_shell: Shell) -> None:
    gridded = Gridded(tiny_shell, "sgdm", '{"lr": (1e30, 1e31)}')
    output, errors = gridded(status=1)
    assert gridded.rates(tuning=False) == []
    assert len(gridded.records) == 2 + 2  # Adam's runs are made
    assert "2 of 2 runs have a result." in output
    (line,) = errors.splitlines()
    assert "none has a validation accuracy (%) on seed 100 (2 diverged)" in line
    assert "its reported runs (4) are not made, give --set sgdm.lr=VALUE" in line
    output, errors = gridded(status=1)
    assert "0 of 8 runs to be made" in output
    assert len(errors.splitlines()) == 1
    plan = json.loads(gridded("--plan", "--json")[0])
    assert [run["run_id"] for run in plan["runs"] if run["optimizer"] == "sgdm"] == [None] * 4


def test_a_tuning_run_that_fails_is_tried_again_and_the_choice_is_among_the_others(tiny_shell: Shell) -> None:
    fails = ["if float(self.optimizer.param_groups[0]['lr']) > 0.5: raise ValueError('too fast')"]
    tiny_shell.install("plug", optimizer_plugin(fails), "[apo_bench.optimizers]\nplug = plug:plug\n")
    gridded = Gridded(tiny_shell, "plug", '{"lr": (1e-5, 0.1, 1.0)}')
    output, errors = gridded(status=1)
    assert gridded.rates(tuning=False) == [0.1] * 4
    assert "(1 failed)" in output
    assert "1 runs failed, the first: tiny plug fp32 seed 100: ValueError: too fast" in errors
    output, _ = gridded(status=1)
    assert "5 of 9 runs to be made" in output  # the failed one, for which the choice waits
    assert len(gridded.records) == 9 + 1


def test_a_choice_at_an_end_of_the_grid_is_one_line_on_stderr(tiny_shell: Shell) -> None:
    gridded = Gridded(tiny_shell, "sgdm", '{"lr": (1e-6, 1e-5, 0.03)}')
    _, errors = gridded()
    (line,) = errors.splitlines()
    assert "lr = 0.03 of 1e-06, 1e-05, 0.03" in line
    assert "lr at an end of the grid: a better may lie beyond; widen the grid, or give --set sgdm.lr=VALUE" in line
    assert gridded("--plan")[1] == errors


def test_a_set_value_replaces_the_grid(tiny_shell: Shell) -> None:
    gridded = Gridded(tiny_shell, "sgdm", '{"lr": (1e-5, 0.03)}')
    output, errors = gridded("--set", "sgdm.lr=0.1", "--seeds", "0")
    assert "3 of 3 runs to be made" in output
    assert "tuning" not in output + errors
    assert gridded.rates(tuning=True) == []
    assert gridded.rates(tuning=False) == [0.1, 0.1]


def test_the_tuning_seed_is_refused_among_the_seeds(tiny_shell: Shell) -> None:
    done = tiny_shell("run", "--suite", "lr-adaptation", "--scale", "smoke", "--seeds", "99-101", status=2)
    assert done.stdout == ""
    assert done.stderr == (
        "apo-bench: seed 100 is the tuning seed of suite 'lr-adaptation', on which settings are chosen and nothing is "
        "reported; leave it out of --seeds\n"
    )


def test_grids_that_overlap_share_the_runs_they_have_in_common(tiny_shell: Shell) -> None:
    gridded = Gridded(tiny_shell, "sgdm", '{"lr": (1e-5, 0.03)}')
    driver = tiny_shell.folder / "driver.py"
    stepped = 'OptimizerEntry(optimizer="sgdm", grid=grid, schedule'
    source = driver.read_text(encoding="utf-8")
    assert stepped in source
    driver.write_text(
        source.replace(stepped, stepped.replace("grid=grid", 'grid={"lr": (0.03, 1.0)}')), encoding="utf-8"
    )
    output, _ = gridded("--plan")
    assert "9 of 9 runs to be made" in output
    assert "3 of them are tuning runs, for which 4 others wait" in output


@pytest.mark.slow
def test_a_plan_names_the_tuning_runs_what_waits_for_them_and_later_what_they_chose(tiny_shell: Shell) -> None:
    gridded = Gridded(tiny_shell, "sgdm", '{"lr": (1e-5, 0.03, 1.0)}')
    output, _ = gridded("--plan")
    assert not (tiny_shell.folder / "apo-bench-results").exists()
    assert "sgdm (3 points)" in output
    assert "100 (tuning)" in output
    assert "9 of 9 runs to be made" in output
    assert "tuning sgdm on tiny, fp32, 2 epochs: lr of 1e-05, 0.03, 1.0, to be chosen on seed 100" in output

    plan = json.loads(gridded("--plan", "--json")[0])
    (tuning,) = plan["tuning"]
    assert tuning["grid"] == {"lr": [1e-5, 0.03, 1.0]}
    assert tuning["chosen"] is None
    assert [run["hyperparameters"]["lr"] for run in tuning["runs"]] == [1e-5, 0.03, 1.0]
    waiting = [run for run in plan["runs"] if run["run_id"] is None]
    assert len(waiting) == 4
    assert all(run["waits_for"] == [point["run_id"] for point in tuning["runs"]] for run in waiting)
    assert all("lr" not in run["hyperparameters"] for run in waiting)
    assert [(cell["optimizer"], cell["tuning"], cell["runs"]) for cell in plan["cells"]] == [
        ("sgdm", True, 3),
        ("sgdm", False, 4),
        ("adam", False, 2),
    ]

    gridded("--seeds", "0")
    later = json.loads(gridded("--plan", "--json")[0])
    rate = later["tuning"][0]["chosen"]["lr"]
    assert rate in {0.03, 1.0}
    runs = [
        (run["seed"], run["hyperparameters"]["lr"], run["done"]) for run in later["runs"] if run["optimizer"] == "sgdm"
    ]
    assert runs == [(0, rate, True), (0, rate, True), (1, rate, False), (1, rate, False)]
    output, _ = gridded("--plan")
    assert f"tuning sgdm on tiny, fp32, 2 epochs: lr = {rate} of 1e-05, 0.03, 1.0" in output
    assert "3 of 9 runs to be made" in output
    assert "wait" not in output


def _wait_for(folder: Path, runs: int) -> None:
    end = time.monotonic() + 100.0
    while time.monotonic() < end:
        if len(list(folder.glob("runs/*/record.json"))) >= runs and list(folder.glob("active/*/events.jsonl")):
            return
        time.sleep(0.05)
    raise AssertionError("waited in vain")


SLOW = ["time.sleep(0.03)"]


@pytest.mark.slow
@pytest.mark.parametrize("finished", [1, 2], ids=["in tuning", "after tuning"])
def test_a_killed_command_takes_up_the_grid_where_it_was(tiny_shell: Shell, finished: int) -> None:
    tiny_shell.install("plug", optimizer_plugin(SLOW), "[apo_bench.optimizers]\nplug = plug:plug\n")
    gridded = Gridded(tiny_shell, "plug", '{"lr": (1e-5, 0.1)}')
    process = gridded.start()
    _wait_for(tiny_shell.folder / "apo-bench-results", finished)
    process.kill()
    process.communicate(timeout=30)
    kept = len(gridded.records)
    assert kept == finished
    output, _ = gridded()
    assert f"{8 - kept} of 8 runs to be made" in output
    assert gridded.rates(tuning=True) == [1e-5, 0.1]
    assert gridded.rates(tuning=False) == [0.1] * 4
    assert len(gridded.records) == 8


@pytest.mark.slow
def test_ctrl_c_in_the_last_tuning_run_starts_no_reported_run(tiny_shell: Shell) -> None:
    tiny_shell.install("plug", optimizer_plugin(SLOW), "[apo_bench.optimizers]\nplug = plug:plug\n")
    gridded = Gridded(tiny_shell, "plug", '{"lr": (1e-5, 0.1)}')
    process = gridded.start()
    _wait_for(tiny_shell.folder / "apo-bench-results", 1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors == "interrupted; the same command continues\n"
    assert gridded.rates(tuning=True) == [1e-5, 0.1]
    assert gridded.rates(tuning=False) == []


@pytest.mark.slow
def test_the_smoke_suite_tunes(shell: Shell) -> None:
    command = ("run", "--suite", "lr-adaptation", "--scale", "smoke", "--tasks", "fashion-mnist-20k.mlp-1000")
    done = shell(*command, "--optimizers", "sgdm,rmsprop", "--precisions", "fp32")
    assert "2 of them are tuning runs, for which 1 others wait" in done.stdout
    assert "2 of 2 runs have a result." in done.stdout
    page = shell("report", "--suite", "lr-adaptation").stdout
    assert "of 0.03, 0.1; best validation accuracy (%) on seed 100" in page
    assert page.count("| sgdm ") == 1
