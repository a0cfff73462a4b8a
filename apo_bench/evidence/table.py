"""Records and leaderboards as tables: one row a run, or one a cell, for anyone's own analysis."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import pandas as pd

from apo_bench.evidence.cells import Installed, is_installed
from apo_bench.evidence.quantities import MODEL_PURPOSES, PHASES, values_of
from apo_bench.evidence.rows import Leaderboard
from apo_bench.evidence.step_costs import Probes
from apo_bench.records.facts import Cost
from apo_bench.records.outcome import message_of
from apo_bench.records.probe import ProbeRecord
from apo_bench.records.run import Fingerprint, RunRecord
from apo_bench.records.spec import Scalar

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
_CODE = ("harness", "task", "optimizer", "data")
"""Parts of a fingerprint with a column; torch has one as a version."""
SETTING = "hyperparameter_"
"""Begins the names of the columns of hyperparameters, one for each that any run has."""
COLUMNS = (
    "run_id",
    "suite",
    "scale",
    "role",
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
    *(f"{phase}_seconds" for phase in PHASES),
    "overhead",
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
    "not_counted",
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
    "apo_bench_version",
    *(f"code_{part}" for part in _CODE),
    "is_installed_code",
    "platform",
    "cpu_count",
    "started_at",
    "finished_at",
)
"""Columns in their order; a number that was not measured is missing, never 0. Behind them stands a column for each
hyperparameter that any of the runs has.

``code_…`` are the parts of the fingerprint, ``is_installed_code`` whether they are those of the installed code (missing
where that cannot be told).

``train_loss`` is the last point of the training curve: the mean over the steps since the point before it; of a diverged
run, the last finite one. ``overhead`` is the share of the training clock that curvature, inverses and meta-updates
took, ``meta_overhead`` that of meta-updates only. ``step_ratio`` is the probed step over SGDm's, with the ends of its
95 % interval; ``periodic_overhead`` what work at intervals adds to a plain step of the same optimizer, as a share of
it, by probe.
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
    "cpu_count",
)
_BYTES = {purpose: f"{purpose.removesuffix('s')}_bytes" for purpose in MODEL_PURPOSES}


def run_table(
    records: Iterable[RunRecord], probes: Iterable[ProbeRecord] = (), code: Installed | None = None
) -> pd.DataFrame:
    """Make the table, sorted by task, optimizer, precision and seed.

    Args:
        records: One a run.
        probes: What steps cost, oldest first.
        code: The code that is installed.
    """
    steps = Probes(probes)
    records = list(records)
    present = _Present(code)
    rows = [_row(record) | _measured(record, steps) | {"is_installed_code": present(record)} for record in records]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    booleans = ("dirty", "agrees_with_probe", "is_installed_code")
    frame = frame.astype(dict.fromkeys(_INTEGERS, "Int64") | dict.fromkeys(booleans, "boolean"))
    frame = pd.concat([frame, _settings(records)], axis=1)
    return frame.sort_values(["task", "optimizer", "precision", "seed"], ignore_index=True)


class _Present:
    """Whether runs are of the installed code, asked once for each fingerprint."""

    def __init__(self, code: Installed | None) -> None:
        self._code = code
        self._known: dict[tuple[Fingerprint, str, str], bool | None] = {}

    def __call__(self, record: RunRecord) -> bool | None:
        if self._code is None:
            return None
        key = record.fingerprint, record.spec.task, record.spec.optimizer.name
        if key not in self._known:
            self._known[key] = is_installed(record, self._code)
        return self._known[key]


def _settings(records: Sequence[RunRecord]) -> pd.DataFrame:
    """A column for each hyperparameter; one whose values are of several types holds text."""
    names = sorted({name for record in records for name in record.spec.optimizer.hyperparameters})
    columns: dict[str, pd.Series[Any]] = {}
    for name in names:
        values: list[Any] = [record.spec.optimizer.hyperparameters.get(name) for record in records]
        kinds = {type(value) for value in values if value is not None}
        kind = "Int64" if kinds == {int} else "Float64" if kinds <= {int, float} else "boolean"
        if kinds - {int, float} not in (set(), {bool}) or kinds > {bool}:
            values = [value if value is None or isinstance(value, str) else in_record(value) for value in values]
            kind = "object"
        columns[f"{SETTING}{name}"] = pd.Series(values, dtype=kind)
    return pd.DataFrame(columns, index=range(len(records)))


def in_record(value: Scalar) -> str:
    """A value as records write it."""
    return msgspec.json.encode(value).decode()


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
        "message": message_of(record.outcome),
        "epochs": spec.budget.epochs,
        "continued": record.continued,
        "device": str(spec.device),
        "started_at": record.started_at,
        "finished_at": record.finished_at,
        "role": str(record.role),
    }
    row |= {f"code_{part}": getattr(record.fingerprint, part) for part in _CODE}
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
            "apo_bench_version": record.environment.apo_bench,
            "platform": record.environment.platform,
            "cpu_count": record.environment.cpu_count,
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
        row |= {f"{phase}_seconds": cost.phases.get(phase, 0.0) for phase in PHASES}
    return row


def _measured(record: RunRecord, probes: Probes) -> dict[str, Any]:
    """The quantities of a run, and what the probe says beside them."""
    step = probes.find(record) if record.is_result else None
    row: dict[str, Any] = dict(values_of(record, step))
    if step is not None:
        row |= {
            "step_ratio_low": step.low,
            "step_ratio_high": step.high,
            "probe_doubts": "; ".join(step.flags) or None,
            "agrees_with_probe": not step.disagrees(record),
        }
    return row


def flat_rows(board: Leaderboard) -> list[dict[str, Any]]:
    """A leaderboard as a table for programs: one flat row a cell, its numbers by name."""
    return [
        {
            "task": section.task,
            "optimizer": row.competitor,
            "precision": str(row.precision),
            "score": row.score.mean if row.score else None,
            "half_width": row.score.half_width if row.score else None,
            "factor": row.score.factor if row.score else None,
            "versus_reference": row.versus_reference.value if row.versus_reference else None,
            "axis": str(row.score.axis) if row.score else None,
            "n": row.results,
            "diverged": row.diverged,
            "raised": row.raised,
            "epochs": row.epochs,
            "train_loss": row.train_loss.mean if row.train_loss else None,
            "step_ms": row.step_ms,
            "step_ratio": row.step.ratio if row.step else None,
            "step_ratio_half_width": row.step.half_width if row.step else None,
            "overhead": row.overhead,
            "flops_per_step": row.flops_per_step,
            "peak_memory_bytes": row.peak_memory_bytes,
            "state_bytes": row.state_bytes,
            "steps_to_target": row.steps_to_target,
            "composed_target_seconds": row.composed_target_seconds,
            "reported": row.reported,
        }
        for section in board.sections
        for row in section.rows
    ]
