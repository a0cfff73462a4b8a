"""Specs, schedules, grid, registry: the frozen values and how they are made."""

import dataclasses
import doctest
import importlib
import itertools
import re
from importlib.metadata import EntryPoint
from typing import Any

import msgspec
import pytest

from apo_bench.errors import UsageError
from apo_bench.planning.grid import unroll
from apo_bench.plugins.optimizer import Competitor, Search, hyperparameter, resolve_hyperparameters
from apo_bench.plugins.registry import OPTIMIZERS, Registry, optimizers, tasks
from apo_bench.records.schedules import Constant, Cosine, Step, learning_rate_factor
from apo_bench.records.spec import Budget, Device, OptimizerSpec, Precision, RunSpec, Scale
from apo_bench.records.suite import OptimizerEntry, Suite, TaskEntry
from apo_bench.suites import SUITES, suite


@dataclasses.dataclass(frozen=True)
class Knobs:
    """Some hyperparameters."""

    lr: float = hyperparameter(0.1, search=Search(0.01, 1.0, log=True))
    nesterov: bool = hyperparameter(False)
    interval: int = hyperparameter(10)


def _no_build(problem: object, h: object) -> Any:
    raise AssertionError("a grid builds nothing")


RUN = RunSpec(
    task="a",
    optimizer=OptimizerSpec(name="o", hyperparameters={"lr": 0.1}),
    precision=Precision.FP32,
    seed=0,
    budget=Budget(epochs=1),
    device=Device.CPU,
)


