"""Claims: judged only on ground that can decide, over the places that were declared, in one stated way."""

from collections.abc import Sequence

import msgspec
import pytest
from support.records import FACTS, MADE_ON, flat, made_probe, record

from apo_bench.errors import UsageError
from apo_bench.evidence.cells import cells
from apo_bench.evidence.claims import Judged, Place, Standing, combine, declared_places, judge
from apo_bench.evidence.contrasts import resolve
from apo_bench.evidence.step_costs import Probes
from apo_bench.planning.grid import Waiting, unroll
from apo_bench.plugins.registry import optimizers
from apo_bench.records.claim import Claim, Precondition, Question, Support
from apo_bench.records.contrast import Contrast, Selector
from apo_bench.records.facts import Direction
from apo_bench.records.outcome import Diverged, Reason
from apo_bench.records.probe import ProbeRecord
from apo_bench.records.run import RunRecord
from apo_bench.records.spec import Device, Precision, Scalar, Scale
from apo_bench.records.suite import OptimizerEntry, Suite, TaskEntry
from apo_bench.suites.claims import claims, suites_of

OLD, NEW, BASE = (Selector(optimizer=name) for name in ("kfac", "apo-p", "sgdm"))
SPREAD = (-0.2, -0.1, 0.0, 0.1, 0.2)
NARROW = (-0.02, -0.01, 0.0, 0.01, 0.02)
LOSS = msgspec.structs.replace(FACTS, metric="mean squared error", direction=Direction.MINIMIZE)
GONE = Diverged(step=2, reason=Reason.TRAINING_LOSS)


def claim(support: Support, *, margin: float = 0.5) -> Claim:
    """The new method against the old one, where the old one beats the base by more than the margin."""
    sensitivity = Precondition("old beats base", Contrast(name="gate", left=OLD, right=BASE, margin=margin))
    question = Question("s", Contrast(name="c", left=NEW, right=OLD, margin=margin), support, sensitivity)
    return Claim(id="C9", statement="new is good", source="P", criterion="value", questions=(question,))


def suite(*tasks: str) -> Suite:
    return Suite(
        name="s", scale=Scale.LOCAL, title="S", tasks=tuple(TaskEntry(task=task, epochs=5) for task in tasks or ("t",)),
        optimizers=tuple(OptimizerEntry(optimizer=one.optimizer) for one in (OLD, NEW, BASE)),
        precisions=(Precision.FP32,),
    )  # fmt: skip


def runs(name: str, centre: float | None, spread: Sequence[float] = SPREAD, **fields: Scalar) -> list[RunRecord]:
    """One run a seed; without a centre, all diverged."""
    task = str(fields.pop("task", "t"))
    return [
        record(
            name, seed, None if centre is None else centre + one, task=task, outcome=GONE if centre is None else None
        )
        for seed, one in enumerate(spread)
    ]


def judged(support: Support, *records: RunRecord, made: Suite | None = None) -> Judged:
    held = {"s": cells(records, "s", Scale.LOCAL)}
    (found,) = judge([claim(support)], {"s": made or suite()}, held, Probes())
    return found


def only(found: Judged) -> Place:
    (place,) = found.places
    assert found.standing is place.standing
    return place


GROUND = (*runs("sgdm", 85.0), *runs("kfac", 90.0))
"""On which the old method is worth five points."""


@pytest.mark.parametrize(
    ("support", "gain", "spread", "standing"),
    [
        (Support.BETTER, 3.0, SPREAD, Standing.SUPPORTED),
        (Support.BETTER, 0.7, SPREAD, Standing.SUPPORTED),
        (Support.BETTER, 0.4, [2 * one for one in SPREAD], Standing.UNDECIDED),
        (Support.BETTER, 0.0, SPREAD, Standing.CONTRADICTED),  # a gain as large as the margin is excluded
        (Support.BETTER, -3.0, SPREAD, Standing.CONTRADICTED),
        (Support.NOT_WORSE, 3.0, SPREAD, Standing.SUPPORTED),
        (Support.NOT_WORSE, 0.0, SPREAD, Standing.SUPPORTED),
        (Support.NOT_WORSE, -0.25, NARROW, Standing.SUPPORTED),  # worse beyond doubt, by less than the margin
        (Support.NOT_WORSE, -0.4, SPREAD, Standing.UNDECIDED),
        (Support.NOT_WORSE, -0.6, SPREAD, Standing.UNDECIDED),
        (Support.NOT_WORSE, -3.0, SPREAD, Standing.CONTRADICTED),
    ],
)
def test_a_difference_supports_contradicts_or_leaves_open(
    support: Support, gain: float, spread: Sequence[float], standing: Standing
) -> None:
    ground = (*runs("sgdm", 85.0, spread), *runs("kfac", 90.0, spread))
    place = only(judged(support, *ground, *runs("apo-p", 90.0 + gain, spread)))
    assert place.standing is standing
    assert place.compared.estimate.value == pytest.approx(gain)
    assert place.compared.estimate.n == 5
    assert ("± " in place.reason and "more seed" in place.reason) == (standing is Standing.UNDECIDED)


