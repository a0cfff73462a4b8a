"""A watched problem tells its listener what it computes, in order, and computes the same as a plain one."""

import torch
from support.devices import CPU
from support.problems import some_batch, some_network
from support.runs import TASK, run_spec
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from apo_bench.plugins.registry import optimizers
from apo_bench.problem.objectives import CrossEntropy
from apo_bench.problem.precision import PrecisionPolicy
from apo_bench.problem.problem import Gradients, Problem
from apo_bench.records.spec import Precision
from apo_bench.training.trainer import prepare
from apo_bench.training.watched import WatchedProblem


class _Notes:
    """Keeps all that it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.values: list[Tensor] = []

    def before_outputs(self) -> None:
        self.told.append(("before outputs", ""))

    def loss(self, value: Tensor) -> None:
        self.told.append(("loss", ""))
        self.values.append(value.detach())

    def gradients(self, found: Gradients, stream: str) -> None:
        self._note("gradients", found, stream)

    def intermediate_gradients(self, found: Gradients, stream: str) -> None:
        self._note("intermediate gradients", found, stream)

    def _note(self, what: str, found: Gradients, stream: str) -> None:
        self.told.append((what, stream))
        self.values += [value.clone() for value in found.values if value is not None]


def _computed(problem: Problem) -> list[Tensor]:
    """A loss, gradients inside the network and gradients in its parameters."""
    torch.manual_seed(3)
    batch = some_batch(0)
    outputs = problem.outputs(batch)
    loss = problem.loss(outputs, batch)
    inside = problem.intermediate_gradients(loss, [get_gradient_edge(outputs)])
    found = problem.gradients(loss, "meta")
    return [loss.detach(), *(value for value in (*inside.values, *found.values) if value is not None)]


def _made(kind: type[Problem]) -> Problem:
    network, policy = some_network(), PrecisionPolicy(Precision.FP32, CPU)
    policy.prepare(network)
    return kind(network, CrossEntropy(), policy, lambda: some_batch(99))


def test_its_listener_is_told_of_everything_in_order() -> None:
    notes, problem = _Notes(), _made(WatchedProblem)
    assert isinstance(problem, WatchedProblem)
    problem.listener = notes
    computed = _computed(problem)
    assert notes.told == [
        ("before outputs", ""),
        ("loss", ""),
        ("intermediate gradients", "curvature"),
        ("gradients", "meta"),
    ]
    assert len(notes.values) == len(computed)
    assert all(map(torch.equal, notes.values, computed))


def test_it_computes_what_a_plain_problem_computes() -> None:
    plain, watched = _made(Problem), _made(WatchedProblem)
    assert isinstance(watched, WatchedProblem)
    watched.listener = _Notes()
    assert all(map(torch.equal, _computed(plain), _computed(watched)))


def test_without_a_listener_it_tells_nobody() -> None:
    problem = _made(WatchedProblem)
    assert isinstance(problem, WatchedProblem)
    assert problem.listener is None
    assert all(map(torch.equal, _computed(problem), _computed(_made(Problem))))


def test_the_rule_of_a_watched_run_sees_the_watched_problem() -> None:
    """Also in its steps, so that nothing is patched."""
    loop = prepare(run_spec("sgdm"), TASK, optimizers()["sgdm"].load(), CPU, problem=WatchedProblem)
    notes, problem = _Notes(), loop.setup.problem
    assert isinstance(problem, WatchedProblem)
    problem.listener = notes
    loop.block(1)
    assert notes.told == [("before outputs", ""), ("loss", ""), ("gradients", "base")]
