"""apo-bench: which neural-network optimizer, at which precision, at what cost.

The names below are all a plugin needs; each is imported when it is first used, so that importing this package
costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apo_bench.data.examples import Batch, Dataset, Examples, Splits
    from apo_bench.errors import UsageError
    from apo_bench.plugins.metrics import Accuracy, BinaryAccuracy, MeanLoss, MeanSquaredError, TokenAccuracy
    from apo_bench.plugins.optimizer import Competitor, Search, hyperparameter
    from apo_bench.plugins.task import Target, Task
    from apo_bench.problem.objectives import BernoulliCrossEntropy, CrossEntropy, SquaredError, TokenCrossEntropy
    from apo_bench.problem.precision import PrecisionPolicy
    from apo_bench.problem.problem import Problem
    from apo_bench.problem.rule import StepResult, TorchRule, UpdateRule
    from apo_bench.records.spec import Precision, Scalar

_HOME = {
    "Accuracy": "apo_bench.plugins.metrics",
    "Batch": "apo_bench.data.examples",
    "BernoulliCrossEntropy": "apo_bench.problem.objectives",
    "BinaryAccuracy": "apo_bench.plugins.metrics",
    "Competitor": "apo_bench.plugins.optimizer",
    "CrossEntropy": "apo_bench.problem.objectives",
    "Dataset": "apo_bench.data.examples",
    "Examples": "apo_bench.data.examples",
    "MeanLoss": "apo_bench.plugins.metrics",
    "MeanSquaredError": "apo_bench.plugins.metrics",
    "Precision": "apo_bench.records.spec",
    "PrecisionPolicy": "apo_bench.problem.precision",
    "Problem": "apo_bench.problem.problem",
    "Scalar": "apo_bench.records.spec",
    "Search": "apo_bench.plugins.optimizer",
    "Splits": "apo_bench.data.examples",
    "SquaredError": "apo_bench.problem.objectives",
    "StepResult": "apo_bench.problem.rule",
    "Target": "apo_bench.plugins.task",
    "Task": "apo_bench.plugins.task",
    "TokenAccuracy": "apo_bench.plugins.metrics",
    "TokenCrossEntropy": "apo_bench.problem.objectives",
    "TorchRule": "apo_bench.problem.rule",
    "UsageError": "apo_bench.errors",
    "UpdateRule": "apo_bench.problem.rule",
    "hyperparameter": "apo_bench.plugins.optimizer",
}

__all__ = [
    "Accuracy",
    "Batch",
    "BernoulliCrossEntropy",
    "BinaryAccuracy",
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
    "Target",
    "Task",
    "TokenAccuracy",
    "TokenCrossEntropy",
    "TorchRule",
    "UpdateRule",
    "UsageError",
    "hyperparameter",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _version() -> str:
    from importlib.metadata import version

    return version("apo-bench")
