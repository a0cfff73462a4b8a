"""Is anything worse than it was? Pure functions from two baselines to findings.

What needs no clock is compared exactly: FLOPs and operator calls of a step, bytes of state. Quality is compared seed by
seed, and the cost of a step as a ratio to the reference's; both are called worse, or better, only by intervals that
hold together at 95 % (Bonferroni over everything of a kind that is judged), so that noise fails one check in twenty at
most. A run that diverges where it did not is worse without any statistics. What cannot be judged says why.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum

from apo_bench.evidence.intervals import CONFIDENCE
from apo_bench.evidence.quantities import QUANTITIES, axis_of_name
from apo_bench.evidence.snapshot import FEWEST_PROCESSES
from apo_bench.evidence.summary import contrast
from apo_bench.numbers import mean
from apo_bench.records.cell import REFERENCE, Contender
from apo_bench.records.facts import Axis, Direction
from apo_bench.records.snapshot import CellSnapshot, SeedSnapshot, Snapshot

FEWEST_SEEDS = 3
"""With two, equal differences by chance leave no spread to judge by."""


class Quantity(StrEnum):
    """What is compared."""

    FLOPS = "flops"
    CALLS = "calls"
    STATE = "state"
    QUALITY = "quality"
    STEP = "step"

    @property
    def words(self) -> str:
        """For a reader."""
        return _TITLES[self]


_TITLES = {
    Quantity.FLOPS: QUANTITIES["flops_per_step"].title,
    Quantity.CALLS: QUANTITIES["operator_calls_per_step"].title,
    Quantity.STATE: QUANTITIES["state_bytes"].title,
    Quantity.QUALITY: QUANTITIES["validation_value"].title,
    Quantity.STEP: f"step / {REFERENCE}",
}


class Verdict(StrEnum):
    """What came out of a comparison."""

    WORSE = "worse"
    MISSING = "missing"
    BETTER = "better"
    UNJUDGED = "not judged"
    HOLDS = "holds"

    @property
    def fails(self) -> bool:
        """Whether a check with such a finding does not hold."""
        return self in {Verdict.WORSE, Verdict.MISSING}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One comparison.

    Attributes:
        cell: Title of the cell.
        quantity: What was compared; `None` where the whole cell is missing or new.
        verdict: What came out.
        before: In the baseline, a mean over what is compared; `None` where it is not known.
        now: The same in the records.
        reason: Why, in words; empty where the numbers say it.
    """

    cell: str
    quantity: Quantity | None
    verdict: Verdict
    before: float | None = None
    now: float | None = None
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Tolerances:
    """What may become worse before it is called so.

    Attributes:
        flops: A share.
        calls: A share.
        state: A share.
        quality: In the metric's own unit.
        step: A share.
    """

    flops: float = 0.0
    calls: float = 0.0
    state: float = 0.0
    quality: float = 0.0
    step: float = 0.03


HELD = (Quantity.FLOPS, Quantity.STATE, Quantity.QUALITY, Quantity.STEP)
"""What is compared unless something else is asked for. Operator calls are not: every change of code moves them."""


