"""A suite unrolled: balanced, with the most particular settings, grids included."""

from typing import Any

import msgspec
import pytest
from support.competitors import Knobs, no_build

from apo_bench.errors import UsageError
from apo_bench.planning.grid import Waiting, tuning_points, unroll
from apo_bench.plugins.optimizer import Competitor
from apo_bench.records.schedules import Constant, Step
from apo_bench.records.spec import Device, Precision, RunSpec, Scale
from apo_bench.records.suite import TUNING_SEED, OptimizerEntry, Suite, TaskEntry
from apo_bench.suites import SUITES, suite

COMPETITOR = Competitor(Knobs, no_build, in_precision={Precision.FP16: {"interval": 20}})


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
    for chosen, count in ((_suite(GRIDDED, stepped), 3), (_suite(GRIDDED, other), 6)):
        assert tuning_points(chosen, chosen.tasks[0]) == {"o": count}
        twice = msgspec.structs.replace(chosen, tuning_seeds=(100, 101))
        assert tuning_points(twice, twice.tasks[0]) == {"o": 2 * count}


def test_every_setting_is_tried_on_every_tuning_seed() -> None:
    (first, *_) = _unrolled(msgspec.structs.replace(_suite(GRIDDED), tuning_seeds=(100, 101)))
    assert [(run.optimizer.hyperparameters["lr"], run.seed) for run in first.search.points] == [
        (rate, seed) for rate in (0.1, 0.3, 1.0) for seed in (100, 101)
    ]


def test_on_cuda_a_task_may_be_another() -> None:
    chosen = _suite(tasks=(TaskEntry(task="small", epochs=2, on_cuda="wide"), TaskEntry(task="b", epochs=3)))
    assert [entry.task for entry in chosen.on(Device.CUDA).tasks] == ["wide", "b"]
    assert chosen.on(Device.CPU) == chosen


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
    assert tuning_points(_suite(GRIDDED, tasks=(fixed,)), fixed) == {}


def test_a_grid_is_a_choice() -> None:
    with pytest.raises(ValueError, match=r"o.lr: a grid needs two values or more"):
        OptimizerEntry(optimizer="o", grid={"lr": (0.1, 0.1)})
    with pytest.raises(ValueError, match=r"o.lr is set to 0.1 and has a grid; drop one"):
        OptimizerEntry(optimizer="o", overrides={"lr": 0.1}, grid={"lr": (0.1, 0.2)})


def test_no_suite_reports_on_its_tuning_seed() -> None:
    with pytest.raises(UsageError, match="seed 1 is a tuning seed of suite 's'"):
        _suite(GRIDDED, tuning_seeds=(1,))
    for name in SUITES:
        for scale in Scale:
            chosen = suite(name, scale)
            assert all(set(chosen.tuning_seeds).isdisjoint(entry.seeds) for entry in chosen.tasks)


def test_grid_is_seed_major_and_balanced() -> None:
    small = Suite(
        name="s",
        scale=Scale.SMOKE,
        title="S",
        tasks=(
            TaskEntry(task="a", epochs=1, seeds=(5, 6, 7)),
            TaskEntry(task="b", epochs=2, overrides={"o": {"lr": 0.5}}),
        ),
        optimizers=(OptimizerEntry(optimizer="o"), OptimizerEntry(optimizer="p", overrides={"lr": 0.3})),
        precisions=(Precision.FP32, Precision.FP16),
    )
    unrolled = unroll(small, {"o": Competitor(Knobs, no_build), "p": Competitor(Knobs, no_build)}, Device.CPU)
    runs = [run for run in unrolled.runs if isinstance(run, RunSpec)]
    assert len(runs) == 2 * 2 * 4
    assert [(run.task, run.seed) for run in runs[::4]] == [("a", 5), ("b", 0), ("a", 6), ("a", 7)]
    for group in range(0, 16, 4):
        cells = {(run.optimizer.name, run.precision) for run in runs[group : group + 4]}
        assert len(cells) == 4
    rates = {(run.task, run.optimizer.name): run.optimizer.hyperparameters["lr"] for run in runs}
    assert rates == {("a", "o"): 0.1, ("a", "p"): 0.3, ("b", "o"): 0.5, ("b", "p"): 0.3}


def test_the_most_particular_declaration_wins() -> None:
    competitor = Competitor(
        Knobs, no_build, in_precision={Precision.FP16: {"lr": 0.2, "interval": 20, "nesterov": True}}
    )
    small = Suite(
        name="s",
        scale=Scale.SMOKE,
        title="S",
        tasks=(TaskEntry(task="a", epochs=1, overrides={"o": {"lr": 0.4}}), TaskEntry(task="b", epochs=1)),
        optimizers=(OptimizerEntry(optimizer="o", overrides={"lr": 0.3, "interval": 30}),),
        precisions=(Precision.FP32, Precision.FP16),
    )
    runs = [run for run in unroll(small, {"o": competitor}, Device.CPU).runs if isinstance(run, RunSpec)]
    assert [tuple(run.optimizer.hyperparameters.values()) for run in runs] == [
        (0.4, False, 30),
        (0.4, True, 30),
        (0.3, False, 30),
        (0.3, True, 30),
    ]
