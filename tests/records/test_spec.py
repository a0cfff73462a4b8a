"""Specifications of runs: their identity and their budget."""

import doctest

import msgspec
import pytest

from apo_bench.errors import UsageError
from apo_bench.records import spec
from apo_bench.records.schedules import Cosine
from apo_bench.records.spec import Budget, Device, OptimizerSpec, Precision, RunSpec

RUN = RunSpec(
    task="a",
    optimizer=OptimizerSpec(name="o", hyperparameters={"lr": 0.1}),
    precision=Precision.FP32,
    seed=0,
    budget=Budget(epochs=1),
    device=Device.CPU,
)


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


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan"), 2**63, -(2**63) - 1, "\ud800"])
def test_a_hyperparameter_that_would_come_back_as_another_is_refused(value: float | str) -> None:
    """JSON has no infinity: a record would hold `None`, and another optimizer under the same name."""
    with pytest.raises(UsageError, match=r"^o\.x must be a value that a record can hold"):
        OptimizerSpec(name="o", hyperparameters={"x": value})


@pytest.mark.parametrize("value", [0.0, -0.0, 1e308, 5e-324, 2**63 - 1, -(2**63), True, None, "λ", ""])
def test_every_other_hyperparameter_comes_back_as_it_was(value: float | str | None) -> None:
    made = OptimizerSpec(name="o", hyperparameters={"x": value})
    back = msgspec.json.decode(msgspec.json.encode(made), type=OptimizerSpec).hyperparameters["x"]
    assert back == value
    assert type(back) is type(value)


def test_the_docstring_examples() -> None:
    assert doctest.testmod(spec).failed == 0


def test_float_noise_makes_no_step() -> None:
    """Every budget of so many hundredths of an epoch, against whole numbers."""
    wrong = [
        (hundredths, per_epoch)
        for per_epoch in (1, 7, 39, 140, 390, 469, 1000, 1563)
        for hundredths in range(1, 1200)
        if Budget(epochs=hundredths / 100).steps(per_epoch) != max(1, -(-hundredths * per_epoch // 100))
    ]
    assert wrong == []
    assert Budget(epochs=0.1 + 0.2).steps(10) == 3
    assert Budget(epochs=1 / 3 + 1 / 3).steps(390) == 260
    assert Budget(epochs=1 - 2 / 3).steps(390) == 130
    assert Budget(epochs=1.1000001).steps(390) == 430
