"""The store as a table: one row a run, for anyone's own analysis."""

import io
from collections.abc import Iterable
from typing import Any

import msgspec
import pandas as pd

from apo_bench.record import RunRecord

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
    "step_ms",
    "step_ratio",
    "meta_overhead",
    "peak_memory_bytes",
    "state_bytes",
    "flops_per_step",
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
run, the last finite one.
"""


def run_table(records: Iterable[RunRecord]) -> pd.DataFrame:
    """Make the table, sorted by task, optimizer, precision and seed."""
    frame = pd.DataFrame([_row(record) for record in records], columns=list(COLUMNS))
    integers = ("steps", "skipped_steps", "peak_memory_bytes", "state_bytes", "flops_per_step", "threads")
    frame = frame.astype(dict.fromkeys(integers, "Int64") | {"dirty": "boolean"})
    return frame.sort_values(["task", "optimizer", "precision", "seed"], ignore_index=True)


def encode_table(frame: pd.DataFrame, form: str) -> bytes:
    """Encode as ``csv``, ``jsonl`` or ``parquet``."""
    buffer = io.BytesIO()
    if form == "parquet":
        frame.to_parquet(buffer, index=False)
    elif form == "jsonl":
        frame.to_json(buffer, orient="records", lines=True, double_precision=15)
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
        row |= msgspec.structs.asdict(record.cost)
    if record.environment:
        row |= {
            "device_name": record.environment.device_name,
            "threads": record.environment.threads,
            "torch_version": record.environment.torch,
            "git_sha": record.environment.git_sha,
            "dirty": record.environment.dirty,
        }
    return row
