"""What steps cost in floating-point operations (FLOPs), as the shapes say, not the kernels.

`exact_cost` counts whole steps with their optimizer, as they run; plans count a network's own passes by the same
counter (`apo_bench.measure.counter`).

A multiply-add is 2 FLOPs, and the number format makes no difference. Counted are products of matrices and vectors,
convolutions, attention (dense, masks left aside), recurrent layers, and factorizations of matrices
(`apo_bench.measure.formulas`). Not counted is what takes a few operations a number (`apo_bench.measure.uncounted`):
activations, losses, the moments of Adam, sums and norms, lookups, pooling. Where anything else runs there is no count,
but the reason, which names the operator.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from apo_bench.measure.consecutive import CONSECUTIVE, HOW, Taken, contradiction, first_of, unheeded
from apo_bench.measure.counter import FlopCounter, unknown_operators
from apo_bench.measure.kinds import PLAIN, Kind, due_at, prepare_kind, step_kinds
from apo_bench.problem.precision import LossScale
from apo_bench.problem.problem import Problem
from apo_bench.problem.rule import Periodic, UpdateRule

if TYPE_CHECKING:
    from apo_bench.data.examples import Batch


@dataclass(frozen=True)
class ExactCost:
    """What a step costs, counted.

    Attributes:
        flops_per_step: Floating-point operations, a mean over a whole cycle of the rule's intervals; `None` where they
            are not known.
        operator_calls_per_step: Calls of torch operators, likewise. Views count, but for ``detach``; where 16 bit is
            emulated, so do the emulation's conversions.
        by_kind: Both by the name of the kind of step (`apo_bench.measure.kinds`).
        not_counted: Why something of it is not known, in one line.
    """

    flops_per_step: float | None
    operator_calls_per_step: float | None
    by_kind: Mapping[str, tuple[int | None, int]]
    not_counted: str | None = None

    @classmethod
    def unknown(cls, reason: str | None) -> "ExactCost":
        """Nothing counted, for a reason."""
        return cls(None, None, {}, reason)


@dataclass(frozen=True)
class _Counted:
    """One step: FLOPs of operators with a formula, operator calls, and the operators without a formula."""

    flops: int
    calls: int
    unknown: tuple[str, ...]


def exact_cost(
    rule: UpdateRule, problem: Problem, draw: Callable[[], "Batch"], consecutive: int = CONSECUTIVE
) -> ExactCost | None:
    """Count what a step of a rule costs, the network's passes included: the loss, the update, all that is periodic.

    Takes an uncounted step, in which a fresh rule makes its state, and then one of each kind, all on one batch, with
    everything as it is without `torch.compile`. Then it takes consecutive steps, which must cost what the kinds say;
    otherwise the rule does not keep to the intervals that it declares (`Periodic`), and its cost is not known. Where
    batches differ in shape (padded sequences) the count is that of the batch drawn. Changes the parameters and the
    state of the rule: for the end of a run.

    Args:
        rule: Counted as it is now.
        problem: What it steps on.
        draw: Draws the batch.
        consecutive: Number of consecutive steps; undeclared work that recurs more rarely is not seen.

    Returns:
        The count; `None` where loss scaling kept skipping a step, or what is periodic in it, until attempts ran out.

    Raises:
        Exception: Whatever the rule raises.
    """
    steps = _Steps(rule, problem, draw())
    with problem.uncompiled(), nothing_compiled():
        if steps.next() is None:
            return None
        with problem.drawing(steps.draw_again):
            kinds = step_kinds(rule)
            by_kind = {}
            for kind in kinds:
                counted = steps.next(kind)
                if counted is None:
                    return None
                by_kind[kind.name] = counted
            taken = steps.consecutive(consecutive)
    return None if taken is None else _composed(rule, kinds, by_kind, taken, steps.miscounted)


def _composed(
    rule: UpdateRule,
    kinds: Sequence[Kind],
    by_kind: Mapping[str, _Counted],
    steps: Sequence[tuple[int, _Counted]],
    miscounted: str | None,
) -> ExactCost:
    """Means over a cycle, as far as the consecutive steps bear them out."""
    intervals = rule.intervals if isinstance(rule, Periodic) else {}
    pairs = [(at, counted, by_kind["+".join(due_at(intervals, at)) or PLAIN]) for at, counted in steps]
    wrong_flops = (
        miscounted
        or unheeded(rule, kinds, by_kind, len(steps))
        or contradiction(rule, [Taken(at, one.flops, declared.flops) for at, one, declared in pairs], "FLOPs")
    )
    wrong_calls = wrong_flops or contradiction(
        rule, [Taken(at, one.calls, declared.calls) for at, one, declared in pairs], "operator calls"
    )
    unknown = {name: None for counted in (*by_kind.values(), *(one for _, one in steps)) for name in counted.unknown}
    reasons = [unknown_operators(unknown)] if unknown else []
    reasons += [wrong_calls] if wrong_calls else []
    flops, calls = (
        float(sum((kind.share * getattr(by_kind[kind.name], what) for kind in kinds), start=Fraction(0)))
        for what in ("flops", "calls")
    )
    return ExactCost(
        None if unknown or wrong_flops else flops,
        None if wrong_calls else calls,
        {name: (None if counted.unknown else counted.flops, counted.calls) for name, counted in by_kind.items()},
        "; ".join(reasons) or None,
    )


class _Steps:
    """Takes steps of a rule on one batch and counts them.

    Args:
        rule: Takes them.
        problem: What it steps on.
        batch: What it is given.

    Attributes:
        miscounted: What is wrong with how the rule counts its consecutive steps, in one line.
    """

    def __init__(self, rule: UpdateRule, problem: Problem, batch: "Batch") -> None:
        self._rule = rule
        self._problem = problem
        self._batch = batch
        self._calls = _OperatorCalls()
        self.miscounted: str | None = None

    def next(self, kind: Kind | None = None) -> _Counted | None:
        """Count a step of a kind, or the one that is next; taken again where something overflowed."""
        for _ in range(_ATTEMPTS):
            if kind is not None:
                prepare_kind(self._rule, kind)
            counted = self._once()
            if counted is not None:
                return counted
        return None

    def consecutive(self, count: int) -> list[tuple[int, _Counted]] | None:
        """Count steps one after the other, each with the rule's ``steps`` before it, or its place from 0.

        A step in which something overflowed was taken or not, and is left out.
        """
        rule = self._rule
        if isinstance(rule, Periodic):
            rule.steps = first_of(rule, count)
        steps: list[tuple[int, _Counted]] = []
        self.miscounted = None
        failed = 0
        while len(steps) < count:
            at = rule.steps if isinstance(rule, Periodic) else len(steps)
            counted = self._once()
            if counted is not None:
                if isinstance(rule, Periodic) and rule.steps != at + 1:
                    self.miscounted = f"a step at `steps` = {at:,} left it at {rule.steps:,}, not 1 more; {HOW}"
                steps.append((at, counted))
                failed = 0
            elif (failed := failed + 1) == _ATTEMPTS:
                return None
        return steps

    def draw_again(self, draw: Callable[[], "Batch"]) -> Callable[[], "Batch"]:
        """Draw once and give that batch each time: others may differ in shape. Its operator calls count each time."""
        drawn: list[tuple[Batch, int]] = []

        def again() -> "Batch":
            if drawn:
                self._calls.count += drawn[0][1]
            else:
                with _OperatorCalls() as own:
                    batch = draw()
                drawn.append((batch, own.count))
            return drawn[0][0]

        return again

    def _once(self) -> _Counted | None:
        """Count the next step; `None` where something overflowed in it.

        A stream of gradients that overflows may leave the step applied without what the stream is for, a meta-update
        or an estimate of curvature. Its loss scale falls then.
        """
        before = self._problem.state_dict()
        self._calls = _OperatorCalls()
        with self._calls, FlopCounter() as flops:
            applied = self._rule.step(self._batch).applied
        after = self._problem.state_dict()
        fell = any(scale["value"] < before.get(stream, _FRESH_SCALE)["value"] for stream, scale in after.items())
        return _Counted(flops.counted, self._calls.count, tuple(flops.unknown)) if applied and not fell else None


@contextlib.contextmanager
def nothing_compiled() -> Iterator[None]:
    """Run what went through `torch.compile` as if it had not: no counter sees into compiled kernels."""
    if "torch._dynamo" not in sys.modules:  # then nothing is compiled, and importing it takes seconds
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


_ATTEMPTS = 50
"""Enough for a loss scale to fall from 2³² to where nothing overflows in float16."""
_FRESH_SCALE = LossScale().state_dict()


class _OperatorCalls(TorchDispatchMode):
    """Counts the calls of torch's operators while active, as they reach the device's kernels or make views."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch leaves it untyped
        self.count = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Count the call and make it.

        Left out are marks for the profiler, and detaching, which autograd does to what it saves only while watched.
        """
        if getattr(func, "namespace", None) != "profiler" and func is not torch.ops.aten.detach.default:
            self.count += 1
        return func(*args, **(kwargs or {}))
