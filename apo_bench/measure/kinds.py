"""Kinds of steps of an update rule that does some of its work at intervals, and how often each occurs."""

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

from apo_bench.problem.rule import Periodic, UpdateRule

T = TypeVar("T")

PLAIN = "plain"
"""Name of the steps in which nothing periodic is due."""
_FAR = 1_000_000
"""Steps behind which no warm-up lasts and nothing happens only once."""


@dataclass(frozen=True)
class Kind:
    """Steps that do the same.

    Attributes:
        name: What is due in them, in the order of the rule's intervals: ``plain``, ``factors+inverse``, ``meta``.
        share: Their share of all steps, exactly.
        at: A value of the rule's ``steps`` at which the next step is of this kind; a million or more.
    """

    name: str
    share: Fraction
    at: int


def step_kinds(rule: UpdateRule) -> tuple[Kind, ...]:
    """Tell the steps of a rule apart by what is due in them.

    Returns:
        All kinds that occur, plain steps first; their shares add up to 1. A rule that is not `Periodic`, or whose
        ``intervals`` are empty, has plain steps only.

    Raises:
        ValueError: An interval is below 1.

    >>> class Rule:
    ...     steps, intervals = 0, {"factors": 2, "inverse": 6}
    >>> [(kind.name, str(kind.share), kind.at) for kind in step_kinds(Rule())]
    [('plain', '1/2', 1000003), ('factors', '1/3', 1000004), ('factors+inverse', '1/6', 1000008)]
    """
    intervals = _intervals(rule)
    start = far_cycle(rule)
    kinds = []
    for due in _subsets(intervals):
        # All of `due` is due at the multiples of `together`. What is due at the first of them is due at each, and
        # so the first is of this kind, or none is.
        together = math.lcm(*(intervals[name] for name in due))
        rest = [name for name in intervals if name not in due]
        if all(together % intervals[name] for name in rest):
            share = _share(together, [intervals[name] for name in rest])
            kinds.append(Kind("+".join(due) or PLAIN, share, start + together))
    return tuple(kinds)


def far_cycle(rule: UpdateRule) -> int:
    """A value of the rule's ``steps``, a million or more, at which everything declared is due.

    Raises:
        ValueError: An interval is below 1.
    """
    cycle = math.lcm(*_intervals(rule).values())
    return -(-_FAR // cycle) * cycle


def due_at(intervals: Mapping[str, int], steps: int) -> tuple[str, ...]:
    """What is due in the step at ``steps``, in the order of the intervals."""
    return tuple(name for name, interval in intervals.items() if steps % interval == 0)


def _intervals(rule: UpdateRule) -> Mapping[str, int]:
    intervals: Mapping[str, int] = rule.intervals if isinstance(rule, Periodic) else {}
    for name, interval in intervals.items():
        if interval < 1:
            raise ValueError(f"an interval is 1 or more, not {interval} ({name})")
    return intervals


def prepare_kind(rule: UpdateRule, kind: Kind) -> None:
    """Let the next step of the rule be of this kind; a rule that is not `Periodic` stays as it is."""
    if isinstance(rule, Periodic):
        rule.steps = kind.at


def _share(multiple: int, others: list[int]) -> Fraction:
    """Share of the multiples of a number that none of the others divides, among all integers: inclusion-exclusion."""
    return sum(
        (Fraction((-1) ** len(chosen), math.lcm(multiple, *chosen)) for chosen in _subsets(others)), start=Fraction(0)
    )


def _subsets(items: Iterable[T]) -> Iterable[tuple[T, ...]]:
    own = tuple(items)
    return itertools.chain.from_iterable(itertools.combinations(own, count) for count in range(len(own) + 1))
