"""The paper's claims C1 to C5, declared: which contrasts of which suites decide them, and on which ground.

The ground is what the suites declare at a scale; ``study`` was made for it (`apo_bench.suites.study`). C3 has the
contrasts of classification, where the poster reports numbers of KFAC and APO-P. C5 is about whole batches and K = 10,
as the paper counts: cells with another interval, or with meta-updates on a part of the batch, do not bear on it.
"""

from collections.abc import Iterator

import msgspec

from apo_bench.records.claim import Claim, Precondition, Question, Support
from apo_bench.records.contrast import Contrast, Selector
from apo_bench.records.schedules import kind_of
from apo_bench.records.spec import Precision, Scale
from apo_bench.records.suite import Suite, TaskEntry
from apo_bench.suites.ablations import ablations
from apo_bench.suites.classification import classification
from apo_bench.suites.low_precision import low_precision
from apo_bench.suites.lr_adaptation import lr_adaptation
from apo_bench.suites.study import MARGIN

INTERVAL = 10
"""K at which the cost is judged."""
COST_MARGIN = 0.25
"""A step of APO may cost this share more than one of its base. The paper's three forward passes and one backward pass
every K steps are +7/(3K) of a step where a backward pass costs two forward passes: 0.233 at K = 10."""
STATE_MARGIN = 2.0
"""What APO may keep between steps beyond its base's state, in bytes of the parameters: the paper's "2× the model"."""
_BASES = ("sgd", "sgdm", "rmsprop", "adam")
_SUITES = (lr_adaptation, classification, low_precision, ablations)
_COSTS = (
    ("flops_per_step", "counted FLOPs of a step", COST_MARGIN),
    ("step_ratio", "probed time of a step", COST_MARGIN),
    ("state_bytes", "bytes of state", STATE_MARGIN),
)
"""What is compared for C5: quantity, words and margin."""


def claims(scale: Scale) -> tuple[Claim, ...]:
    """The claims, with the questions that the suites can answer at a scale."""
    adaptation, images, lowprec, ablated = (make(scale) for make in _SUITES)
    return (
        Claim(
            id="C1",
            statement="APO-LR beats the best fixed learning rate",
            source="A, P",
            criterion=f"Test accuracy; a gain below {MARGIN} points is none.",
            questions=tuple(_rate(adaptation, "constant", "the best fixed rate", Support.BETTER)),
        ),
        Claim(
            id="C2",
            statement="APO-LR is competitive with a hand-tuned step schedule",
            source="A, P",
            criterion=f"Test accuracy; competitive is not worse by more than {MARGIN} points.",
            questions=tuple(_rate(adaptation, "step", "step decay", Support.NOT_WORSE)),
        ),
        Claim(
            id="C3",
            statement="APO-P is competitive with second-order methods (KFAC)",
            source="A, P",
            criterion=f"Test accuracy; competitive is not worse by more than {MARGIN} points.",
            questions=tuple(_second_order(images)),
        ),
        Claim(
            id="C4",
            statement="APO-P stays stable in 16 bit where KFAC suffers",
            source="A, P",
            criterion=(
                f"Test accuracy with everything stored in 16 bit against fp32; stable is to lose at most {MARGIN}."
            ),
            questions=tuple(_sixteen_bit(lowprec)),
        ),
        Claim(
            id="C5",
            statement="The overhead of APO is low: 3 forward passes and 1 backward pass every K steps, 2× model memory",
            source="P",
            criterion=(
                f"At K = {INTERVAL} on whole batches, against the base optimizer: counted FLOPs and probed time of a "
                f"step at most {1 + COST_MARGIN:g} times as much, products with the preconditioner included; state "
                f"between steps larger by at most {STATE_MARGIN:g} × the bytes of the parameters."
            ),
            questions=tuple(_cost(adaptation, images, ablated)),
        ),
    )


def suites_of(scale: Scale) -> dict[str, Suite]:
    """By name, the suites whose runs decide claims."""
    return {made.name: made for made in (make(scale) for make in _SUITES)}


