"""One run of a store as a run of W&B."""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from apo_bench.evidence.quantities import values_of
from apo_bench.records.events import CurvePoint, Evaluated, Started
from apo_bench.records.run import RunRecord
from apo_bench.session.wandb_fields import as_config, as_metrics
from apo_bench.store.scan import Unreadable, read_events

if TYPE_CHECKING:
    import wandb


class Mirror:
    """One W&B run.

    While the run is made its numbers come from its events, whose lines bear no digest; afterwards from its record.

    Args:
        run: Where they go.
    """

    def __init__(self, run: "wandb.Run") -> None:
        self._run = run
        self._offset = 0
        self._logged: dict[int, CurvePoint] = {}

    def read(self, folder: Path, name: Callable[[Iterable[Unreadable]], None]) -> None:
        """Log what is new; a continued run repeats some steps, which are passed over."""
        events, self._offset = read_events(folder, self._offset, damaged=lambda found: name([found]))
        for event in events:
            match event:
                case Started():
                    self._start(event.steps)
                case Evaluated():
                    self._log(event.point)
                case _:
                    pass

    def complete(self, folder: Path, record: RunRecord, name: Callable[[Iterable[Unreadable]], None]) -> bool:
        """Log what is left of a finished run and close; whether other numbers than the record's were logged before."""
        if record.task is None:  # it came to nothing: only its events say how far it came
            self.read(folder, name)
            self._finish(record, curve_from="events, which bear no digest")
            return False
        before = dict(self._logged)
        self._start(record.spec.budget.steps(record.task.steps_per_epoch))
        for point in record.curve:
            self._log(point)
        differs = _differ(before, record.curve)
        self._finish(record, curve_from="record" if not before else "record, and events while it ran")
        return differs

    def _start(self, steps: int) -> None:
        self._run.config.update({"steps": steps}, allow_val_change=True)  # type: ignore[no-untyped-call]

    def _log(self, point: CurvePoint) -> None:
        if point.step > max(self._logged, default=-1):
            self._logged[point.step] = point
            values: dict[str, Any] = msgspec.to_builtins(point)
            del values["step"]
            self._run.log(as_metrics(values), step=point.step)

    def _finish(self, record: RunRecord, *, curve_from: str) -> None:
        """Write the summary and close; a run that failed is a failed run there too."""
        facts: dict[str, Any] = {
            name: msgspec.to_builtins(value)
            for name, value in (
                ("task_facts", record.task),
                ("environment", record.environment),
                ("fingerprint", record.fingerprint),
                ("precision_facts", record.precision),
            )
            if value is not None
        }
        facts["curve_from"] = curve_from
        self._run.config.update(as_config(facts), allow_val_change=True)  # type: ignore[no-untyped-call]
        summary: dict[str, Any] = {"outcome": msgspec.to_builtins(record.outcome), "continued": record.continued}
        summary |= {name: value for name, value in msgspec.to_builtins(record.scores).items() if value is not None}
        if record.cost:
            summary |= msgspec.to_builtins(record.cost)
        summary |= values_of(record)
        self._run.summary.update(as_metrics(summary))
        self._run.finish(exit_code=0 if record.is_result else 1)

    def abandon(self) -> None:
        """Close a run that was interrupted, or that W&B did not take."""
        with contextlib.suppress(Exception):  # it may be what broke
            self._run.finish(exit_code=1)


def _differ(logged: Mapping[int, CurvePoint], curve: Iterable[CurvePoint]) -> bool:
    """Whether a curve lacks a point that was logged; a run that was continued took other seconds to a point."""
    timeless = {point.step: msgspec.structs.replace(point, seconds=0.0) for point in curve}
    return any(timeless.get(step) != msgspec.structs.replace(point, seconds=0.0) for step, point in logged.items())
