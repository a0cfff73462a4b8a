"""Solvers of eigenvalues that fail, as those of a card do on matrices of low rank."""

from typing import Any

import pytest
import torch
from support.kfac import convolutional, image_batch, problem_of
from torch import Tensor

from apo_bench.optim.kronecker import damped_kfac
from baselines.kfac.curvature import CorrectedCurvature, KroneckerCurvature
from baselines.kfac.damping import Damping, Solver, damped_eigenbasis
from baselines.kfac.optimizer import KFAC
from baselines.kfac.settings import Settings


def _low_rank(features: int) -> Tensor:
    rows = torch.randn(2, features)
    return rows.mT @ rows / 2


def _failing(monkeypatch: pytest.MonkeyPatch, error: Exception, *dtypes: torch.dtype) -> list[torch.dtype]:
    """Let the solver of eigenvalues fail in some formats, as cuSOLVER does."""
    asked: list[torch.dtype] = []
    whole = torch.linalg.eigh

    def eigh(matrix: Tensor) -> Any:
        asked.append(matrix.dtype)
        if matrix.dtype in dtypes:
            raise error
        return whole(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", eigh)
    return asked


FAILURES = [
    torch.linalg.LinAlgError("linalg.eigh: failed to converge"),  # type: ignore[attr-defined] # torch does not list it
    RuntimeError("cusolver error: CUSOLVER_STATUS_EXECUTION_FAILED, when calling `cusolverDnXsyevd(...)`"),
]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("form", Damping)
def test_where_float32_fails_eigenvectors_are_found_in_float64(
    monkeypatch: pytest.MonkeyPatch, form: Damping, error: Exception
) -> None:
    A, G, W = _low_rank(6).float(), _low_rank(4).float(), torch.randn(4, 6)
    expected = damped_eigenbasis(A, G, 1e-2, form).precondition(W)
    asked = _failing(monkeypatch, error, torch.float32)
    found = damped_eigenbasis(A, G, 1e-2, form).precondition(W)
    assert found.dtype is torch.float32
    assert asked == [torch.float32, torch.float64] * 2
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert damped_kfac(A, G, 1.0, 1e-2).S_OI.dtype is torch.float32


@pytest.mark.parametrize("kind", [KroneckerCurvature, CorrectedCurvature])
@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_where_no_format_has_eigenvectors_the_last_inverse_stays(
    monkeypatch: pytest.MonkeyPatch, kind: type[KroneckerCurvature], error: Exception
) -> None:
    problem, batch = problem_of(convolutional().float()), image_batch(dtype=torch.float32)
    rule = KFAC(problem, Settings(lr=1e-3, inverse_interval=1, solver=Solver.EIGEN), kind)
    rule.step(batch)
    before = [curvature.precondition(torch.ones(3, 16)) for curvature in rule.curvatures[1:2]]
    _failing(monkeypatch, error, torch.float32, torch.float64)
    for curvature in rule.curvatures:
        curvature.refresh()
    after = [curvature.precondition(torch.ones(3, 16)) for curvature in rule.curvatures[1:2]]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert rule.step(batch).applied


def test_errors_that_are_not_the_solvers_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    _failing(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"), torch.float32)
    with pytest.raises(torch.OutOfMemoryError):
        damped_eigenbasis(torch.eye(3), torch.eye(2), 1e-2, Damping.FACTORED)
