"""Everything that a forward pass may change is captured and restored: buffers, attributes, modes, generators."""

import dataclasses
import random
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.devices import CPU
from support.problems import WEIGHTS, problem_of, some_batch
from support.runs import TASK, numbers_of, run_spec, trained
from torch import Tensor, nn

from apo_bench.optim.apo_lr import APOLR
from apo_bench.optim.apo_p import APOP
from apo_bench.plugins.registry import optimizers
from apo_bench.problem.model_state import ModelState, load_saved_state, saved_state
from apo_bench.problem.rule import TorchRule
from apo_bench.records.events import Evaluated, Event
from apo_bench.training.checkpoint import Checkpoints
from apo_bench.training.trainer import prepare, train


class Restless(nn.Module):
    """Changes all that a forward pass may change, and lets its outputs depend on it."""

    ema: Tensor
    transient: Tensor
    late: Tensor

    def __init__(self, draws: str = "") -> None:
        super().__init__()
        self.layer = nn.Linear(36, 3)
        self.norm = nn.BatchNorm1d(36)
        self.draws = draws
        self.register_buffer("ema", torch.zeros(36))
        self.register_buffer("transient", torch.zeros(36), persistent=False)
        self.plain = torch.zeros(36)
        self.calls = 0
        self.recent: deque[float] = deque(maxlen=3)
        self.notes: dict[str, list[float]] = {"means": []}
        self.array = np.zeros(2)

    def forward(self, images: Tensor) -> Tensor:
        flat = self.norm(images.flatten(1)) + self.ema + self.transient + self.plain
        if "python" in self.draws:
            flat = flat * (1.0 + 0.1 * random.random())
        if "numpy" in self.draws:
            flat = flat + float(np.random.rand())  # noqa: NPY002 - what a model may do
        flat = flat + 0.01 * (self.calls + sum(self.recent) + sum(self.notes["means"])) + float(self.array[0])
        mean = flat.detach().mean(0)
        self.ema = 0.9 * self.ema + 0.1 * mean  # another tensor each time
        self.transient.mul_(0.9).add_(mean, alpha=0.1)
        self.plain = 0.9 * self.plain + 0.1 * mean
        self.calls += 1
        self.recent.append(float(mean[0]))
        self.notes["means"] = [*self.notes["means"][-2:], float(mean[1])]
        self.array[0] = 0.9 * self.array[0] + 0.01
        if not hasattr(self, "late"):
            self.register_buffer("late", mean, persistent=False)
        out: Tensor = self.layer(flat)
        return out


def _restless(draws: str = "") -> Restless:
    torch.manual_seed(0)
    return Restless(draws)


def _numpy_keys() -> list[int]:
    state: Any = np.random.get_state()  # noqa: NPY002
    keys: list[int] = state[1].tolist()
    return keys


def _contents(model: Restless) -> list[object]:
    return [
        *(tensor.tolist() for tensor in (model.ema, model.transient, model.plain)),
        model.norm.running_mean.tolist() if model.norm.running_mean is not None else None,
        model.calls,
        list(model.recent),
        dict(model.notes),
        model.array.tolist(),
        hasattr(model, "late"),
    ]


def test_a_lookahead_leaves_no_trace() -> None:
    model = _restless("python numpy")
    problem = problem_of(model)
    before, tensors = _contents(model), (model.ema, model.transient, model.plain)
    generators = torch.get_rng_state(), random.getstate(), _numpy_keys()
    with problem.lookahead():
        model.eval()
        problem.outputs(some_batch(0))
        assert _contents(model) != before
    assert _contents(model) == before
    assert model.training
    assert model.norm.training
    assert all(one is other for one, other in zip(tensors, (model.ema, model.transient, model.plain), strict=True))
    assert torch.equal(generators[0], torch.get_rng_state())
    assert generators[1:] == (random.getstate(), _numpy_keys())