def _rate(suite: Suite, right: str, words: str, support: Support) -> Iterator[Question]:
    """APO-LR against its base under a schedule, where step decay beats the best fixed rate."""
    tasks = _names(entry for entry in suite.tasks if "step" in _schedules(suite, entry, *_BASES))
    for base in _BASES if tasks else ():
        decayed, fixed = (Selector(optimizer=base, schedule=kind) for kind in ("step", "constant"))
        contrast = Contrast(
            name=f"apo-lr-{base} against {words}",
            left=Selector(optimizer=f"apo-lr-{base}"),
            right=decayed if right == "step" else fixed,
            margin=MARGIN,
            tasks=tasks,
        )
        sensitivity = Contrast(
            name=f"step decay against the best fixed rate, {base}",
            left=decayed,
            right=fixed,
            margin=MARGIN,
            tasks=tasks,
        )
        gate = Precondition(f"step decay beats the best fixed rate by more than {MARGIN}", sensitivity)
        yield Question(suite.name, contrast, support, gate)


def _second_order(suite: Suite) -> Iterator[Question]:
    """APO-P, which adapts its own step, against KFAC under each of its schedules, where KFAC beats SGDm."""
    for schedule in dict.fromkeys(kind for entry in suite.tasks for kind in _schedules(suite, entry, "kfac")):
        kfac, sgdm = (Selector(optimizer=name, schedule=schedule) for name in ("kfac", "sgdm"))
        contrast = Contrast(
            name=f"apo-p against kfac, {schedule}", left=Selector(optimizer="apo-p"), right=kfac, margin=MARGIN
        )
        sensitivity = Contrast(name=f"kfac against sgdm, {schedule}", left=kfac, right=sgdm, margin=MARGIN)
        gate = Precondition(f"KFAC beats SGDm by more than {MARGIN}", sensitivity)
        yield Question(suite.name, contrast, Support.NOT_WORSE, gate)


def _sixteen_bit(suite: Suite) -> Iterator[Question]:
    """APO-P stored in 16 bit against fp32, where KFAC loses by it."""
    for precision in (Precision.PURE_BF16, Precision.PURE_FP16):
        kfac, apo = (Selector(optimizer=name, precision=precision) for name in ("kfac", "apo-p"))
        kfac_32, apo_32 = (msgspec.structs.replace(one, precision=Precision.FP32) for one in (kfac, apo))
        contrast = Contrast(name=f"apo-p in {precision} against fp32", left=apo, right=apo_32, margin=MARGIN)
        sensitivity = Contrast(name=f"kfac in fp32 against {precision}", left=kfac_32, right=kfac, margin=MARGIN)
        words = f"{precision} costs KFAC more than {MARGIN}, or most of its runs diverge there"
        yield Question(suite.name, contrast, Support.NOT_WORSE, Precondition(words, sensitivity))


def _cost(adaptation: Suite, images: Suite, ablated: Suite) -> Iterator[Question]:
    """APO against its base, by what is counted and by what was probed."""
    pairs = [(adaptation, f"apo-lr-{base}", Selector(optimizer=base, schedule="constant")) for base in _BASES]
    pairs += [(images, "apo-p", Selector(optimizer="sgdm"))]
    pairs += [(ablated, name, Selector(optimizer="sgdm", setting={"lr": 0.1})) for name in ("apo-lr-sgdm", "apo-p")]
    for suite, name, base in pairs:
        left = Selector(optimizer=name, setting={"interval": INTERVAL, "meta_share": 1.0}, precision=Precision.FP32)
        if suite is images:  # as its base is declared there
            kinds = [kind for entry in suite.tasks for kind in _schedules(suite, entry, "sgdm")]
            base = msgspec.structs.replace(base, schedule=kinds[0])  # noqa: PLW2901 - no schedule changes a cost
        right = msgspec.structs.replace(base, precision=Precision.FP32)
        for quantity, words, margin in _COSTS:
            contrast = Contrast(
                name=f"{name} against {base.optimizer}, {words}",
                left=left,
                right=right,
                quantity=quantity,
                margin=margin,
            )
            yield Question(suite.name, contrast, Support.NOT_WORSE)


def _schedules(suite: Suite, entry: TaskEntry, *optimizers: str) -> tuple[str, ...]:
    """Kinds of schedule under which some optimizers are declared on a task."""
    declared = (one for one in suite.competitors(entry) if one.optimizer in optimizers)
    return tuple(dict.fromkeys(kind_of(one.schedule) for one in declared))


def _names(entries: Iterator[TaskEntry]) -> tuple[str, ...]:
    """Of tasks, on every kind of device."""
    return tuple(dict.fromkeys(name for entry in entries for name in (entry.task, entry.on_cuda) if name))
