"""A cell is a run without its seed, and the keys that group runs are derived from it."""

import msgspec
import pytest

from apo_bench.records.cell import Cell, Conditions, Contender, Workload
from apo_bench.records.schedules import Cosine
from apo_bench.records.spec import Budget, Device, OptimizerSpec, Precision, RunSpec

RUN = RunSpec(
    task="t",
    optimizer=OptimizerSpec(name="o", hyperparameters={"lr": 0.1, "nesterov": True}, schedule=Cosine()),
    precision=Precision.FP32,
    seed=3,
    budget=Budget(epochs=5),
    device=Device.CPU,
    compile=True,
)
CELL = Cell.of(RUN)


def test_a_cell_is_a_run_without_its_seed() -> None:
    assert CELL.run(3) == RUN
    assert CELL.run(3).run_id == RUN.run_id
    assert {*RunSpec.__struct_fields__} - {*Cell.__struct_fields__} == {"seed"}
    assert Cell.of(msgspec.structs.replace(RUN, seed=4)) == CELL


def test_equal_cells_are_one_key_in_whatever_order_their_hyperparameters_stand() -> None:
    turned = msgspec.structs.replace(RUN.optimizer, hyperparameters={"nesterov": True, "lr": 0.1})
    other = Cell.of(msgspec.structs.replace(RUN, optimizer=turned))
    assert {CELL: 1}[other] == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "u"},
        {"optimizer": OptimizerSpec(name="o", hyperparameters={"lr": 0.2, "nesterov": True}, schedule=Cosine())},
        {"optimizer": OptimizerSpec(name="o", hyperparameters={"lr": 0.1, "nesterov": True})},
        {"precision": Precision.FP16},
        {"budget": Budget(epochs=6)},
        {"device": Device.CUDA},
        {"compile": False},
    ],
)
def test_whatever_else_differs_is_another_cell(changes: dict[str, object]) -> None:
    other = Cell.of(msgspec.structs.replace(RUN, **changes))
    assert other != CELL
    assert len({other, CELL}) == 2


def test_keys_are_derived_from_it() -> None:
    workload = Workload("t", Device.CPU, 5)
    assert CELL.workload == workload
    assert CELL.conditions == Conditions(workload, Precision.FP32, compile=True)
    assert CELL.contender == Contender(CELL.conditions, "o")
    assert CELL.title == "t o fp32"


def test_neither_schedule_nor_budget_changes_what_a_step_costs() -> None:
    longer = msgspec.structs.replace(RUN, budget=Budget(epochs=9))
    constant = msgspec.structs.replace(
        longer, optimizer=OptimizerSpec(name="o", hyperparameters=RUN.optimizer.hyperparameters)
    )
    assert Cell.of(longer).step == Cell.of(constant).step == CELL.step
    faster = OptimizerSpec(name="o", hyperparameters={"lr": 0.2, "nesterov": True})
    assert Cell.of(msgspec.structs.replace(RUN, optimizer=faster)).step != CELL.step