@pytest.mark.parametrize(
    ("base", "reason"),
    [(89.9, "precondition fails"), (89.4, "precondition not shown; about"), (95.0, "precondition fails")],
)
def test_ground_on_which_nothing_makes_a_difference_decides_nothing(base: float, reason: str) -> None:
    """Two methods tie there: "competitive" would be supported."""
    records = (*runs("sgdm", base), *runs("kfac", 90.0), *runs("apo-p", 90.0))
    place = only(judged(Support.NOT_WORSE, *records))
    assert place.standing is Standing.UNJUDGED
    assert place.reason.startswith(reason)
    assert place.gate is not None
    assert place.gate.estimate.value == pytest.approx(90.0 - base)
    assert only(judged(Support.NOT_WORSE, *GROUND, *runs("apo-p", 90.0))).standing is Standing.SUPPORTED


def test_an_estimate_above_the_margin_does_not_open_the_ground_by_itself() -> None:
    wide = [-2.0, 0.0, 2.0]
    place = only(judged(Support.NOT_WORSE, *runs("sgdm", 89.0), *runs("kfac", 90.0, wide), *runs("apo-p", 90.0)))
    assert place.gate is not None
    assert place.gate.estimate.value == pytest.approx(1.0)
    assert place.reason.startswith("precondition not shown")


def test_fewer_than_three_seeds_are_not_judged() -> None:
    for seeds in (1, 2):
        few = [one for one in (*GROUND, *runs("apo-p", 99.0)) if one.spec.seed < seeds]
        place = only(judged(Support.BETTER, *few))
        assert (place.standing, place.reason.startswith(f"precondition: n = {seeds}")) == (Standing.UNJUDGED, True)
        place = only(judged(Support.BETTER, *GROUND, *runs("apo-p", 99.0, SPREAD[:seeds])))
        assert (place.standing, place.reason.startswith(f"n = {seeds}")) == (Standing.UNJUDGED, True)


def test_what_is_missing_is_said() -> None:
    assert (judged(Support.BETTER).standing, judged(Support.BETTER).places) == (Standing.UNJUDGED, ())
    place = only(judged(Support.BETTER, *GROUND))
    assert (place.standing, place.reason) == (Standing.UNJUDGED, "apo-p: no such cell")
    place = only(judged(Support.BETTER, *runs("kfac", 90.0), *runs("apo-p", 99.0)))
    assert (place.standing, place.reason) == (Standing.UNJUDGED, "precondition: sgdm: no such cell")


def test_divergences_decide_where_they_are_the_rule_and_only_of_one_side() -> None:
    for support in Support:
        all_gone = only(judged(support, *GROUND, *runs("apo-p", None)))
        assert all_gone.standing is Standing.CONTRADICTED
        assert "5 diverged" in all_gone.reason
        one_gone = [*runs("apo-p", 99.0)[:4], *runs("apo-p", None)[4:]]
        assert only(judged(support, *GROUND, *one_gone)).standing is Standing.UNDECIDED
        two_of_two = only(judged(support, *GROUND, *runs("apo-p", None)[:2]))
        assert two_of_two.standing is Standing.UNJUDGED
        both = only(judged(support, *runs("sgdm", 85.0), *runs("kfac", None), *runs("apo-p", None)))
        assert (both.standing, "diverged" in both.reason) == (Standing.UNJUDGED, True)
    opened = only(judged(Support.BETTER, *runs("sgdm", None), *runs("kfac", 90.0), *runs("apo-p", 95.0)))
    assert opened.standing is Standing.SUPPORTED  # the base diverged: the old method is worth something


