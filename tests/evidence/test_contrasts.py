"""Declared contrasts: each finds its two cells on every task, or says why not; families do not grow with the store."""

import msgspec
import pytest
from support.records import FACTS, MADE_ON, PRINT, flat, record

from apo_bench.errors import UsageError
from apo_bench.evidence.cells import Cells, cells
from apo_bench.evidence.contrasts import Resolved, family_size, resolve
from apo_bench.evidence.quantities import QUANTITIES
from apo_bench.evidence.step_costs import Probes
from apo_bench.planning.grid import Waiting, unroll
from apo_bench.plugins.registry import optimizers
from apo_bench.records.contrast import Contrast, Selector, against
from apo_bench.records.events import CurvePoint
from apo_bench.records.facts import Axis, Direction
from apo_bench.records.outcome import Crashed
from apo_bench.records.run import RunRecord
from apo_bench.records.schedules import Step
from apo_bench.records.spec import Device, Precision, Scalar, Scale
from apo_bench.records.suite import OptimizerEntry, Suite, TaskEntry
from apo_bench.suites import SUITES, suite

VALUE = against("sgdm", "adam")[0]


def held(*records: RunRecord) -> Cells:
    return cells(records, "s", Scale.LOCAL)


def stepped(one: RunRecord) -> RunRecord:
    optimizer = msgspec.structs.replace(one.spec.optimizer, schedule=Step())
    return one.under(spec=msgspec.structs.replace(one.spec, optimizer=optimizer))


def only(contrast: Contrast, *records: RunRecord) -> Resolved:
    (found,) = resolve(contrast, held(*records))
    return found


def pair(*tests: float, optimizer: str = "sgdm") -> list[RunRecord]:
    return [record(optimizer, seed, test) for seed, test in enumerate(tests)]


def test_a_contrast_has_a_place_for_every_task_and_precision() -> None:
    records = [
        record(name, seed, 80.0, task=task, precision=precision)
        for name in ("sgdm", "adam")
        for seed in range(2)
        for task in ("t", "u")
        for precision in (Precision.FP32, Precision.FP16)
    ]
    found = resolve(VALUE, held(*records))
    places = [(one.workload.task, one.precision) for one in found]
    assert sorted(places) == sorted((task, p) for task in "tu" for p in (Precision.FP32, Precision.FP16))
    assert all(one.reason is None and one.left and one.right for one in found)
    assert all(one.left.cell.conditions == one.right.cell.conditions for one in found if one.left and one.right)
    only_u = msgspec.structs.replace(VALUE, tasks=("u",))
    assert {one.workload.task for one in resolve(only_u, held(*records))} == {"u"}


def test_values_are_by_seed_with_the_metric_s_direction_and_axis() -> None:
    facts = msgspec.structs.replace(FACTS, metric="mean squared error", direction=Direction.MINIMIZE)
    records = [record(name, seed, 1.0 + seed, facts=facts) for name in ("sgdm", "adam") for seed in (2, 0)]
    found = only(VALUE, *records, record("adam", 1, None, facts=facts, outcome=Crashed(message="m")))
    assert found.values(Probes()) == ({0: 1.0, 2: 3.0}, {0: 1.0, 2: 3.0})
    assert (found.quantity.axis, found.quantity.direction) == (Axis.LOG, Direction.MINIMIZE)


def test_costs_are_of_one_machine_and_counts_of_all() -> None:
    other = msgspec.structs.replace(MADE_ON, device_name="other")
    records = [
        msgspec.structs.replace(record(name, s, 1.0), environment=MADE_ON) for name in ("sgdm", "x") for s in (0, 1)
    ]
    records.append(msgspec.structs.replace(record("x", 2, 1.0), environment=other))
    for name, seeds in (("step_ms", [0, 1]), ("step_ratio", [0, 1]), ("state_bytes", [0, 1, 2]), ("value", [0, 1, 2])):
        contrast = against("sgdm", "x", quantity=name)[0]
        assert list(only(contrast, *records).values(Probes([flat()]))[0]) == seeds


