"""Every objective, with outputs and targets."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Normal

from apo_bench.data.examples import Batch
from apo_bench.problem.objectives import BernoulliCrossEntropy, CrossEntropy, Objective, SquaredError

NOTHING = Batch((), torch.empty(0))  # every example counts, whatever it is
OBJECTIVES: dict[str, tuple[Objective, Callable[[Tensor], Distribution]]] = {
    "CrossEntropy": (CrossEntropy(), lambda f: Categorical(logits=f)),
    "SquaredError": (SquaredError(), lambda f: Normal(f, 1.0)),
    "BernoulliCrossEntropy": (BernoulliCrossEntropy(), lambda f: Bernoulli(logits=f)),
}
