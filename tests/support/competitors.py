"""A competitor that nothing builds."""

import dataclasses
from typing import Any

from apo_bench.plugins.optimizer import Search, hyperparameter


@dataclasses.dataclass(frozen=True)
class Knobs:
    """Some hyperparameters."""

    lr: float = hyperparameter(0.1, search=Search(0.01, 1.0, log=True))
    nesterov: bool = hyperparameter(False)
    interval: int = hyperparameter(10)


def no_build(problem: object, h: object) -> Any:
    raise AssertionError("a grid builds nothing")
