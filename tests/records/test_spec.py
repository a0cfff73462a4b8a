"""Specifications of runs: their identity and their budget."""

import msgspec
import pytest

from apo_bench.errors import UsageError
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
    spec = OptimizerSpec(name="o", hyperparameters={"x": value})
    back = msgspec.json.decode(msgspec.json.encode(spec), type=OptimizerSpec).hyperparameters["x"]
    assert back == value
    assert type(back) is type(value)
