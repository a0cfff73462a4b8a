"""Which outputs and targets an objective or a metric takes: all else is refused in one line that names the right class.

Only shapes and types are compared here, which costs a microsecond a step; numbers are looked at once a split, before
the first step (`Checked`).
"""

import math
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from apo_bench.errors import UsageError

IGNORED = -100
"""Label that is none, as in `torch.nn.CrossEntropyLoss`."""
_LABELS = frozenset({torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool})


class ShapeError(UsageError, ValueError):
    """Outputs and targets are not what an objective or a metric takes."""


class Family(NamedTuple):
    """Classes that do the same on outputs and targets of different shapes, by their names.

    Attributes:
        label: For one label an example.
        token: For one label a position.
        binary: For outputs that are true or false, each by itself.
        number: For numbers.
    """

    label: str
    token: str
    binary: str
    number: str


OBJECTIVES = Family("CrossEntropy", "TokenCrossEntropy", "BernoulliCrossEntropy", "SquaredError")
METRICS = Family("Accuracy", "TokenAccuracy", "BinaryAccuracy", "MeanSquaredError")


@runtime_checkable
class Checked(Protocol):
    """An objective or a metric that looks at the targets of a split before the first step."""

    def check_targets(self, outputs: Tensor, targets: Tensor) -> None:
        """Refuse targets that ``outputs``, those of any one batch, cannot be compared with.

        Raises:
            ShapeError: A target is none.
        """
        ...


def labels_of(family: Family, outputs: Tensor, targets: Tensor) -> Tensor:
    """Labels ``(batch,)`` as int64, for logits ``(batch, classes)``.

    Raises:
        ShapeError: Outputs or targets are of another shape or type, or there is no example.
    """
    if (
        outputs.dim() != 2  # noqa: PLR2004 - batch and classes
        or targets.dim() != 1
        or outputs.shape[0] != targets.shape[0]
        or outputs.shape[0] == 0
        or outputs.shape[1] < 2  # noqa: PLR2004 - one class is no choice
        or not outputs.is_floating_point()
        or targets.dtype not in _LABELS
    ):
        takes = "logits (batch, classes) and integer labels (batch,)"
        raise ShapeError(f"{family.label} {_got(takes, outputs, targets)}: {_label_hint(family, outputs, targets)}")
    return targets.long()


def tokens_of(family: Family, outputs: Tensor, targets: Tensor) -> Tensor:
    """Labels ``(batch, positions)`` as they are, for logits ``(batch, positions, classes)``.

    Raises:
        ShapeError: Outputs or targets are of another shape or type, or there is no position.
    """
    if (
        outputs.dim() != 3  # noqa: PLR2004 - batch, positions and classes
        or outputs.shape[:2] != targets.shape
        or targets.numel() == 0
        or outputs.shape[2] < 2  # noqa: PLR2004 - one class is no choice
        or not outputs.is_floating_point()
        or targets.dtype not in _LABELS
    ):
        takes = "logits (batch, positions, classes) and integer labels (batch, positions)"
        raise ShapeError(f"{family.token} {_got(takes, outputs, targets)}: {_token_hint(family, outputs, targets)}")
    return targets


def alike(name: str, family: Family, outputs: Tensor, targets: Tensor) -> Tensor:
    """Targets in the format of the outputs, or in float32 where that is wider.

    Args:
        name: Of the class that compares them.
        family: Of that class.
        outputs: Floating point, the batch first.
        targets: Real numbers.

    Raises:
        ShapeError: Shapes differ (broadcasting would compare each with every other), a type is wrong, or there is no
            example.
    """
    of_shape(outputs, targets, name, family)
    if not outputs.is_floating_point() or targets.is_complex() or outputs.dim() == 0 or outputs.shape[0] == 0:
        takes = "real outputs and targets of one shape, the batch first"
        raise ShapeError(f"{name} {_got(takes, outputs, targets)}: {_number_hint(outputs, targets)}")
    return targets.to(torch.promote_types(outputs.dtype, torch.float32))


def of_shape(outputs: Tensor, targets: Tensor, name: str = "", family: Family = OBJECTIVES) -> Tensor:
    """Targets, if they have the shape of the outputs.

    Raises:
        ShapeError: They have another: broadcasting would compare each with every other.
    """
    if targets.shape != outputs.shape:
        who = f"{name}: " if name else ""
        hint = ""
        if not targets.is_floating_point() and targets.shape == outputs.shape[:-1]:
            if targets.dim() == 1 and outputs.shape[1] > 1:
                hint = f", or for one label an example use {family.label}"
            elif targets.dim() == 2:  # noqa: PLR2004 - batch and positions
                hint = f", or for one label a position use {family.token}"
        raise ShapeError(
            f"{who}targets of shape {tuple(targets.shape)} for outputs of shape {tuple(outputs.shape)}: "
            f"give both one shape{hint}"
        )
    return targets


def same_outputs(name: str, new: Tensor, old: Tensor) -> None:
    """Refuse to compare outputs of different shapes.

    Raises:
        ShapeError: Shapes differ, or the outputs are no floating-point numbers with the batch first.
    """
    if new.shape != old.shape or new.dim() == 0 or not (new.is_floating_point() and old.is_floating_point()):
        raise ShapeError(
            f"{name} compares floating-point outputs of one shape, the batch first, got {_said(new)} and {_said(old)}"
        )