def check(
    before: Snapshot,
    now: Snapshot,
    held: Iterable[Quantity] = HELD,
    tolerances: Tolerances = Tolerances(),
) -> list[Finding]:
    """Compare a suite with its baseline.

    Cells are matched by their setting. Where a setting changed (another default, a new hyperparameter) and an optimizer
    has one cell left in a place on either side, these two are compared, and the change is said.

    Returns:
        The worst first.
    """
    held = tuple(held)
    pairs, missing, new = _matched(before.cells, now.cells)
    findings = [_without_partner(cell, new) for cell in missing]
    unknown = "not in the baseline; --save takes it in"
    findings += [Finding(cell.cell.title, None, Verdict.UNJUDGED, reason=unknown) for cell in new]
    for old, own in pairs:
        findings += _missing_seeds(old, own)
        changed = _changes(old, own)
        exact: list[tuple[Quantity, Callable[[SeedSnapshot], float | None], float]] = [
            (Quantity.FLOPS, lambda seed: seed.flops_per_step, tolerances.flops),
            (Quantity.CALLS, lambda seed: seed.operator_calls_per_step, tolerances.calls),
            (Quantity.STATE, lambda seed: seed.state_bytes, tolerances.state),
        ]
        findings += [
            _exact(old, own, quantity, value, tolerance, changed)
            for quantity, value, tolerance in exact
            if quantity in held
        ]
    if Quantity.QUALITY in held:
        judged = sum(len(_common(old, own)) >= FEWEST_SEEDS for old, own in pairs)
        findings += [_quality(old, own, judged, tolerances.quality) for old, own in pairs]
    if Quantity.STEP in held:
        judged = sum(_why_no_step(old, own) is None for old, own in pairs)
        findings += [_step_cost(old, own, judged, tolerances.step) for old, own in pairs]
    order = list(Verdict)
    return sorted(findings, key=lambda finding: order.index(finding.verdict))


def _without_partner(cell: CellSnapshot, new: Sequence[CellSnapshot]) -> Finding:
    reason = "no result; run the suite first"
    if any(other.cell.contender == cell.cell.contender for other in new):
        reason = "no result with this setting, and several settings that it may have become; --save again"
    return Finding(cell.cell.title, None, Verdict.MISSING, reason=reason)


def _matched(
    before: Sequence[CellSnapshot], now: Sequence[CellSnapshot]
) -> tuple[list[tuple[CellSnapshot, CellSnapshot]], list[CellSnapshot], list[CellSnapshot]]:
    """Pairs of cells, those that only the baseline has, and the new ones."""
    left: dict[Contender, list[CellSnapshot]] = defaultdict(list)
    for own in now:
        left[own.cell.contender].append(own)
    pairs = []
    unmatched: dict[Contender, list[CellSnapshot]] = defaultdict(list)
    for old in before:
        contender = old.cell.contender
        same = next((own for own in left[contender] if own.optimizer == old.optimizer), None)
        if same is None:
            unmatched[contender].append(old)
        else:
            pairs.append((old, same))
            left[contender].remove(same)
    missing = []
    for contender, rivals in unmatched.items():
        if len(rivals) == len(left[contender]) == 1:
            pairs.append((rivals[0], left[contender].pop()))
        else:
            missing += rivals
    return pairs, missing, [own for cells in left.values() for own in cells]


def _changes(old: CellSnapshot, own: CellSnapshot) -> str:
    """What of the setting is another."""
    if old.optimizer == own.optimizer:
        return ""
    before, now = old.optimizer.hyperparameters, own.optimizer.hyperparameters
    changed = [
        f"{name} {before.get(name, 'not there')} → {now.get(name, 'not there')}"
        for name in sorted(before.keys() | now.keys())
        if name not in before or name not in now or before[name] != now[name]
    ]
    if old.optimizer.schedule != own.optimizer.schedule:
        changed.append("another schedule")
    return f"the setting changed: {', '.join(changed)}"


def _missing_seeds(old: CellSnapshot, own: CellSnapshot) -> Iterable[Finding]:
    gone = sorted(old.seeds.keys() - own.seeds.keys())
    if gone:
        seeds = ", ".join(map(str, gone))
        yield Finding(own.cell.title, None, Verdict.MISSING, reason=f"no result for seed {seeds}; run the suite first")