def test_several_settings_of_the_reference_are_told_apart() -> None:
    fixed, decayed, apo = pair(80.0), [stepped(one) for one in pair(81.0)], pair(82.0, optimizer="apo-lr-sgdm")
    assert only(against("sgdm", "apo-lr-sgdm")[0], *fixed, *decayed, *apo).reason == (
        "sgdm may be any of sgdm (constant), sgdm (step)"
    )
    for schedule, value in (("constant", 80.0), ("step", 81.0)):
        right = Selector(optimizer="sgdm", schedule=schedule)
        contrast = Contrast(name="c", left=Selector(optimizer="apo-lr-sgdm"), right=right)
        found = only(contrast, *fixed, *decayed, *apo)
        assert (found.reason, found.values(Probes())[1]) == (None, {0: value})


def test_an_ablation_s_base_has_the_usual_value_of_everything_else() -> None:
    variations = [(1.0, 10), (0.0, 10), (10.0, 10), (1.0, 1), (1.0, 100)]
    records = [record("apo-p", 0, 80.0 + place, fsd=fsd, interval=k) for place, (fsd, k) in enumerate(variations)]
    cases: list[tuple[dict[str, Scalar], float]] = [({"fsd": 0.0}, 81.0), ({"interval": 100}, 84.0)]
    for setting, value in cases:
        left, right = Selector(optimizer="apo-p", setting=setting), Selector(optimizer="apo-p")
        found = only(Contrast(name="c", left=left, right=right), *records)
        assert found.reason is None
        assert found.values(Probes()) == ({0: value}, {0: 80.0})


def test_one_precision_against_another_is_one_place_a_task() -> None:
    contrast = Contrast(
        name="c", left=Selector(optimizer="adam", precision=Precision.FP16),
        right=Selector(optimizer="adam", precision=Precision.FP32),
    )  # fmt: skip
    both = [record("adam", 0, 70.0, precision=Precision.FP16), record("adam", 0, 80.0)]
    found = only(contrast, *both)
    assert (found.precision, found.reason) == (Precision.FP16, None)
    assert found.values(Probes()) == ({0: 70.0}, {0: 80.0})
    for place, words in ((0, "adam (fp32): no such cell"), (1, "adam (fp16): no such cell")):
        missing = only(contrast, both[place])
        assert missing.reason == words
        assert missing.values(Probes())[1 - place] == {}


def test_the_best_of_a_grid_is_the_one_that_validation_chose() -> None:
    def tried(lr: float, validation: float) -> RunRecord:
        one = record("sgdm", 100, validation, lr=lr)
        point = msgspec.structs.replace(
            _point(validation), step=one.spec.budget.steps(FACTS.steps_per_epoch), epoch=one.spec.budget.epochs
        )
        return msgspec.structs.replace(one, curve=(point,))

    reported = [record("sgdm", 0, 90.0, lr=0.1), record("sgdm", 0, 50.0, lr=1.0), record("adam", 0, 85.0)]
    contrast = Contrast(name="c", left=Selector(optimizer="adam"), right=Selector(optimizer="sgdm", tuned=True))
    assert only(contrast, *reported).reason == "sgdm (best of its grid): no grid search has chosen a setting"
    found = only(contrast, *reported, tried(0.1, 60.0), tried(1.0, 70.0))
    assert (found.reason, found.values(Probes())[1]) == (None, {0: 50.0})  # the test metric has no say


def _point(validation: float) -> CurvePoint:
    return CurvePoint(
        step=1, epoch=1.0, seconds=1.0, train_loss=1.0, validation_loss=1.0, validation=validation,
        learning_rate_factor=1.0,
    )  # fmt: skip


def test_what_is_missing_or_not_comparable_is_said() -> None:
    assert only(VALUE, *pair(80.0)).reason == "adam: no such cell"
    assert only(VALUE, *pair(80.0, optimizer="adam")).reason == "sgdm: no such cell"
    crashed = record("sgdm", 0, None, outcome=Crashed(message="m"))
    assert only(VALUE, crashed, *pair(80.0, optimizer="adam")).reason == "sgdm: no result"
    old = [one.under(fingerprint=msgspec.structs.replace(PRINT, harness="old")) for one in pair(80.0)]
    assert "different versions of the code" in str(only(VALUE, *old, *pair(80.0, optimizer="adam")).reason)
    assert resolve(VALUE, held(*pair(80.0, optimizer="kfac"))) == ()
    assert resolve(VALUE, held()) == ()
    same = Contrast(name="c", left=Selector(optimizer="sgdm"), right=Selector(optimizer="sgdm", schedule="constant"))
    assert "both are one cell" in str(only(same, *pair(80.0)).reason)


