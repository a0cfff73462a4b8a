"""Ablations of APO (E9 to E12); all recalled from the paper's appendix and not verified [R].

Each varies one thing and leaves the rest at the suite's own setting, so that every ablation shares that cell.
"""

import itertools
from collections.abc import Iterable, Iterator

from apo_bench.records.contrast import Contrast, Selector
from apo_bench.records.spec import Precision, Scalar, Scale
from apo_bench.records.suite import OptimizerEntry, Suite, TaskEntry
from apo_bench.suites import study

INITIAL_RATES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""E9: four decades."""
PROXIMITY = (0.0, 0.1, 1.0, 10.0)
"""E10: λ_FSD and λ_WSD; where one is 0 only the other acts, and where both are, only the loss holds the step back."""
STUDY_PROXIMITY = (0.0, 1.0, 10.0, 100.0, 1000.0)
"""E10 at scale ``study``: λ_FSD alone."""
SHARES = (0.125, 0.25, 0.5, 1.0)
"""Of B and B′ on which a meta-update is taken; an ablation of our own."""
_VARIED = {"lr": "initial rate", "fsd": "proximity", "wsd": "proximity", "fresh_batch": "batch", "interval": "interval"}
"""What is varied, and in which family its contrasts are."""
_USUAL_INTERVAL = 10
"""K where it is not varied."""
INTERVALS = (1, 5, 10, 50, 100)
"""E12: K."""
_APO = ("apo-lr-sgdm", "apo-p")
_WEIGHT_DECAY: dict[str, Scalar] = {"weight_decay": 5e-4}


def _entry(optimizer: str, **overrides: Scalar) -> OptimizerEntry:
    return OptimizerEntry(optimizer=optimizer, overrides={**_WEIGHT_DECAY, **overrides})


def initial_rate(rates: tuple[float, ...] = INITIAL_RATES) -> tuple[OptimizerEntry, ...]:
    """E9: whether APO-LR forgets where it started, beside SGDm, which cannot."""
    return tuple(_entry(name, lr=rate) for name in ("sgdm", "apo-lr-sgdm") for rate in rates)


def proximity(weights: tuple[float, ...] = PROXIMITY) -> tuple[OptimizerEntry, ...]:
    """E10: λ_FSD against λ_WSD."""
    pairs = list(itertools.product(weights, weights))
    return tuple(_entry(name, fsd=fsd, wsd=wsd) for name in _APO for fsd, wsd in pairs)


def loss_batch() -> tuple[OptimizerEntry, ...]:
    """E11: the loss term on the batch that gave the gradient, or on a fresh one."""
    return tuple(_entry(name, fresh_batch=fresh) for name in _APO for fresh in (False, True))


def interval(steps: tuple[int, ...] = INTERVALS) -> tuple[OptimizerEntry, ...]:
    """E12: K against wall-clock."""
    return tuple(_entry(name, interval=k) for name in _APO for k in steps)


def _questions(entries: Iterable[OptimizerEntry]) -> Iterator[Contrast]:
    """Each variation against the setting that it varies; APO-LR against SGDm from the same initial rate."""
    for entry in entries:
        name, varied = entry.optimizer, {key: value for key, value in entry.overrides.items() if key in _VARIED}
        if not varied or varied in ({"interval": _USUAL_INTERVAL}, {"fresh_batch": False}):
            continue
        words = ", ".join(f"{key}={value}" for key, value in varied.items())
        left = Selector(optimizer=name, setting=varied)
        if "lr" not in varied:
            base = Selector(optimizer=name, setting={"fresh_batch": False, "interval": _USUAL_INTERVAL})
            family = _VARIED[next(iter(varied))]
            yield Contrast(name=f"{name} with {words}", left=left, right=base, family=f"{family} of {name}")
        elif name == "apo-lr-sgdm":
            right = Selector(optimizer="sgdm", setting=varied)
            yield Contrast(name=f"{name} against sgdm from {words}", left=left, right=right, family="initial rate")


def ablations(scale: Scale) -> Suite:
    """Ablations of APO: initial rate, proximity weights, batch of the loss term, interval."""
    task, epochs = "fashion-mnist-20k.lenet", 5.0
    seeds: tuple[int, ...] = (0, 1, 2)
    parts = [initial_rate(), proximity(), loss_batch(), interval()]
    match scale:
        case Scale.SMOKE:
            epochs, seeds = 0.25, (0,)
            parts = [initial_rate((0.1,)), proximity((0.0, 1.0)), loss_batch(), interval((1, 10))]
        case Scale.LOCAL:
            pass
        case Scale.STUDY:
            (task, epochs), seeds = (study.LENET, study.image_task(study.LENET).epochs), study.REPORTING_SEEDS
            parts = [
                initial_rate(INITIAL_RATES[1:]),
                tuple(_entry(name, fsd=fsd) for name in _APO for fsd in STUDY_PROXIMITY),
                loss_batch(),
                interval(),
                tuple(_entry(name, meta_share=share) for name in _APO for share in SHARES),
            ]
        case Scale.PAPER:
            task, epochs = "cifar10.resnet32", 200.0
    entries: list[OptimizerEntry] = []
    for entry in itertools.chain.from_iterable(parts):
        if entry not in entries:
            entries.append(entry)
    return Suite(
        name="ablations",
        scale=scale,
        title="Ablations of APO",
        tasks=(TaskEntry(task=task, epochs=epochs, seeds=seeds),),
        optimizers=tuple(entries),
        precisions=(Precision.FP32,),
        contrasts=tuple(_questions(entries)),
    )