@pytest.mark.parametrize("rule", [APOLR, APOP])
def test_meta_rate_0_is_sgd_bit_for_bit_on_a_model_that_changes_itself(rule: type) -> None:
    ends = []
    for adaptive in (False, True):
        torch.manual_seed(1)
        np.random.seed(1)  # noqa: NPY002
        problem = problem_of(
            _restless("numpy")
        )  # the checks of annotations in these tests draw from Python's generator
        sgd = torch.optim.SGD(problem.parameters, lr=0.05)
        stepper = TorchRule(problem, sgd)
        if adaptive and rule is APOLR:
            stepper = APOLR(problem, sgd, weights=WEIGHTS, meta_lr=0.0, interval=2)  # type: ignore[assignment] # both step
        elif adaptive:
            stepper = APOP(problem, lr=0.05, weights=WEIGHTS, meta_lr=0.0, interval=2, momentum=0.0)  # type: ignore[assignment] # both step
        for seed in range(30):
            stepper.step(some_batch(seed))
        ends.append(problem.model.state_dict())
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)


def _with_kept_statistics() -> nn.Module:
    """A network whose normalization stays in evaluation mode, as in fine-tuning."""
    network = TASK.model()
    next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d)).eval()
    return network


def test_a_validation_restores_the_mode_of_each_module() -> None:
    task = dataclasses.replace(TASK, model=_with_kept_statistics)
    loop = prepare(run_spec("sgdm"), task, optimizers()["sgdm"].load(), CPU)
    network = loop.setup.problem.model
    norm = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    loop.validate()
    assert not norm.training
    assert network.training
    loop.block(3)
    assert norm.running_mean is not None
    assert not norm.running_mean.any()  # its statistics never moved


def test_schedule_frees_recalibration_leaves_a_kept_normalization_alone() -> None:
    task = dataclasses.replace(TASK, model=_with_kept_statistics)
    loop = prepare(run_spec("schedule-free-adamw"), task, optimizers()["schedule-free-adamw"].load(), CPU)
    loop.block(2)
    norm = next(m for m in loop.setup.problem.model.modules() if isinstance(m, nn.BatchNorm2d))
    with loop.setup.rule.evaluating():
        assert norm.running_mean is not None
        assert not norm.running_mean.any()


def test_saved_state_comes_back_in_another_model_and_continues_to_the_bit(tmp_path: Path) -> None:
    model = _restless()
    for seed in range(3):
        model(*some_batch(seed).inputs)
    copy = _restless()
    checkpoints = Checkpoints(tmp_path, "model")
    checkpoints.save(saved_state(model))
    saved = checkpoints.load()
    assert saved is not None
    load_saved_state(copy, saved)
    assert _contents(copy) == _contents(model)
    batch = some_batch(9)
    assert torch.equal(copy(*batch.inputs), model(*batch.inputs))


def test_an_object_in_an_attribute_is_left_alone() -> None:
    model: Any = nn.Linear(2, 2)
    model.hidden = [nn.Linear(2, 2)]  # in a list, so that torch does not register it
    state = ModelState(model)
    model.hidden[0] = other = nn.Linear(2, 2)
    state.restore()
    assert model.hidden == [other]
    assert "hidden" not in saved_state(model)["modules"][0]["attributes"]


class Drawing(nn.Module):
    """Draws from Python's and NumPy's generators, and counts what it has seen in a transient buffer."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        self.seen = self.seen + 1
        noise = random.gauss(0.0, 0.1) + float(np.random.randn())  # noqa: NPY002
        out: Tensor = self.inner(images) * (1.0 + 0.1 * noise + 0.01 * self.seen)
        return out


class KilledError(Exception):
    """Stands for the end of the process."""


def test_two_runs_and_a_continued_one_are_identical_for_a_model_that_draws_from_any_generator(tmp_path: Path) -> None:
    task = dataclasses.replace(TASK, model=Drawing)
    first = trained("sgdm", task=task)
    random.random()
    np.random.rand()  # noqa: NPY002
    assert numbers_of(trained("sgdm", task=task)) == numbers_of(first)

    def killed(event: Event) -> None:
        if isinstance(event, Evaluated) and event.point.step == 20:
            raise KilledError

    checkpoints = Checkpoints(tmp_path, "run", every_seconds=0.0)
    run, competitor = run_spec("sgdm"), optimizers()["sgdm"].load()
    with pytest.raises(KilledError):
        train(run, task, competitor, CPU, killed, checkpoints)
    random.seed(77)
    continued = train(run, task, competitor, CPU, checkpoints=checkpoints)
    assert continued.continued == 1
    assert numbers_of(continued) == numbers_of(first)