def test_places_combine_to_one_verdict() -> None:
    def over(*gains: float | None) -> Judged:
        names = [f"t{place}" for place, _ in enumerate(gains)]
        records = [
            one
            for name, gain in zip(names, gains, strict=True)
            for own in (
                runs("sgdm", 90.0 if gain is None else 80.0, NARROW, task=name),
                runs("kfac", 90.0, NARROW, task=name),
                runs("apo-p", 90.0 + (gain or 0.0), NARROW, task=name),
            )
            for one in own
        ]
        return judged(Support.NOT_WORSE, *records, made=suite(*names))

    assert over(1.0, 0.0).standing is Standing.SUPPORTED
    assert over(1.0, None).standing is Standing.SUPPORTED  # ground that cannot decide has no say
    assert over(-2.0, -3.0).standing is Standing.CONTRADICTED
    assert over(-2.0, 1.0).standing is Standing.MIXED
    assert over(None, None).standing is Standing.UNJUDGED
    found = over(1.0, -2.0, None)
    assert [found.count(one) for one in Standing] == [1, 1, 0, 0, 1]
    assert combine([Standing.CONTRADICTED, Standing.UNDECIDED]) is Standing.CONTRADICTED
    assert combine([Standing.SUPPORTED, Standing.UNDECIDED]) is Standing.UNDECIDED


def test_the_family_is_what_was_declared_whatever_has_run() -> None:
    made = suite("t", "u", "v")
    records = (*GROUND, *runs("apo-p", 90.0))
    alone, one_of_three = (judged(Support.NOT_WORSE, *records, made=own) for own in (suite(), made))
    assert (alone.declared, one_of_three.declared, len(one_of_three.places)) == (1, 3, 1)
    for place in (only(one_of_three), only(alone)):
        assert place.gate is not None
        assert place.gate.estimate.family == place.compared.estimate.family
    assert only(one_of_three).compared.estimate.family == 3
    low, lower = (only(one).compared.estimate.low for one in (alone, one_of_three))
    assert low is not None
    assert lower is not None
    assert lower < low


def test_a_ratio_is_held_against_a_share() -> None:
    """Of an error, less is better: a tenth more is within a margin of a quarter, a half more is not."""
    for factor, standing in ((1.1, Standing.SUPPORTED), (1.5, Standing.CONTRADICTED), (0.5, Standing.SUPPORTED)):
        records = [
            record(name, seed, centre * (1 + one / 10), facts=LOSS)
            for name, centre in (("sgdm", 4.0), ("kfac", 1.0), ("apo-p", factor))
            for seed, one in enumerate(SPREAD)
        ]
        question = msgspec.structs.replace(claim(Support.NOT_WORSE, margin=0.25))
        (found,) = judge([question], {"s": suite()}, {"s": cells(records, "s", Scale.LOCAL)}, Probes())
        assert found.standing is standing


def counted(name: str, seed: int, flops: float, state: int) -> RunRecord:
    made = msgspec.structs.replace(record(name, seed, 90.0), environment=MADE_ON)
    assert made.cost is not None
    cost = msgspec.structs.replace(
        made.cost, flops_per_step=flops, state_bytes=state, bytes_by_purpose={"parameters": 100}
    )
    return msgspec.structs.replace(made, cost=cost)


@pytest.mark.parametrize(
    ("quantity", "margin", "supported", "contradicted"),
    [("flops_per_step", 0.25, (125.0, 0), (126.0, 0)), ("state_bytes", 2.0, (1.0, 300), (1.0, 301))],
)
def test_counts_decide_with_one_seed_and_to_the_last_digit(
    quantity: str, margin: float, supported: tuple[float, int], contradicted: tuple[float, int]
) -> None:
    question = Question(
        "s", Contrast(name="c", left=NEW, right=BASE, quantity=quantity, margin=margin), Support.NOT_WORSE
    )
    cost = Claim(id="C5", statement="cheap", source="P", criterion="cost", questions=(question,))
    for (flops, state), standing in ((supported, Standing.SUPPORTED), (contradicted, Standing.CONTRADICTED)):
        records = [counted("apo-p", 0, flops, state), counted("sgdm", 0, 100.0, 100)]
        (found,) = judge([cost], {"s": suite()}, {"s": cells(records, "s", Scale.LOCAL)}, Probes())
        assert (found.standing, only(found).doubt) == (standing, "")


