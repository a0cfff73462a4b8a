"""A step of every kind of every optimizer, and the parts of its floor: `pytest benchmarks/test_steps.py -k lenet`.

Groups are networks, so that a table shows the kinds side by side. ``--benchmark-autosave`` on one revision and
``--benchmark-compare`` on another compare two. What a step costs beside one of SGDm, in one run, is
`benchmarks/step_costs.py`.
"""

import functools

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from step_costs import MODELS, Bench, Kind


@functools.cache
def _kinds(model: str) -> dict[str, Kind]:
    """By owner and name; only one network at a time is kept."""
    make, shape, _ = MODELS[model]
    return {f"{kind.owner}: {kind.name}": kind for kind in Bench(make, shape).kinds()}


@pytest.mark.parametrize("kind", list(_kinds("lenet")))
@pytest.mark.parametrize("model", MODELS)
def test_a_step(benchmark: BenchmarkFixture, model: str, kind: str) -> None:
    torch.set_num_threads(2)
    benchmark.group = model
    run = _kinds(model)[kind].run
    benchmark(run)
