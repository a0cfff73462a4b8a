"""Learning-rate schedules as frozen values: a factor on the learning rate, a function of the step only.

A schedule is part of a competitor's declaration and so of a run's identity. Each begins with a linear warm-up
over ``warmup``, a fraction of the run.
"""

import math

import msgspec

FLOAT_NOISE = 1e-12
"""Share of a product by which it may be off for being computed in floating point, which makes no step of its own."""
_DIGITS = 9
"""Of a number of steps; what is behind them is noise, too."""


class _Schedule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", gc=False):
    warmup: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no schedule."""
        if not 0.0 <= self.warmup < 1.0:
            raise ValueError(f"warmup is a fraction of the run in [0, 1), not {self.warmup}")


class Constant(_Schedule, frozen=True, tag="constant"):
    """The declared learning rate throughout."""


class Step(_Schedule, frozen=True, tag="step"):
    """Multiply by ``decay`` at each of the ``milestones`` (fractions of the run after warm-up)."""

    milestones: tuple[float, ...] = (0.5, 0.75)
    decay: float = 0.1


class Cosine(_Schedule, frozen=True, tag="cosine"):
    """Half a cosine from 1 to ``final`` (Loshchilov and Hutter, 2017, equation 5, without restarts)."""

    final: float = 0.0


Schedule = Constant | Step | Cosine


def kind_of(schedule: Schedule) -> str:
    """What files, pages and the command line call it.

    >>> kind_of(Cosine(final=0.1))
    'cosine'
    """
    return str(schedule.__struct_config__.tag)


def learning_rate_factor(schedule: Schedule, step: int, total: int) -> float:
    """Factor on the declared learning rate at ``step``, counted from 0, of a run of ``total`` steps.

    >>> [learning_rate_factor(Step(milestones=(0.5,)), step, 4) for step in range(4)]
    [1.0, 1.0, 0.1, 0.1]
    >>> [learning_rate_factor(Constant(warmup=0.5), step, 4) for step in range(4)]
    [0.5, 1.0, 1.0, 1.0]
    """
    warmup_steps = round(round(schedule.warmup * total, _DIGITS))  # 57.49999999999999 is 57.5
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / (total - warmup_steps)
    match schedule:
        case Constant():
            return 1.0
        case Step():
            passed = sum(progress >= milestone - FLOAT_NOISE for milestone in schedule.milestones)
            return float(schedule.decay**passed)
        case Cosine():
            return schedule.final + (1.0 - schedule.final) * 0.5 * (1.0 + math.cos(math.pi * progress))
