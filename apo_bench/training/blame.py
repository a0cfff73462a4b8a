"""Whose fault an exception in a step is: the optimizer's, or that of the model, the data or the machine."""

import types
from collections.abc import Iterator

import torch
from torch import nn

from apo_bench.errors import ApoBenchError, last_line
from apo_bench.problem.rule import UpdateRule

OF_THE_MACHINE = (MemoryError, OSError, torch.OutOfMemoryError, torch.AcceleratorError)
_OF_THE_TASK = frozenset({"outputs", "loss", "draw", "discrepancy", "sample_targets", "hessian_square_root"})
"""Methods of a `Problem` in which the model, the objective and the data run."""


class RuleFailedError(ApoBenchError):
    """An optimizer raised: a failure of the competitor, and not of the machine.

    Args:
        step: Step in which it did, counted from 1; 0 while it was made.
        message: Its last line.
    """

    exit_code = 1

    def __init__(self, step: int, message: str) -> None:
        super().__init__(message)
        self.step = step


def is_the_rules_fault(error: Exception, rule: UpdateRule) -> bool:
    """Whether an exception that came out of a rule's step was raised by the rule.

    What was raised below the model's forward pass, the objective or the source of batches is not, unless the rule's own
    code was called back from there, as hooks are. The code of `apo_bench.problem` (objectives, emulation) is no rule's,
    although `TorchRule` lives there.

    Args:
        error: What was raised.
        rule: Whose step it came out of.
    """
    if isinstance(error, OF_THE_MACHINE) or "can't allocate memory" in last_line(error):
        return False
    package = type(rule).__module__.rpartition(".")[0] or type(rule).__module__
    frames = list(_frames(error))
    below = next((place for place, frame in enumerate(frames) if _is_the_tasks(frame)), None)
    return below is None or any(_is_of(frame, package) for frame in frames[below + 1 :])


def _frames(error: Exception) -> Iterator[types.FrameType]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def _is_the_tasks(frame: types.FrameType) -> bool:
    module = frame.f_globals.get("__name__")
    is_of_problem = module == "apo_bench.problem.problem" and frame.f_code.co_name in _OF_THE_TASK
    return is_of_problem or module == "apo_bench.problem.contract"


def _is_of(frame: types.FrameType, package: str) -> bool:
    module = f"{frame.f_globals.get('__name__')}."
    is_own = module.startswith(f"{package}.") and not module.startswith("apo_bench.problem.")
    return is_own and not isinstance(frame.f_locals.get("self"), nn.Module)