@pytest.mark.parametrize("name", ["a|b", "名前", "\u202e", "x" * 900])
def test_hostile_names_are_selected_like_others(name: str) -> None:
    found = only(against("sgdm", name)[0], *pair(80.0), *pair(81.0, optimizer=name))
    assert found.values(Probes()) == ({0: 81.0}, {0: 80.0})


def test_a_family_has_the_size_that_was_declared() -> None:
    made = Suite(
        name="s", scale=Scale.LOCAL, title="S", tasks=(TaskEntry(task="t", epochs=1), TaskEntry(task="u", epochs=1)),
        optimizers=tuple(OptimizerEntry(optimizer=name) for name in ("sgdm", "adam", "kfac")),
        precisions=(Precision.FP32, Precision.FP16),
        contrasts=(*against("sgdm", "adam", "kfac", "absent"), *against("adam", "kfac", family="other")),
    )  # fmt: skip
    assert family_size(made, made.contrasts[0], "t") == 4  # two competitors that are declared, in two precisions
    assert family_size(made, made.contrasts[-1], "t") == 2
    # on a task outside of the suite it is not known who meets: all of the family, in all precisions
    assert family_size(made, made.contrasts[0], "elsewhere") == 6


def test_a_task_that_a_suite_replaces_on_cuda_has_the_same_questions_and_families() -> None:
    made = suite("lr-adaptation", Scale.STUDY)
    (entry,) = made.tasks
    assert entry.on_cuda
    assert {contrast.tasks for contrast in made.contrasts} == {(entry.task, entry.on_cuda)}
    assert {contrast.quantity for contrast in made.contrasts} == {"value"}  # the training loss is that of E7
    for contrast in made.contrasts:
        assert family_size(made, contrast, entry.on_cuda) == family_size(made, contrast, entry.task) == 4


def test_a_contrast_that_compares_nothing_is_refused() -> None:
    side = Selector(optimizer="sgdm")
    with pytest.raises(UsageError, match="with itself"):
        Contrast(name="c", left=side, right=side)
    with pytest.raises(UsageError, match="margin must be above 0"):
        Contrast(name="c", left=side, right=Selector(optimizer="adam"), margin=0.0)
    with pytest.raises(UsageError, match="declares two contrasts 'adam against sgdm'"):
        msgspec.structs.replace(suite("classification", Scale.LOCAL), contrasts=against("sgdm", "adam", "adam"))


@pytest.mark.parametrize("scale", [Scale.SMOKE, Scale.LOCAL, Scale.PAPER])
@pytest.mark.parametrize("name", [name for name in SUITES if name != "all"])
def test_every_declared_contrast_finds_both_sides_where_the_suite_has_run(name: str, scale: Scale) -> None:
    """A result of every declared competitor is made up, with the optimizer's own defaults; no side may be ambiguous."""
    made = suite(name, scale)
    loaded = {entry.optimizer: optimizers()[entry.optimizer].load() for entry in made.all_competitors()}
    runs = [run.first if isinstance(run, Waiting) else run for run in unroll(made, loaded, Device.CPU).runs]
    template = record("sgdm", 0, 80.0)
    records = [template.under(spec=run, suite=name, scale=scale) for run in runs]
    store = cells(records, name, scale)
    assert made.contrasts
    for contrast in made.contrasts:
        assert contrast.quantity in QUANTITIES
        found = resolve(contrast, store)
        missing = {one.reason for one in found if one.reason is not None}
        formats = {precision for entry in made.tasks for precision in made.formats(entry)}
        named = {side.precision for side in (contrast.left, contrast.right) if side.precision}
        assert missing == set() or not named <= formats, (contrast.name, missing)
        assert found
        declared = {entry.task for entry in made.tasks}
        assert set(contrast.tasks) <= declared
