"""Suites name what is registered, and each ablation varies one thing."""

import pytest

from apo_bench.plugins.registry import optimizers, tasks
from apo_bench.records.spec import Scale
from apo_bench.suites import SUITES, suite


def test_suites_name_only_registered_tasks_and_optimizers() -> None:
    for name in SUITES:
        for scale in Scale:
            chosen = suite(name, scale)
            assert {entry.task for entry in chosen.tasks} <= set(tasks().names())
            named = {entry.optimizer for entry in chosen.all_competitors()}
            assert "sgdm" in named
            assert named <= set(optimizers().names())


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