def _exact(
    old: CellSnapshot,
    own: CellSnapshot,
    quantity: Quantity,
    value: Callable[[SeedSnapshot], float | None],
    tolerance: float,
    changed: str,
) -> Finding:
    """Compare what needs no clock, seed by seed; the seed that changed most decides."""
    pairs = [
        (before, now)
        for seed, was in old.seeds.items()
        if seed in own.seeds and (before := value(was)) is not None and (now := value(own.seeds[seed])) is not None
    ]
    lost = [
        seed
        for key, was in old.seeds.items()
        if (seed := own.seeds.get(key)) is not None
        and value(was) is not None
        and value(seed) is None
        and seed.diverged_step is None
        and not seed.emulated
    ]
    if lost:
        why = next((f": {seed.not_counted}" for seed in lost if seed.not_counted), "")
        return Finding(own.cell.title, quantity, Verdict.MISSING, reason=f"counted in the baseline and not now{why}")
    if not pairs:
        if any(seed.emulated for seed in (*old.seeds.values(), *own.seeds.values())):
            return Finding(
                own.cell.title, quantity, Verdict.UNJUDGED, reason="emulated, then or now: no cost of its format"
            )
        if any(seed.diverged_step is not None for seed in own.seeds.values()):
            return Finding(own.cell.title, quantity, Verdict.UNJUDGED, reason="not counted: it diverged")
        why = next((f"; now neither: {seed.not_counted}" for seed in own.seeds.values() if seed.not_counted), "")
        return Finding(own.cell.title, quantity, Verdict.UNJUDGED, reason=f"not counted in the baseline{why}")
    before, now = max(pairs, key=lambda pair: pair[1] - pair[0])
    if now > before * (1.0 + tolerance):
        verdict = Verdict.WORSE
    elif now < before:
        verdict = Verdict.BETTER
    else:
        verdict = Verdict.HOLDS
    reasons = [changed] if changed else []
    if quantity is Quantity.STATE and now != before:
        reasons.append(_purposes(old.seeds, own.seeds))
    reason = "" if verdict is Verdict.HOLDS else "; ".join(filter(None, reasons))
    return Finding(own.cell.title, quantity, verdict, before, now, reason)


def _purposes(before: Mapping[int, SeedSnapshot], now: Mapping[int, SeedSnapshot]) -> str:
    """Which state grew or shrank."""
    seed = min(before.keys() & now.keys())
    old, new = before[seed].state_by_purpose, now[seed].state_by_purpose
    return ", ".join(
        f"{name} {old.get(name, 0)} → {new.get(name, 0)} bytes"
        for name in sorted(old.keys() | new.keys())
        if old.get(name, 0) != new.get(name, 0)
    )


def _common(old: CellSnapshot, own: CellSnapshot) -> list[tuple[float, float]]:
    """Validation metrics of the seeds that both have."""
    pairs = []
    for seed, was in old.seeds.items():
        became = own.seeds.get(seed)
        if became is not None and was.validation is not None and became.validation is not None:
            pairs.append((was.validation, became.validation))
    return pairs


def _quality(old: CellSnapshot, own: CellSnapshot, judged: int, tolerance: float) -> Finding:
    if (old.metric, old.direction) != (own.metric, own.direction):
        reason = f"the metric was {old.metric} and is {own.metric}; --save again"
        return Finding(own.cell.title, Quantity.QUALITY, Verdict.UNJUDGED, reason=reason)
    lost, saved = (
        [
            seed
            for seed in sorted(one.seeds.keys() & other.seeds.keys())
            if one.seeds[seed].diverged_step is None and other.seeds[seed].diverged_step is not None
        ]
        for one, other in ((old, own), (own, old))
    )
    quantity, pairs = Quantity.QUALITY, _common(old, own)
    before, now = (mean(values) if values else None for values in ([b for b, _ in pairs], [n for _, n in pairs]))
    if lost:
        steps = ", ".join(f"seed {seed} at step {own.seeds[seed].diverged_step}" for seed in lost)
        return Finding(own.cell.title, quantity, Verdict.WORSE, before, now, f"diverged: {steps}")
    if pairs and all(was == became for was, became in pairs):
        same = Verdict.BETTER if saved else Verdict.HOLDS
        return Finding(own.cell.title, quantity, same, before, now, _no_longer(saved))
    if saved and len(pairs) < FEWEST_SEEDS:
        return Finding(own.cell.title, quantity, Verdict.BETTER, before, now, _no_longer(saved))
    verdict, said = _difference(pairs, own, judged, tolerance)
    if saved and verdict is Verdict.HOLDS:
        verdict = Verdict.BETTER
    return Finding(own.cell.title, quantity, verdict, before, now, "; ".join(filter(None, [said, _no_longer(saved)])))


