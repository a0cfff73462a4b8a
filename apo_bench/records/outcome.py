"""How a run ended: a type for each way, so that no reader compares words."""

from enum import StrEnum

from apo_bench.records.ranges import Count, Message, Name
from apo_bench.records.spec import Frozen


class Exhausted(Frozen, frozen=True, tag="exhausted"):
    """The run used its whole budget (and no target was declared or reached)."""


class Reached(Frozen, frozen=True, tag="reached"):
    """The run used its whole budget and reached the validation target on the way, first at ``step``."""

    step: Count
    target: float


class NonFinite(Frozen, frozen=True):
    """The first tensor of a diverged run that held a number that is not finite.

    Attributes:
        step: Step in which it appeared, counted from 1; after evaluation, steps taken before it.
        tensor: Which: ``activation conv1``, ``loss``, ``gradient fc.weight``, ``state meta 3``, ``parameter
            fc.weight`` or ``buffer norm.running_var``; activations by the module that made them, gradients of other
            streams than the base with its name, as in ``gradient fc.weight (meta)``.
        dtype: Its number format, for example ``float16``.
    """

    step: Count
    tensor: Name
    dtype: Name


class Reason(StrEnum):
    """What stopped being finite when a run diverged; the values are the words for a reader."""

    TRAINING_LOSS = "training loss is not finite"
    VALIDATION = "validation loss is not finite"
    TEST = "test metric is not finite"
    PARAMETER = "a parameter is not finite"
    LOSS_SCALE = "40 steps in a row overflowed at every loss scale"


class Diverged(Frozen, frozen=True, tag="diverged"):
    """A loss stopped being finite, or loss scaling gave up, at ``step``.

    Attributes:
        step: Step whose loss was the first that was not finite, or the first that was skipped, counted from 1.
        reason: What stopped being finite.
        first: Where it began; `None` where a second look did not find it.
    """

    step: Count
    reason: Reason
    first: NonFinite | None = None

    @property
    def message(self) -> str:
        """What stopped being finite, and where that began, in a line."""
        if self.first is None:
            return self.reason
        return f"{self.reason}: first `{self.first.tensor}` ({self.first.dtype}) at step {self.first.step}"


class Undefined(Frozen, frozen=True, tag="undefined"):
    """The run used its whole budget with finite losses, and the task's metric is no number on the test split.

    That is no divergence: a correlation with constant outputs is undefined, and the exponential of a large loss
    overflows. There is no score, and a mean over other seeds would flatter the competitor.

    Attributes:
        step: Steps taken.
        metric: Its name.
        value: What it came to: ``nan``, ``inf`` or ``-inf``.
        loss: Mean loss over the split.
    """

    step: Count
    metric: Name
    value: Name
    loss: float

    @property
    def message(self) -> str:
        """What is undefined, in a line."""
        return (
            f"metric {self.metric!r} is {self.value} on the test split, though the loss there is finite "
            f"({self.loss:.4g}): it is undefined for these outputs"
        )


class OutOfMemory(Frozen, frozen=True, tag="out-of-memory"):
    """The device or the host had no memory left."""

    message: Message


class Crashed(Frozen, frozen=True, tag="crashed"):
    """The run's process died or raised; ``message`` is its last line."""

    message: Message


class Failed(Frozen, frozen=True, tag="failed"):
    """The optimizer raised: it failed at ``step``, counted from 1, or while it was made (0); ``message`` says how."""

    step: Count
    message: Message


class Interrupted(Frozen, frozen=True, tag="interrupted"):
    """The user stopped the run."""


Outcome = Exhausted | Reached | Diverged | Failed | Undefined | OutOfMemory | Crashed | Interrupted
RESULTS = (Exhausted, Reached, Diverged)
"""Outcomes with something to compare, which are final. `Failed` says something about the competitor too, and is tried
again: its cause may be a library that was missing. So is `Undefined`. The others say something about the machine."""


def message_of(outcome: Outcome) -> str | None:
    """What an outcome has to say beyond its kind; `None` where that is all."""
    match outcome:
        case Diverged() | Undefined() | OutOfMemory() | Crashed():
            return outcome.message
        case Failed():
            where = f"at step {outcome.step}" if outcome.step else "when it was made"
            return f"the optimizer failed {where}: {outcome.message}"
        case Exhausted() | Reached() | Interrupted():
            return None
