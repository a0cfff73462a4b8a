"""Shapes that signatures declare are checked in the tests: a wrong one does not pass unseen."""

import importlib
from collections.abc import Callable

import pytest
import torch
from conftest import SHAPED
from jaxtyping import TypeCheckError

from apo_bench.data.examples import Batch
from apo_bench.optim import kronecker, layers
from apo_bench.problem.objectives import CrossEntropy, SquaredError
from apo_bench.problem.shapes import ShapeError
from baselines.kfac import damping, factors

IDENTITY = kronecker.identity(3, 5, dtype=torch.float32, device=torch.device("cpu"))
LABELS = Batch((), torch.zeros(4, dtype=torch.long))


@pytest.mark.parametrize("module", SHAPED)
def test_the_tests_load_the_checked_form(module: str) -> None:
    loaded = vars(importlib.import_module(module)).values()
    own = [value for value in loaded if callable(value) and getattr(value, "__module__", "") == module]
    assert any(hasattr(value, "__wrapped__") for value in own if not isinstance(value, type))


@pytest.mark.parametrize(
    "call",
    [
        lambda: IDENTITY.times_A(torch.ones(3, 5, dtype=torch.long)),
        lambda: IDENTITY.times_A(torch.ones(5)),
        lambda: kronecker.damped_kfac(torch.ones(3, 5), torch.eye(3), 1.0, 1.0),
        lambda: factors.input_factor(torch.ones(4, 5), bias=True),
        lambda: factors.share(torch.ones(4, 2, 5), torch.ones(4, 3, 5), factors.Sharing.EXPAND),
        lambda: layers.from_matrix(layers.Layer(0, None, 3, 5, 1), torch.ones(5, 3), [torch.ones(3, 5)]),
        lambda: damping.split(torch.ones(2, 3), torch.eye(2), 1.0),
        lambda: damping.inverse(torch.eye(3), torch.ones(3)),
        lambda: CrossEntropy().discrepancy(torch.ones(4, 3), torch.ones(4, 1), LABELS),
        lambda: SquaredError().discrepancy(torch.ones(4, 3), torch.ones(1, 3), LABELS),
    ],
)
def test_a_wrong_shape_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises((TypeCheckError, ShapeError)):
        call()


def test_a_bias_is_one_column_more() -> None:
    assert factors.input_factor(torch.ones(4, 2, 5), bias=True).shape == (6, 6)
    assert factors.input_factor(torch.ones(4, 2, 5), bias=False).shape == (5, 5)