def test_a_count_of_a_run_that_diverged_counts_and_one_that_is_missing_is_said() -> None:
    question = Question(
        "s", Contrast(name="c", left=NEW, right=BASE, quantity="flops_per_step", margin=0.25), Support.NOT_WORSE
    )
    cost = Claim(id="C5", statement="cheap", source="P", criterion="cost", questions=(question,))
    base = counted("sgdm", 0, 100.0, 0)
    gone = msgspec.structs.replace(counted("apo-p", 0, 110.0, 0), outcome=GONE)
    for left, standing, reason in (
        (gone, Standing.SUPPORTED, ""),
        (record("apo-p", 0, 90.0), Standing.UNJUDGED, "apo-p: not measured"),
    ):
        (found,) = judge([cost], {"s": suite()}, {"s": cells([left, base], "s", Scale.LOCAL)}, Probes())
        assert (only(found).standing, only(found).reason) == (standing, reason)


def test_a_probed_ratio_is_judged_over_processes() -> None:
    contrast = Contrast(name="c", left=Selector(optimizer="x"), right=BASE, quantity="step_ratio", margin=0.25)
    question = Question("s", contrast, Support.NOT_WORSE)
    cost = Claim(id="C5", statement="cheap", source="P", criterion="cost", questions=(question,))
    made = msgspec.structs.replace(
        suite(), optimizers=(OptimizerEntry(optimizer="x"), OptimizerEntry(optimizer="sgdm"))
    )
    held = {"s": cells([counted("x", 0, 1.0, 1), counted("sgdm", 0, 1.0, 1)], "s", Scale.LOCAL)}

    def place(probes: Probes) -> Place:
        return only(judge([cost], {"s": made}, held, probes)[0])

    assert (place(Probes()).standing, place(Probes()).reason) == (Standing.UNJUDGED, "no probe of x and sgdm")
    assert place(Probes([probed(1.1)])).standing is Standing.SUPPORTED
    assert place(Probes([probed(2.0)])).standing is Standing.CONTRADICTED
    assert place(Probes([probed(1.25)])).standing is Standing.UNDECIDED
    assert place(Probes([probed(1.1)])).compared.estimate.n == 3
    assert place(Probes([flat()])).compared.estimate.value == pytest.approx(2.0)


def probed(ratio: float) -> ProbeRecord:
    times = [[4.0 * ratio * (1.0 + one)] * 2 for one in (-0.01, 0.0, 0.01)]
    return made_probe({"sgdm": {"plain": (1.0, [[4.0] * 2] * 3)}, "x": {"plain": (1.0, times)}})


def test_a_question_that_nothing_could_contradict_is_refused() -> None:
    plain = Contrast(name="c", left=NEW, right=OLD)
    with pytest.raises(UsageError, match="has no margin"):
        Question("s", plain, Support.BETTER)
    with pytest.raises(UsageError, match="has no margin"):
        Precondition("words", plain)


@pytest.mark.parametrize(
    ("scale", "device"),
    [(Scale.LOCAL, Device.CPU), (Scale.STUDY, Device.CPU), (Scale.STUDY, Device.CUDA), (Scale.PAPER, Device.CUDA)],
)
def test_every_declared_question_finds_its_cells_where_the_suites_have_run(scale: Scale, device: Device) -> None:
    """A result of every declared competitor is made up; each question has as many places as it declares."""
    for name, made in suites_of(scale).items():
        loaded = {entry.optimizer: optimizers()[entry.optimizer].load() for entry in made.all_competitors()}
        planned = [
            run.first if isinstance(run, Waiting) else run for run in unroll(made.on(device), loaded, device).runs
        ]
        template = record("sgdm", 0, 80.0)
        store = cells([template.under(spec=run, suite=name, scale=scale) for run in planned], name, scale)
        questions = [one for own in claims(scale) for one in own.questions if one.suite == name]
        assert questions or name == "ablations"
        for question in questions:
            if not declared_places(question, made):
                continue
            for contrast in question.contrasts:
                found = [one for one in resolve(contrast, store) if one.reason is None]
                assert len(found) >= declared_places(question, made), (contrast.name, resolve(contrast, store))


def test_the_ground_made_for_claims_decides_all_five() -> None:
    made = suites_of(Scale.STUDY)
    for one in claims(Scale.STUDY):
        assert sum(declared_places(question, made[question.suite]) for question in one.questions) >= 2, one.id
        assert (one.id == "C5") == all(question.precondition is None for question in one.questions)
