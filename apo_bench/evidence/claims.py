"""Claims of the paper, judged: one verdict for each place that can decide, and one for each claim.

**A place** is a question on a task with its device, budget and precision. It is judged only where its precondition is
*shown*: the lower end of the interval, and not the estimate alone, lies above the margin. Ground that passes by luck
would let "competitive" win on it, since two methods tie wherever nothing makes a difference (assay sensitivity: ICH
E10, Choice of Control Group, 2000, section 1.5).

**Better** is contradicted where the interval lies below the margin, and else supported where it lies above "no
difference".
**Not worse by more than the margin** is supported where the interval lies above the margin on the bad side (one of the
two one-sided tests of Schuirmann, J. Pharmacokin. Biopharm. 15, 1987) and contradicted where it lies below. A
divergence has no value and is worse than any: where more than half of one side's runs diverged or raised, and none of
the other's, that decides.

**The family** is all places of a claim that the suites declare at the scale, whether or not they have run: their
intervals hold together at 95 %, and so do those of the preconditions.

**A claim** is supported where every place that was judged supports it; contradicted where one contradicts and none
supports; mixed where some do either; else undecided.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum

from apo_bench.evidence import families
from apo_bench.evidence.bounds import Compared, compare, direction_of
from apo_bench.evidence.cells import Cells
from apo_bench.evidence.contrasts import Resolved, places, resolve
from apo_bench.evidence.estimates import FEWEST_SEEDS, Estimate, ValueScale, Verdict
from apo_bench.evidence.step_costs import Probes
from apo_bench.records.claim import Claim, Precondition, Question, Support
from apo_bench.records.contrast import Contrast
from apo_bench.records.facts import Direction
from apo_bench.records.suite import Suite


class Standing(StrEnum):
    """What became of a claim, or of a question in one place."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    MIXED = "mixed"
    UNDECIDED = "undecided"
    UNJUDGED = "not judged"


@dataclasses.dataclass(frozen=True)
class Place:
    """A question in one place, answered.

    Attributes:
        question: Which.
        compared: Its contrast there.
        gate: The contrast of its precondition there; `None` where it has none.
        standing: What follows.
        reason: Why it is not judged or undecided; empty otherwise.
        declared: Seeds that the suite declares there; `None` where it does not say.
    """

    question: Question
    compared: Compared
    gate: Compared | None
    standing: Standing
    reason: str = ""
    declared: int | None = None

    @property
    def doubt(self) -> str:
        """What is known against its interval; empty where nothing is."""
        estimate = self.compared.estimate
        doubts = [estimate.doubt] if estimate.doubt else []
        is_early = self.declared is not None and FEWEST_SEEDS <= estimate.n < self.declared
        if is_early and not self.compared.place.quantity.exact and self.standing is not Standing.UNJUDGED:
            doubts.append(f"{estimate.n} of {self.declared} declared seeds: looking before the last raises the error")
        return "; ".join(doubts)


@dataclasses.dataclass(frozen=True)
class Judged:
    """A claim, judged.

    Attributes:
        claim: Which.
        standing: The verdict.
        places: Where one of the cells of a question has a run.
        declared: Number of places that the suites declare.
        suites: Those that declare some.
    """

    claim: Claim
    standing: Standing
    places: tuple[Place, ...]
    declared: int
    suites: tuple[str, ...]

    def count(self, standing: Standing) -> int:
        """In how many places a question ended so."""
        return sum(place.standing is standing for place in self.places)


def judge(
    claims: Sequence[Claim], suites: Mapping[str, Suite], held: Mapping[str, Cells], probes: Probes
) -> tuple[Judged, ...]:
    """Judge claims.

    Args:
        claims: Which.
        suites: Those that they name, as declared.
        held: What counts of a store, by suite; suites without runs may be missing.
        probes: What steps cost.
    """
    return tuple(_judge(claim, suites, held, probes) for claim in claims)


def _judge(claim: Claim, suites: Mapping[str, Suite], held: Mapping[str, Cells], probes: Probes) -> Judged:
    sizes = [declared_places(question, suites[question.suite]) for question in claim.questions]
    families_of: Counter[str] = Counter()
    for question, size in zip(claim.questions, sizes, strict=True):
        families_of[question.contrast.quantity] += size
    found: list[Place] = []
    for question, size in zip(claim.questions, sizes, strict=True):
        cells = held.get(question.suite)
        if cells is not None and size:
            family = families_of[question.contrast.quantity]
            found += _places(question, suites[question.suite], cells, probes, family)
    deciding = {question.suite: None for question, size in zip(claim.questions, sizes, strict=True) if size}
    return Judged(claim, combine([place.standing for place in found]), tuple(found), sum(sizes), tuple(deciding))


def declared_places(question: Question, suite: Suite) -> int:
    """In how many places a suite declares both sides of a question and of its precondition."""
    return sum(min(places(suite, entry, one) for one in question.contrasts) for entry in suite.tasks)


