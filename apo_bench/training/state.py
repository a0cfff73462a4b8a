"""Where a run's training stands: the one value that changes while it trains, and that a checkpoint holds whole."""

from typing import Any

import msgspec

from apo_bench.numbers import mean
from apo_bench.records.events import CurvePoint


class TrainingState(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What has happened so far.

    Attributes:
        taken: Steps taken.
        skipped: Those of them that overflowed.
        skipped_in_a_row: The last of them that overflowed, without one between them that did not.
        since_evaluation: Losses since the last point of the curve.
        block_ms: Mean time of a step in each block, in milliseconds.
        rate_factor: The schedule's factor that the rule uses now.
        curve: The evaluations.
        continued: How often the run was taken up from a checkpoint.
        peak_bytes: Largest memory before the checkpoint that it was taken up from.
        reserved_bytes: Likewise, what the allocator had reserved.
    """

    taken: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    since_evaluation: list[float] = []
    block_ms: list[float] = []
    rate_factor: float = 1.0
    curve: list[CurvePoint] = []
    continued: int = 0
    peak_bytes: int = 0
    reserved_bytes: int = 0

    @property
    def train_loss(self) -> float | None:
        """Mean loss since the last point of the curve; `None` where every step since then was skipped."""
        losses = self.since_evaluation
        return mean(losses) if losses else None

    def to_builtins(self) -> dict[str, Any]:
        """As mappings, lists and numbers."""
        state: dict[str, Any] = msgspec.to_builtins(self)
        return state

    @classmethod
    def from_builtins(cls, state: dict[str, Any]) -> "TrainingState":
        """The inverse of `to_builtins`.

        Raises:
            msgspec.ValidationError: It is no such state.
        """
        return msgspec.convert(state, type=cls)
