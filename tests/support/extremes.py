"""Records at the ends of what their schema allows."""

from typing import Any

import msgspec
from support.records import MADE_ON, record

from apo_bench.records.events import CurvePoint
from apo_bench.records.run import Role, RunRecord
from apo_bench.records.spec import Scalar

LARGEST = 1.7976931348623157e308
SMALLEST = 5e-324
MOST = 2**53
LINE = "x" * 4000
NAME = "n" * 1000


def point(step: int = 50, value: float = 0.5, **fields: Any) -> CurvePoint:
    return CurvePoint(
        **{
            "step": step,
            "epoch": step / 10,
            "seconds": step / 100,
            "train_loss": value,
            "validation_loss": value,
            "validation": value,
            "learning_rate_factor": 1.0,
        }
        | fields
    )


def valued(value: float, seed: int = 0, optimizer: str = "sgdm", **fields: Any) -> RunRecord:
    """A run all of whose numbers of any size are ``value``."""
    made = record(optimizer, seed, value)
    curve = (
        point(10, value),
        point(50, value, readings={"learning_rate": value, "learning_rate_1": value, "x": value}),
    )
    return msgspec.structs.replace(made, curve=curve, environment=MADE_ON, **fields)


def costing(made: RunRecord, **fields: Any) -> RunRecord:
    assert made.cost is not None
    return msgspec.structs.replace(made, cost=msgspec.structs.replace(made.cost, **fields))


def asked(made: RunRecord, **fields: Any) -> RunRecord:
    return made.under(spec=msgspec.structs.replace(made.spec, **fields))


def set_to(made: RunRecord, role: Role = Role.REPORTED, **hyperparameters: Scalar) -> RunRecord:
    optimizer = msgspec.structs.replace(made.spec.optimizer, hyperparameters=hyperparameters)
    return asked(made, optimizer=optimizer).under(role=role)


MOST_COSTS: dict[str, Any] = {
    "steps": MOST,
    "skipped_steps": MOST,
    "train_seconds": 1e12,
    "eval_seconds": 1e12,
    "data_seconds": 1e12,
    "step_ms": 1e12,
    "peak_memory_bytes": MOST,
    "baseline_memory_bytes": MOST,
    "peak_reserved_bytes": MOST,
    "process_memory_bytes": MOST,
    "state_bytes": MOST,
    "bytes_by_purpose": {"optimizer": MOST, "parameters": MOST},
    "flops_per_step": 1e30,
    "operator_calls_per_step": 1e30,
    "energy_joules": 1e30,
    "clock_mhz": (MOST, MOST),
    "foreign_processes": MOST,
    "phases": {"meta": 1e12, "forward": 1e12},
}
LEAST_COSTS: dict[str, Any] = {
    "steps": 50,
    "train_seconds": SMALLEST,
    "eval_seconds": 0.0,
    "step_ms": 0.0,
    "phases": {"meta": 1e12},
    "peak_memory_bytes": 0,
    "state_bytes": 0,
}