def _difference(
    pairs: Sequence[tuple[float, float]], own: CellSnapshot, judged: int, tolerance: float
) -> tuple[Verdict, str]:
    """Judge paired differences, and say them: of logarithms for a metric on such an axis, unless a tolerance is given.

    A tolerance has the metric's own unit, and so have the differences that it is held against.
    """
    if len(pairs) < FEWEST_SEEDS:
        return Verdict.UNJUDGED, f"n = {len(pairs)}; a difference is judged from {FEWEST_SEEDS} seeds on"
    axis = Axis.LINEAR if tolerance else axis_of_name(own.metric)
    found = contrast([now for _, now in pairs], [was for was, _ in pairs], axis, comparisons=judged)
    if found is None:
        return Verdict.UNJUDGED, "a difference is larger than any number"
    sign = -1.0 if own.direction is Direction.MAXIMIZE else 1.0
    worsened, half = sign * found.interval.mean, found.interval.half_width
    change = f"× {found.mean:.3g}" if found.axis is Axis.LOG else f"{found.mean:+.3g}"
    if not half:
        return Verdict.UNJUDGED, f"{change} for each of {len(pairs)} seeds: equal differences show no spread"
    if worsened - half > tolerance:
        verdict = Verdict.WORSE
    elif worsened + half < 0:
        verdict = Verdict.BETTER
    else:
        verdict = Verdict.HOLDS
    spread = f"± {half:.2g}" if found.factor is None else f"×/÷ {found.factor:.3g}"
    return verdict, f"{change} {spread}, n = {len(pairs)}"


def _no_longer(seeds: Sequence[int]) -> str:
    return f"no longer diverges: seed {', '.join(map(str, seeds))}" if seeds else ""


def _why_no_step(old: CellSnapshot, own: CellSnapshot) -> str | None:
    """Why the costs of a step are not compared; `None` where they are."""
    if old.optimizer.name == REFERENCE:
        return "it is what the others are divided by"
    if old.step is None or own.step is None:
        when = "in the baseline" if old.step is None else "now"
        return f"no probe without a doubt {when}"
    if min(len(old.step.logarithms), len(own.step.logarithms)) < FEWEST_PROCESSES:
        return "one process shows no spread"
    if (old.step.device_name, old.step.threads) != (own.step.device_name, own.step.threads):
        return (
            f"probed on {own.step.device_name} with {own.step.threads} threads, the baseline on "
            f"{old.step.device_name} with {old.step.threads}"
        )
    return None


def _step_cost(old: CellSnapshot, own: CellSnapshot, judged: int, tolerance: float) -> Finding:
    before, now = (math.exp(mean(one.step.logarithms)) if one.step else None for one in (old, own))
    reason = _why_no_step(old, own)
    if reason is not None or old.step is None or own.step is None:
        return Finding(own.cell.title, Quantity.STEP, Verdict.UNJUDGED, before, now, reason or "")
    from scipy import stats  # takes most of a second to import

    welch = stats.ttest_ind(own.step.logarithms, old.step.logarithms, equal_var=False)
    interval = welch.confidence_interval(1.0 - (1.0 - CONFIDENCE) / judged)
    low, high = math.expm1(interval.low), math.expm1(interval.high)
    if low > tolerance:
        verdict = Verdict.WORSE
    elif high < 0:
        verdict = Verdict.BETTER
    else:
        verdict = Verdict.HOLDS
    return Finding(
        own.cell.title, Quantity.STEP, verdict, before, now, f"between {100 * low:+.1f} and {100 * high:+.1f} %"
    )