@pytest.mark.parametrize(
    "module",
    [
        "apo_bench.errors",
        "apo_bench.records.schedules",
        "apo_bench.cli.selection",
        "apo_bench.text",
        "apo_bench.evidence.intervals",
    ],
)
def test_docstring_examples(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0


def test_run_identity_survives_a_file_and_depends_on_every_field() -> None:
    assert msgspec.json.decode(msgspec.json.encode(RUN), type=RunSpec).run_id == RUN.run_id
    variants = [
        msgspec.structs.replace(RUN, task="b"),
        msgspec.structs.replace(RUN, seed=1),
        msgspec.structs.replace(RUN, precision=Precision.FP16),
        msgspec.structs.replace(RUN, budget=Budget(epochs=2)),
        msgspec.structs.replace(RUN, device=Device.CUDA),
        msgspec.structs.replace(RUN, optimizer=OptimizerSpec(name="o", hyperparameters={"lr": 0.2})),
        msgspec.structs.replace(RUN, optimizer=OptimizerSpec(name="o", hyperparameters={"lr": 0.1}, schedule=Cosine())),
    ]
    assert len({run.run_id for run in [RUN, *variants]}) == 1 + len(variants)


def test_run_identity_does_not_depend_on_how_a_number_is_written() -> None:
    same = msgspec.structs.replace(RUN, budget=Budget(epochs=1.0))
    assert same.run_id == RUN.run_id


@pytest.mark.parametrize(("epochs", "steps"), [(1, 140), (0.25, 35), (0.5, 70), (0.001, 1), (2.501, 351)])
def test_budget_in_steps(epochs: float, steps: int) -> None:
    assert Budget(epochs=epochs).steps(140) == steps


def test_hyperparameters_are_written_out_with_the_types_of_their_defaults() -> None:
    resolved = resolve_hyperparameters(Knobs, {"lr": 1}, optimizer="o")
    assert resolved == {"lr": 1.0, "nesterov": False, "interval": 10}
    assert isinstance(resolved["lr"], float)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"lrr": 0.1}, "no hyperparameter 'lrr'; did you mean 'lr'?"),
        ({"lr": "fast"}, r"o.lr = 'fast': expected float, like the default 0.1"),
        ({"interval": 2.5}, "expected int"),
        ({"interval": True}, "expected int"),
        ({"nesterov": 1}, "expected bool"),
    ],
)
def test_wrong_hyperparameters(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_hyperparameters(Knobs, overrides, optimizer="o")  # type: ignore[arg-type]


def test_schedules() -> None:
    assert [learning_rate_factor(Constant(), step, 10) for step in (0, 9)] == [1.0, 1.0]
    cosine = [learning_rate_factor(Cosine(), step, 100) for step in range(100)]
    assert cosine[0] == 1.0
    assert cosine[50] == pytest.approx(0.5)
    assert all(later < earlier for earlier, later in itertools.pairwise(cosine))
    warm = [learning_rate_factor(Step(warmup=0.1, milestones=(0.5,), decay=0.2), step, 100) for step in range(100)]
    assert warm[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert warm[10:55] == [1.0] * 45
    assert warm[55:] == [0.2] * 45


def test_a_warmup_is_a_fraction() -> None:
    with pytest.raises(ValueError, match="fraction"):
        Constant(warmup=5)


@pytest.mark.parametrize("search", [(1.0, 1.0, False), (0.0, 1.0, True)])
def test_an_empty_search_range_is_refused(search: tuple[float, float, bool]) -> None:
    with pytest.raises(ValueError, match="no range"):
        Search(*search)


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
    runs = unroll(small, {"o": Competitor(Knobs, _no_build), "p": Competitor(Knobs, _no_build)}, Device.CPU).runs
    assert len(runs) == 2 * 2 * 4
    assert [(run.task, run.seed) for run in runs[::4]] == [("a", 5), ("b", 0), ("a", 6), ("a", 7)]
    for group in range(0, 16, 4):
        cells = {(run.optimizer.name, run.precision) for run in runs[group : group + 4]}
        assert len(cells) == 4
    rates = {(run.task, run.optimizer.name): run.optimizer.hyperparameters["lr"] for run in runs}
    assert rates == {("a", "o"): 0.1, ("a", "p"): 0.3, ("b", "o"): 0.5, ("b", "p"): 0.3}


def test_the_most_particular_declaration_wins() -> None:
    competitor = Competitor(
        Knobs, _no_build, in_precision={Precision.FP16: {"lr": 0.2, "interval": 20, "nesterov": True}}
    )
    small = Suite(
        name="s",
        scale=Scale.SMOKE,
        title="S",
        tasks=(TaskEntry(task="a", epochs=1, overrides={"o": {"lr": 0.4}}), TaskEntry(task="b", epochs=1)),
        optimizers=(OptimizerEntry(optimizer="o", overrides={"lr": 0.3, "interval": 30}),),
        precisions=(Precision.FP32, Precision.FP16),
    )
    runs = unroll(small, {"o": competitor}, Device.CPU).runs
    assert [tuple(run.optimizer.hyperparameters.values()) for run in runs] == [
        (0.4, False, 30),
        (0.4, True, 30),
        (0.3, False, 30),
        (0.3, True, 30),
    ]


def test_suites_name_only_registered_tasks_and_optimizers() -> None:
    for name in SUITES:
        for scale in Scale:
            chosen = suite(name, scale)
            assert {entry.task for entry in chosen.tasks} <= set(tasks().names())
            named = {entry.optimizer for entry in chosen.all_competitors()}
            assert "sgdm" in named
            assert named <= set(optimizers().names())


TARGETS = {
    "fashion-mnist-20k.alexnet-w16": (83.0, 1),
    "fashion-mnist-20k.lenet": (85.0, 1),
    "fashion-mnist-20k.resnet18-w8": (82.0, 1),
    "fashion-mnist-20k.vgg16-w8": (80.0, 1),
}
"""Frozen: a value may change only with its version, and then results before and after are not compared."""


def test_targets_are_frozen() -> None:
    declared = {name: tasks()[name].load()().target for name in tasks().names()}
    found = {name: (target.validation, target.version) for name, target in declared.items() if target is not None}
    assert found == TARGETS


def test_every_task_says_where_it_comes_from() -> None:
    for name in tasks().names():
        assert re.match(r"\[[PARL]\]", tasks()[name].load()().source), name


def test_all_runs_every_suite_and_at_smoke_every_optimizer_of_the_package() -> None:
    for scale in Scale:
        tasks_of_all = [entry.task for entry in suite("all", scale).tasks]
        for name in SUITES:
            assert {entry.task for entry in suite(name, scale).tasks} <= set(tasks_of_all)
    assert {entry.optimizer for entry in suite("all", Scale.SMOKE).all_competitors()} == set(optimizers().names())


def test_each_ablation_varies_one_thing() -> None:
    """Beside the suite's own setting, which all share; the grid of proximity weights varies two."""
    local = suite("ablations", Scale.LOCAL)
    rates = {entry.overrides["lr"] for entry in local.optimizers if "lr" in entry.overrides}
    assert max(float(str(rate)) for rate in rates) / min(float(str(rate)) for rate in rates) == pytest.approx(1e4)
    varied = [entry.overrides.keys() - {"weight_decay"} for entry in local.optimizers if entry.optimizer == "apo-p"]
    assert {tuple(sorted(fields)) for fields in varied} == {("fsd", "wsd"), ("fresh_batch",), ("interval",)}
    grid = {(e.overrides["fsd"], e.overrides["wsd"]) for e in local.optimizers if "fsd" in e.overrides}
    assert {(0.0, 1.0), (1.0, 0.0)} <= grid
    assert {e.overrides["interval"] for e in local.optimizers if "interval" in e.overrides} == {1, 5, 10, 50, 100}


def _point(name: str, value: str = "m:o") -> EntryPoint:
    return EntryPoint(name, value, OPTIMIZERS)


def test_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match=r"unknown optimizer 'lyon'; did you mean 'lion'\?"):
        Registry(OPTIMIZERS, [_point("lion")])["lyon"]


def test_two_registrations_of_one_name_are_an_error() -> None:
    with pytest.raises(UsageError, match="'lion' is registered by both"):
        Registry(OPTIMIZERS, [_point("lion"), _point("lion", "other:o")])


@pytest.mark.parametrize("name", ["../../etc", "a|b", "", "A", "x" * 81, "a\nb", "-x"])
def test_hostile_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="not usable"):
        Registry(OPTIMIZERS, [_point(name)])


def test_a_plugin_that_fails_to_import_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"'lion' from .* fails to import \(ModuleNotFoundError: .*\); mend"):
        Registry(OPTIMIZERS, [_point("lion", "no_such_module:o")])["lion"].load()