def check_labels(name: str, classes: int, targets: Tensor, ignored: int) -> None:
    """Refuse labels that are neither those of a class nor ignored, and targets all of which are ignored.

    Raises:
        ShapeError: There is such a label, or no other.
    """
    if targets.dtype not in _LABELS or targets.numel() == 0:
        return  # what compares the shapes says it
    lowest, highest = (int(extreme) for extreme in targets.long().aminmax())
    if 0 <= lowest < highest < classes or (lowest == highest != ignored and 0 <= lowest < classes):
        return
    counted = targets.long()
    counted = counted[counted != ignored]
    if counted.numel() == 0:
        raise ShapeError(f"{name}: every label is {ignored}, which is ignored; give at least one other")
    lowest, highest = (int(extreme) for extreme in counted.aminmax())
    if lowest < 0 or highest >= classes:
        wrong = lowest if lowest < 0 else highest
        fix = f"; for labels with {IGNORED} use {name}(padding={IGNORED})" if wrong == IGNORED else ""
        raise ShapeError(
            f"{name}: label {wrong} for outputs of {classes} classes, whose labels are 0 to {classes - 1} "
            f"({ignored} is ignored){fix}"
        )


def check_numbers(name: str, targets: Tensor, low: float = -torch.inf, high: float = torch.inf) -> None:
    """Refuse targets that are not finite, or not in [``low``, ``high``].

    Raises:
        ShapeError: There is one.
    """
    if targets.numel() == 0 or targets.is_complex():
        return  # what compares the shapes says it
    lowest, highest = (float(extreme) for extreme in targets.aminmax())
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise ShapeError(f"{name}: a target is {highest if math.isfinite(lowest) else lowest}, which is not finite")
    if lowest < low or highest > high:
        wrong = lowest if lowest < low else highest
        raise ShapeError(f"{name}: target {wrong:g} is outside of [{low:g}, {high:g}]")


def ignored_of(targets: Tensor) -> Tensor | None:
    """Where labels are ignored; `None` where none can be: in types without negative numbers."""
    if targets.dtype in {torch.uint8, torch.bool}:
        return None
    return targets == IGNORED


def counted_of(targets: Tensor, ignored: int) -> Tensor:
    """Where labels are not ignored."""
    # torch would compare bytes modulo 256: -100 with 156
    return (targets.long() if targets.dtype is torch.uint8 else targets) != ignored


def _said(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _got(takes: str, outputs: Tensor, targets: Tensor) -> str:
    return f"takes {takes}, got outputs {_said(outputs)} and targets {_said(targets)}"


def _number_hint(outputs: Tensor, targets: Tensor) -> str:
    if not outputs.is_floating_point() or targets.is_complex():
        return "compare real and imaginary parts, as floating-point numbers"
    return "a batch without examples has no mean" if outputs.dim() else "return one row of outputs for each example"


def _label_hint(family: Family, outputs: Tensor, targets: Tensor) -> str:  # noqa: PLR0911 - a line for each case
    if not outputs.is_floating_point():
        return "the model must return floating-point logits"
    if outputs.dim() > 2 and targets.dim() > 1:  # noqa: PLR2004 - batch and classes
        return f"for one label a position use {family.token}{_transposed(outputs, targets)}"
    if outputs.shape == targets.shape and outputs.dim() == 2 and outputs.shape[1] > 1:  # noqa: PLR2004 - as above
        return (
            f"make labels of one-hot targets by targets.argmax(1); for outputs that are each true or false use "
            f"{family.binary}"
        )
    if outputs.dim() == 1 or (outputs.dim() == 2 and outputs.shape[1] == 1):  # noqa: PLR2004 - as above
        return (
            f"for one logit an example use {family.binary} with outputs and targets (batch, 1), "
            f"for numbers {family.number}"
        )
    if targets.dtype not in _LABELS:
        return f"make labels integers; for numbers use {family.number}"
    if outputs.dim() == 2 and targets.shape == (outputs.shape[0], 1):  # noqa: PLR2004 - as above
        return "make them labels by targets.squeeze(1)"
    if outputs.dim() != 2:  # noqa: PLR2004 - as above
        return "return one row of logits for each example"
    return "a batch without examples has no mean" if targets.numel() == 0 else "give one label to each example"


def _token_hint(family: Family, outputs: Tensor, targets: Tensor) -> str:  # noqa: PLR0911 - a line for each case
    if not outputs.is_floating_point():
        return "the model must return floating-point logits"
    if outputs.dim() == 2 and targets.dim() == 1:  # noqa: PLR2004 - batch and classes
        return f"for one label an example use {family.label}"
    if outputs.shape == targets.shape and outputs.dim() == 3:  # noqa: PLR2004 - batch, positions and classes
        return "make labels of one-hot targets by targets.argmax(-1)"
    if targets.dtype not in _LABELS:
        return f"make labels integers; for numbers use {family.number}"
    if targets.numel() == 0:
        return "a batch without positions has no mean"
    if transposed := _transposed(outputs, targets):
        return f"put the classes last{transposed}"
    return "give one label to each position"


def _transposed(outputs: Tensor, targets: Tensor) -> str:
    """How to put the classes last, where they stand second."""
    if outputs.dim() == 3 and outputs.shape[:2] != targets.shape == (outputs.shape[0], outputs.shape[2]):  # noqa: PLR2004 - batch, positions and classes
        return " with logits (batch, positions, classes): outputs.transpose(1, 2)"
    if outputs.dim() > 3:  # noqa: PLR2004 - as above
        return " with all positions in one dimension: logits (batch, positions, classes)"
    return ""
