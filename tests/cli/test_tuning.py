"""`apo-bench run` with a grid: tuning runs first, then the reported ones."""

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from support.commands import PLUG, active_in, records_in, wait_for
from support.shell import Shell, optimizer_plugin

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
    assert page.count("| sgdm") == 4  # at two schedules, in the table and in the details, and no row for what was tried

    output, _ = gridded()
    assert "0 of 9 runs to be made" in output
    assert len(gridded.records) == 9


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_tuning_run_that_fails_is_tried_again_and_the_choice_is_among_the_others(tiny_shell: Shell) -> None:
    fails = ["if float(self.optimizer.param_groups[0]['lr']) > 0.5: raise ValueError('too fast')"]
    tiny_shell.install("plug", optimizer_plugin(fails), PLUG)
    gridded = Gridded(tiny_shell, "plug", '{"lr": (1e-5, 0.1, 1.0)}')
    output, errors = gridded(status=1)
    assert gridded.rates(tuning=False) == [0.1] * 4
    assert "(1 failed)" in output
    assert (
        "1 runs failed, the first: tiny plug fp32 seed 100: the optimizer failed at step 1: ValueError: too fast"
        in errors
    )
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


@pytest.mark.slow
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
        "apo-bench: seed 100 is a tuning seed of suite 'lr-adaptation', on which settings are chosen and nothing is "
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
    assert "seed 100: tuning" in output
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


def _wait_for_runs(shell: Shell, count: int) -> None:
    """Until as many are finished, and another one is in flight."""
    wait_for(lambda: len(records_in(shell)) >= count and active_in(shell), seconds=100.0)


SLOW = ["time.sleep(0.03)"]


@pytest.mark.slow
@pytest.mark.parametrize("finished", [1, 2], ids=["in tuning", "after tuning"])
def test_a_killed_command_takes_up_the_grid_where_it_was(tiny_shell: Shell, finished: int) -> None:
    tiny_shell.install("plug", optimizer_plugin(SLOW), PLUG)
    gridded = Gridded(tiny_shell, "plug", '{"lr": (1e-5, 0.1)}')
    process = gridded.start()
    _wait_for_runs(tiny_shell, finished)
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
    tiny_shell.install("plug", optimizer_plugin(SLOW), PLUG)
    gridded = Gridded(tiny_shell, "plug", '{"lr": (1e-5, 0.1)}')
    process = gridded.start()
    _wait_for_runs(tiny_shell, 1)
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
    assert page.count("| sgdm ") == 2  # in the table and in the details
