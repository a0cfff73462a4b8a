"""The store as a table: one row a run, for anyone's own analysis."""

import io
from collections.abc import Iterable
from typing import Any

import msgspec
import pandas as pd

from apo_bench.evidence.leaderboard import steps_to_target
from apo_bench.evidence.probes import Probes
from apo_bench.probe_record import ProbeRecord
from apo_bench.record import Cost, Reached, RunRecord

_SIZES = (
    "peak_memory_bytes",
    "baseline_memory_bytes",
    "peak_reserved_bytes",
    "process_memory_bytes",
    "parameter_bytes",
    "gradient_bytes",
    "buffer_bytes",
    "state_bytes",
)
_PHASES = ("forward", "backward", "update", "curvature", "inverse", "meta")
COLUMNS = (
    "run_id",
    "suite",
    "scale",
    "task",
    "model",
    "optimizer",
    "hyperparameters",
    "schedule",
    "precision",
    "precision_backend",
    "compile",
    "seed",
    "outcome",
    "message",
    "metric",
    "direction",
    "value",
    "validation_value",
    "best_validation_value",
    "train_loss",
    "epochs",
    "steps",
    "skipped_steps",
    "train_seconds",
    "eval_seconds",
    "data_seconds",
    *(f"{phase}_seconds" for phase in _PHASES),
    "meta_overhead",
    "step_ms",
    "probe_step_ms",
    "step_ratio",
    "step_ratio_low",
    "step_ratio_high",
    "periodic_overhead",
    "probe_doubts",
    "agrees_with_probe",
    "steps_to_target",
    "seconds_to_target",
    "composed_seconds_to_target",
    *_SIZES,
    "flops_per_step",
    "operator_calls_per_step",
    "energy_joules",
    "clock_mhz_low",
    "clock_mhz_high",
    "throttle_reasons",
    "foreign_processes",
    "continued",
    "device",
    "device_name",
    "threads",
    "torch_version",
    "git_sha",
    "dirty",
    "started_at",
    "finished_at",
)
"""Columns in their order; a number that was not measured is missing, never 0.

``train_loss`` is the last point of the training curve: the mean over the steps since the point before it; of a diverged
run, the last finite one. ``meta_overhead`` is the share of the training clock that meta-updates took in this run;
``step_ratio`` the probed step over SGDm's, with the ends of its 95 % interval; ``periodic_overhead`` what work at
intervals (meta-updates, curvature, inverses) adds to a plain step of the same optimizer, as a share of it, by probe.
``seconds_to_target`` is the run's own clock, ``composed_seconds_to_target`` the steps times the probed step. Costs of
emulated 16 bit are those of the emulation.
"""
_INTEGERS = (
    "steps",
    "skipped_steps",
    "steps_to_target",
    *_SIZES,
    "clock_mhz_low",
    "clock_mhz_high",
    "foreign_processes",
    "threads",
)
_BYTES = {"parameters": "parameter_bytes", "gradients": "gradient_bytes", "buffers": "buffer_bytes"}


def run_table(records: Iterable[RunRecord], probes: Iterable[ProbeRecord] = ()) -> pd.DataFrame:
    """Make the table, sorted by task, optimizer, precision and seed; ``probes`` oldest first."""
    steps = Probes(probes)
    frame = pd.DataFrame([_row(record) | _probed(record, steps) for record in records], columns=list(COLUMNS))
    frame = frame.astype(dict.fromkeys(_INTEGERS, "Int64") | dict.fromkeys(("dirty", "agrees_with_probe"), "boolean"))
    return frame.sort_values(["task", "optimizer", "precision", "seed"], ignore_index=True)


def encode_table(frame: pd.DataFrame, form: str) -> bytes:
    """Encode as ``csv``, ``jsonl`` or ``parquet``."""
    buffer = io.BytesIO()
    if form == "parquet":
        frame.to_parquet(buffer, index=False)
    elif form == "jsonl":
        rows = frame.astype(object).where(frame.notna(), None).to_dict("records")  # pandas would round small numbers
        buffer.writelines(msgspec.json.encode(row) + b"\n" for row in rows)
    else:
        frame.to_csv(buffer, index=False, lineterminator="\n")
    return buffer.getvalue()


def _row(record: RunRecord) -> dict[str, Any]:
    spec = record.spec
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {
        "run_id": record.run_id,
        "suite": record.suite,
        "scale": str(record.scale),
        "task": spec.task,
        "optimizer": spec.optimizer.name,
        "hyperparameters": msgspec.json.encode(spec.optimizer.hyperparameters, order="sorted").decode(),
        "schedule": msgspec.json.encode(spec.optimizer.schedule).decode(),
        "precision": str(spec.precision),
        "compile": spec.compile,
        "seed": spec.seed,
        "outcome": msgspec.to_builtins(record.outcome)["type"],
        "message": getattr(record.outcome, "message", None),
        "value": record.scores.test,
        "validation_value": record.scores.validation,
        "best_validation_value": record.scores.best_validation,
        "epochs": spec.budget.epochs,
        "continued": record.continued,
        "device": str(spec.device),
        "started_at": record.started_at,
        "finished_at": record.finished_at,
    }
    if record.curve:
        row["train_loss"] = record.curve[-1].train_loss
    if record.task:
        row |= {
            "model": record.task.model,
            "metric": record.task.metric,
            "direction": str(record.task.direction),
        }
    if record.precision:
        row["precision_backend"] = str(record.precision.backend)
    if record.cost:
        row |= _costs(record.cost)
    if record.environment:
        row |= {
            "device_name": record.environment.device_name,
            "threads": record.environment.threads,
            "torch_version": record.environment.torch,
            "git_sha": record.environment.git_sha,
            "dirty": record.environment.dirty,
        }
    return row


def _costs(cost: Cost) -> dict[str, Any]:
    known = set(COLUMNS)
    row = {name: value for name, value in msgspec.structs.asdict(cost).items() if name in known}
    row |= {column: cost.bytes_by_purpose.get(purpose) for purpose, column in _BYTES.items()}
    row["throttle_reasons"] = ", ".join(cost.throttle_reasons) or None
    if cost.clock_mhz is not None:
        row["clock_mhz_low"], row["clock_mhz_high"] = cost.clock_mhz
    if cost.phases:
        row |= {f"{phase}_seconds": cost.phases.get(phase, 0.0) for phase in _PHASES}
        if cost.train_seconds > 0:
            row["meta_overhead"] = cost.phases.get("meta", 0.0) / cost.train_seconds
    return row


def _probed(record: RunRecord, probes: Probes) -> dict[str, Any]:
    row: dict[str, Any] = {}
    if isinstance(record.outcome, Reached):
        row["steps_to_target"], row["seconds_to_target"] = steps_to_target(record)
    cost = probes.find(record) if record.is_result else None
    if cost is not None:
        row |= {
            "probe_step_ms": cost.milliseconds,
            "step_ratio": cost.ratio,
            "step_ratio_low": cost.low,
            "step_ratio_high": cost.high,
            "periodic_overhead": cost.periodic_overhead,
            "probe_doubts": "; ".join(cost.flags) or None,
            "agrees_with_probe": not cost.disagrees(record),
        }
        if "steps_to_target" in row:
            row["composed_seconds_to_target"] = row["steps_to_target"] * cost.milliseconds / 1000.0
    return row