def combine(standings: Sequence[Standing]) -> Standing:
    """One verdict of those of all places; what was not judged has no say.

    >>> str(combine([Standing.SUPPORTED, Standing.UNJUDGED])), str(combine([Standing.SUPPORTED, Standing.UNDECIDED]))
    ('supported', 'undecided')
    >>> str(combine([Standing.CONTRADICTED, Standing.UNDECIDED])), str(combine([]))
    ('contradicted', 'not judged')
    """
    judged = set(standings) - {Standing.UNJUDGED}
    if not judged:
        return Standing.UNJUDGED
    if {Standing.SUPPORTED, Standing.CONTRADICTED} <= judged:
        return Standing.MIXED
    if Standing.CONTRADICTED in judged:
        return Standing.CONTRADICTED
    return Standing.SUPPORTED if judged == {Standing.SUPPORTED} else Standing.UNDECIDED


def _places(question: Question, suite: Suite, cells: Cells, probes: Probes, family: int) -> list[Place]:
    contrast, precondition = question.contrast, question.precondition
    gates: dict[object, Compared] = {}
    if precondition is not None:
        bound = precondition.contrast.margin or 0.0
        gates = {_key(place): compare(place, probes, family, bound) for place in resolve(precondition.contrast, cells)}
    seeds = {name: len(entry.seeds) for entry in suite.tasks for name in (entry.task, entry.on_cuda)}
    found = []
    for place in resolve(contrast, cells):
        bound = 0.0 if question.support is Support.BETTER else -(contrast.margin or 0.0)
        compared = compare(place, probes, family, bound)
        gate = gates.get(_key(place))
        standing, reason = _standing(question, compared, gate)
        found.append(Place(question, compared, gate, standing, reason, seeds.get(place.workload.task)))
    return found


def _key(place: Resolved) -> object:
    """What a question and its precondition share: all but a precision that a contrast names."""
    is_named = place.contrast.left.precision is not None or place.contrast.right.precision is not None
    side = place.left or place.right
    return place.workload, None if is_named else place.precision, side is not None and side.cell.compile


def _standing(question: Question, compared: Compared, gate: Compared | None) -> tuple[Standing, str]:
    if question.precondition is not None and (gate is None or gate.verdict is not Verdict.BETTER):
        return Standing.UNJUDGED, _why_closed(question.precondition, gate)
    return _answer(question, compared)


def _answer(question: Question, compared: Compared) -> tuple[Standing, str]:
    """On ground that can decide."""
    estimate = compared.estimate
    if question.support is Support.BETTER and _is_below(estimate, question.contrast, compared.place):
        return Standing.CONTRADICTED, ""
    match compared.verdict:
        case Verdict.BETTER:
            return Standing.SUPPORTED, estimate.reason
        case Verdict.EQUIVALENT:  # a count that lies on the bound
            return Standing.SUPPORTED if question.support is Support.NOT_WORSE else Standing.CONTRADICTED, ""
        case Verdict.WORSE:
            return Standing.CONTRADICTED, estimate.reason
        case Verdict.UNDECIDED:
            return Standing.UNDECIDED, _how_open(compared)
        case Verdict.UNJUDGED:
            return Standing.UNDECIDED if compared.has_losses else Standing.UNJUDGED, estimate.reason


def _why_closed(precondition: Precondition, gate: Compared | None) -> str:
    if gate is None:
        return f"precondition: no such cells ({precondition.contrast.words})"
    if gate.verdict in {Verdict.WORSE, Verdict.EQUIVALENT}:
        return ": ".join(filter(None, ["precondition fails", gate.estimate.reason]))
    if gate.verdict is Verdict.UNDECIDED:
        return f"precondition not shown; {_seeds(gate.beyond)}"
    return f"precondition: {gate.estimate.reason}"


def _how_open(compared: Compared) -> str:
    estimate = compared.estimate
    if estimate.scale is ValueScale.LINEAR and estimate.half_width is not None:
        return f"± {estimate.half_width:.3g}; {_seeds(compared.beyond)}"
    return _seeds(compared.beyond)


def _seeds(beyond: Estimate) -> str:
    """How many would tell, were difference and spread as they were seen."""
    if beyond.seeds_missing is None:
        return f"more than {families.MOST_SEEDS} seeds a side would be needed"
    return f"about {beyond.seeds_missing} more seed{'' if beyond.seeds_missing == 1 else 's'} a side would tell"


def _is_below(estimate: Estimate, contrast: Contrast, place: Resolved) -> bool:
    """Whether a gain as large as the margin is excluded."""
    if estimate.low is None or estimate.high is None or estimate.n < FEWEST_SEEDS:
        return False
    is_log, margin = estimate.scale is ValueScale.LOG, contrast.margin or 0.0
    if direction_of(place) is Direction.MAXIMIZE:
        return estimate.high < (1.0 + margin if is_log else margin)
    return estimate.low > (1.0 / (1.0 + margin) if is_log else -margin)
