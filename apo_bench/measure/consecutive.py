"""Whether what a rule declares of its intervals is so: its consecutive steps are held against it.

`apo_bench.measure.kinds` sets a rule's ``steps`` to have a step of each kind, and composes the kinds by the declared
intervals. That is right for a rule that keeps to `Periodic`. A rule that does something at intervals and does not say
so, or counts by a number of its own, shows in steps that are taken one after the other.
"""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from apo_bench.measure.kinds import Kind, due_at, far_cycle
from apo_bench.problem.rule import Periodic, UpdateRule

CONSECUTIVE = 100
"""Steps that are counted one after the other; what recurs more rarely than that, undeclared, is not seen."""
FEWEST = 20
"""The same after a short run."""
HOW = "see `Periodic` in docs/add-an-optimizer.md"
"""Where the contract is described."""


@dataclass(frozen=True)
class Taken:
    """A counted step.

    Attributes:
        at: The rule's ``steps`` before it; where the rule is not `Periodic`, its place among the steps, from 0.
        cost: What it cost.
        declared: What a step of its kind costs.
    """

    at: int
    cost: int
    declared: int


def consecutive_after(steps: int) -> int:
    """How many steps are counted one after the other at the end of a run: a tenth of its steps, at least `FEWEST`."""
    return min(CONSECUTIVE, max(FEWEST, steps // 10))


def first_of(rule: UpdateRule, count: int) -> int:
    """A value of ``steps`` from which ``count`` steps have the one in their middle where everything declared is due."""
    return far_cycle(rule) - count // 2


def unheeded(rule: UpdateRule, kinds: Sequence[Kind], costs: Mapping[str, object], count: int) -> str | None:
    """Say which declared work, too rare to be seen twice in ``count`` consecutive steps, was not done where it is due.

    Args:
        rule: Whose intervals they are.
        kinds: Its kinds of steps.
        costs: What a step of each kind costs, by name.
        count: Consecutive steps.
    """
    intervals: Mapping[str, int] = rule.intervals if isinstance(rule, Periodic) else {}
    by_due = {frozenset(due_at(intervals, kind.at)): costs[kind.name] for kind in kinds}
    for name, interval in intervals.items():
        pairs = [(due, due - {name}) for due in by_due if name in due and due - {name} in by_due]
        if 2 * interval > count and pairs and all(by_due[due] == by_due[without] for due, without in pairs):
            return (
                f"`intervals` says that {name!r} is done every {interval} steps, but a step at a multiple of that in "
                f"`steps` costs what the others do; {HOW}"
            )
    return None


def contradiction(  # noqa: PLR0911 - a case a sentence
    rule: UpdateRule, taken: Sequence[Taken], unit: str
) -> str | None:
    """Say what is wrong with the declared intervals of a rule, by its consecutive steps.

    Args:
        rule: Whose intervals they are.
        taken: Consecutive steps.
        unit: Of their costs.

    Returns:
        A line; `None` where every step cost what one of its kind does.
    """
    if all(step.cost == step.declared for step in taken):
        return None
    counted = f"of {len(taken)} consecutive steps"
    intervals: Mapping[str, int] = rule.intervals if isinstance(rule, Periodic) else {}
    usual = _usual([step.cost for step in taken])
    other = [step for step in taken if step.cost != usual]
    period = _period([step.at for step in other])
    often = "" if period is None else f", one every {period} steps,"
    seen = f"{counted} {len(other)}{often} cost {_range(other)} {unit}, the others {usual:,}"
    if not isinstance(rule, Periodic):
        missing = "which no interval describes" if period is None else "and the rule declares no intervals"
        return f"{seen}, {missing}; {HOW}"
    if not intervals:
        return f"{seen}, and `intervals` is empty; {HOW}"
    declared = ", ".join(f"{name!r} every {interval} steps" for name, interval in intervals.items())
    if not other:
        return f"`intervals` says {declared}, but {counted} all cost {usual:,} {unit}; {HOW}"
    if len(intervals) == 1 and period in intervals.values():
        return (
            f"`intervals` says {declared}, and so it is, but not where that divides `steps`: the rule counts by a "
            f"number of its own, and must do what is due at `steps`, also after `steps` was set; {HOW}"
        )
    if len(intervals) == 1 and period is not None:
        either = "`intervals` is wrong, or what is done is not due at it"
        return f"`intervals` says {declared}, but {seen}: {either}; {HOW}"
    wrong = next(step for step in taken if step.cost != step.declared)
    due = " and ".join(map(repr, due_at(intervals, wrong.at))) or "nothing"
    return (
        f"`intervals` says {declared}, but the step at {wrong.at:,}, in which {due} is due, costs {wrong.cost:,} "
        f"{unit} and not {wrong.declared:,}; {seen}; {HOW}"
    )


def _usual(costs: Sequence[int]) -> int:
    """The most frequent cost, the lowest of these."""
    counts = Counter(costs)
    return min(counts, key=lambda cost: (-counts[cost], cost))


def _period(places: Sequence[int]) -> int | None:
    """Distance between the places, where it is always the same."""
    distances = {after - before for before, after in itertools.pairwise(places)}
    return distances.pop() if len(distances) == 1 else None


def _range(steps: Sequence[Taken]) -> str:
    costs = sorted({step.cost for step in steps})
    return f"{costs[0]:,}" if len(costs) == 1 else f"{costs[0]:,} to {costs[-1]:,}"
