"""What a run says while it runs, one line an event."""

import msgspec

from apo_bench.records.digest import strictly
from apo_bench.records.ranges import Count, Duration, Message, Name
from apo_bench.records.spec import Frozen


class CurvePoint(Frozen, frozen=True):
    """One evaluation during training.

    Attributes:
        step: Optimizer steps taken.
        epoch: The same in passes over the training set.
        seconds: Training clock: evaluation, data preparation and warm-up excluded.
        train_loss: Mean over the steps since the previous point.
        validation_loss: Mean over the validation set.
        validation: The task's metric on the validation set.
        learning_rate_factor: The schedule's factor at this step.
        readings: What the update rule says of itself: a learned rate, a count of meta-updates.
    """

    step: Count
    epoch: Duration
    seconds: Duration
    train_loss: float
    validation_loss: float
    validation: float
    learning_rate_factor: float
    readings: dict[Name, float] = {}  # noqa: RUF012 - msgspec copies it


class Started(Frozen, frozen=True, tag="started"):
    """The run's process is ready to train.

    Attributes:
        steps: How many steps.
        left_alone: Names of the weights on which the optimizer's method does not act, by the reason.
    """

    steps: Count
    left_alone: dict[Name, tuple[Name, ...]] = {}  # noqa: RUF012 - msgspec copies it


class Progress(Frozen, frozen=True, tag="progress"):
    """A sign of life between evaluations."""

    step: Count
    train_loss: float | None


class Evaluated(Frozen, frozen=True, tag="evaluated"):
    """A new point of the curve."""

    point: CurvePoint


class Remarked(Frozen, frozen=True, tag="remarked"):
    """Something that its user should know and that does not stop the run."""

    message: Message


Event = Started | Progress | Evaluated | Remarked


def decode_event(line: bytes) -> Event:
    """Read one line of an event file.

    Raises:
        ValueError: Damaged.
    """
    with strictly():
        event: Event = msgspec.json.decode(line, type=Event)
        return event
