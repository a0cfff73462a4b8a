"""apo-bench: which neural-network optimizer, at which precision, at what cost.

The names below are all a plugin needs; each is imported when it is first used, so that importing this package
costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apo_bench.competitor import Competitor, Search, hyperparameter
    from apo_bench.data.examples import Batch, Dataset, Examples, Splits
    from apo_bench.spec import Precision, Scalar
    from apo_bench.tasks.task import Task
    from apo_bench.training.metrics import Accuracy, MeanLoss, MeanSquaredError
    from apo_bench.training.objectives import BernoulliCrossEntropy, CrossEntropy, SquaredError, TokenCrossEntropy
    from apo_bench.training.precision import PrecisionPolicy
    from apo_bench.training.problem import Problem, StepResult, UpdateRule
    from apo_bench.training.rules import TorchRule

_HOME = {
    "Accuracy": "apo_bench.training.metrics",
    "Batch": "apo_bench.data.examples",
    "BernoulliCrossEntropy": "apo_bench.training.objectives",
    "Competitor": "apo_bench.competitor",
    "CrossEntropy": "apo_bench.training.objectives",
    "Dataset": "apo_bench.data.examples",
    "Examples": "apo_bench.data.examples",
    "MeanLoss": "apo_bench.training.metrics",
    "MeanSquaredError": "apo_bench.training.metrics",
    "Precision": "apo_bench.spec",
    "PrecisionPolicy": "apo_bench.training.precision",
    "Problem": "apo_bench.training.problem",
    "Scalar": "apo_bench.spec",
    "Search": "apo_bench.competitor",
    "Splits": "apo_bench.data.examples",
    "SquaredError": "apo_bench.training.objectives",
    "StepResult": "apo_bench.training.problem",
    "Task": "apo_bench.tasks.task",
    "TokenCrossEntropy": "apo_bench.training.objectives",
    "TorchRule": "apo_bench.training.rules",
    "UpdateRule": "apo_bench.training.problem",
    "hyperparameter": "apo_bench.competitor",
}

__all__ = [
    "Accuracy",
    "Batch",
    "BernoulliCrossEntropy",
    "Competitor",
    "CrossEntropy",
    "Dataset",
    "Examples",
    "MeanLoss",
    "MeanSquaredError",
    "Precision",
    "PrecisionPolicy",
    "Problem",
    "Scalar",
    "Search",
    "Splits",
    "SquaredError",
    "StepResult",
    "Task",
    "TokenCrossEntropy",
    "TorchRule",
    "UpdateRule",
    "hyperparameter",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _version() -> str:
    from importlib.metadata import version

    return version("apo-bench")
