"""An optimizer of its own for the parameters that are in no layer: see `baselines.kfac.settings.Rest`."""

from collections.abc import Sequence

import torch

from apo_bench import Precision, Problem
from baselines.kfac.settings import Rest, Settings


def adam_of(problem: Problem, places: Sequence[int], settings: Settings) -> torch.optim.Adam | None:
    """Adam over the parameters at ``places`` (Kingma and Ba, 2015); `None` where they step by momentum, or are none."""
    if settings.rest is not Rest.ADAM or not places:
        return None
    return torch.optim.Adam(
        [problem.parameters[place] for place in places],
        lr=settings.rate_of_rest,
        eps=1e-4 if problem.precision.precision is Precision.PURE_FP16 else 1e-8,
        weight_decay=settings.weight_decay,
        foreach=True,
    )
