"""Suites: each a function from a scale to a frozen value; a variant replaces fields of another.

One file an experiment, or a family of them. At scale ``local`` searched hyperparameters are those that tuning chose on
validation data, with as many trials for every competitor of a task. At scale ``paper`` nothing has been tuned yet: what
stands there is usual, or recalled from the paper and not verified, or a grid that the command itself runs first. Each
file says which.

Scale ``study`` has the embedded data on ground that can decide the paper's claims: random crops and flips, budgets of
hours, five reporting seeds and two tuning seeds (`apo_bench.suites.study`).
"""

from collections.abc import Callable

from apo_bench.errors import UsageError, did_you_mean
from apo_bench.records.spec import Scale
from apo_bench.records.suite import Suite
from apo_bench.suites.ablations import ablations
from apo_bench.suites.classification import classification
from apo_bench.suites.everything import everything
from apo_bench.suites.low_precision import low_precision
from apo_bench.suites.lr_adaptation import lr_adaptation
from apo_bench.suites.reconstruction import reconstruction
from apo_bench.suites.regression import regression
from apo_bench.suites.translation import translation

SUITES: dict[str, Callable[[Scale], Suite]] = {
    "classification": classification,
    "regression": regression,
    "reconstruction": reconstruction,
    "translation": translation,
    "low-precision": low_precision,
    "lr-adaptation": lr_adaptation,
    "ablations": ablations,
    "all": everything,
}


def suite(name: str, scale: Scale) -> Suite:
    """Look a suite up by name.

    Raises:
        UsageError: Unknown name.
    """
    if name not in SUITES:
        raise UsageError(f"unknown suite {name!r}{did_you_mean(name, SUITES)}")
    return SUITES[name](scale)


def declared_suite(name: str, scale: Scale) -> Suite | None:
    """What is declared under a name, whole: what a command runs may be a part of it. `None` for an unknown name."""
    return SUITES[name](scale) if name in SUITES else None
