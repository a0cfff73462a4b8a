"""All suites as one; at scale ``smoke`` every optimizer of the package also meets on one network."""

from collections.abc import Iterator

import msgspec

from apo_bench.records.spec import Precision, Scale
from apo_bench.records.suite import OptimizerEntry, Suite, TaskEntry
from apo_bench.suites.ablations import ablations
from apo_bench.suites.classification import classification
from apo_bench.suites.low_precision import low_precision
from apo_bench.suites.lr_adaptation import lr_adaptation
from apo_bench.suites.reconstruction import reconstruction
from apo_bench.suites.regression import regression
from apo_bench.suites.translation import translation

PARTS = (classification, regression, reconstruction, translation, low_precision, lr_adaptation, ablations)
SHIPPED = (
    "adam",
    "adamw",
    "apo-lr-adam",
    "apo-lr-rmsprop",
    "apo-lr-sgd",
    "apo-lr-sgdm",
    "apo-p",
    "apo-p-warm",
    "ekfac",
    "kfac",
    "muon",
    "rmsprop",
    "schedule-free-adamw",
    "sgd",
    "sgdm",
    "soap",
)
"""Every optimizer of the package."""


def _entries(scale: Scale) -> Iterator[TaskEntry]:
    for make in PARTS:
        part = make(scale)
        for entry in part.tasks:
            yield msgspec.structs.replace(entry, optimizers=part.competitors(entry), precisions=part.formats(entry))
    if scale is Scale.SMOKE:
        yield TaskEntry(
            task="fashion-mnist-20k.lenet",
            epochs=0.25,
            optimizers=tuple(OptimizerEntry(optimizer=name) for name in SHIPPED),
            precisions=(Precision.FP32, Precision.FP16),
        )


def everything(scale: Scale) -> Suite:
    """Every suite, one after the other."""
    return Suite(
        name="all", scale=scale, title="All suites", tasks=tuple(_entries(scale)), optimizers=(), precisions=()
    )
