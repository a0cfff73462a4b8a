"""A run that is killed and continued equals the undisturbed one."""

import errno
from pathlib import Path

import pytest
import torch
from support.devices import CPU
from support.runs import TASK, numbers_of, run_spec

from apo_bench.errors import UsageError
from apo_bench.files import CHECKPOINT
from apo_bench.plugins.registry import optimizers
from apo_bench.records.events import Evaluated, Event
from apo_bench.records.schedules import Cosine
from apo_bench.records.spec import Precision
from apo_bench.training.checkpoint import Checkpoints
from apo_bench.training.result import Training
from apo_bench.training.trainer import prepare, train


class KilledError(Exception):
    """Stands for the end of the process."""


def _killed_at(step: int) -> object:
    def observe(event: Event) -> None:
        if isinstance(event, Evaluated) and event.point.step == step:
            raise KilledError

    return observe


def _train(optimizer: str, precision: Precision, checkpoints: Checkpoints | None, observe: object = None) -> Training:
    competitor = optimizers()[optimizer].load()
    run = run_spec(optimizer, precision=precision, epochs=5, schedule=Cosine(warmup=0.1))
    try:
        prepare(run, TASK, competitor, CPU)
    except UsageError:  # some rules follow no schedule, some refuse a precision
        run = run_spec(optimizer, precision=precision, epochs=5)
        try:
            prepare(run, TASK, competitor, CPU)
        except UsageError as error:
            pytest.skip(f"refused with a clear line: {error}")
    return train(run, TASK, competitor, CPU, observe or (lambda _: None), checkpoints)  # type: ignore[arg-type] # a test passes an observer of events


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16, Precision.PURE_BF16])
@pytest.mark.parametrize("optimizer", optimizers().names())
def test_a_continued_run_equals_the_undisturbed_one(optimizer: str, precision: Precision, tmp_path: Path) -> None:
    """With dropout, batch normalization, augmentation, a schedule and loss scaling; killed twice."""
    undisturbed = _train(optimizer, precision, None)
    checkpoints = Checkpoints(tmp_path, "run", every_seconds=0.0)
    for step in (20, 40):
        with pytest.raises(KilledError):
            _train(optimizer, precision, checkpoints, _killed_at(step))
    continued = _train(optimizer, precision, checkpoints)
    assert continued.continued == 2
    assert undisturbed.continued == 0
    assert numbers_of(continued) == numbers_of(undisturbed)
    assert continued.scores == undisturbed.scores
    assert continued.cost.steps == undisturbed.cost.steps


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("apo_bench.training.checkpoint.write_durably", full)
    training = _train("sgdm", Precision.FP32, Checkpoints(tmp_path, "run", every_seconds=0.0))
    assert len(training.curve) == 5
    assert "no checkpoint at step 20: [Errno 28] No space left on device" in capsys.readouterr().err


def test_a_checkpoint_of_another_run_or_code_is_ignored(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "one").save({"x": torch.ones(2)})
    assert Checkpoints(tmp_path, "other").load() is None
    assert Checkpoints(tmp_path, "one").load() is not None


@pytest.mark.parametrize("length", [0, 5, 40])
def test_a_damaged_checkpoint_is_ignored(tmp_path: Path, length: int) -> None:
    checkpoints = Checkpoints(tmp_path, "one")
    checkpoints.save({"x": torch.ones(2)})
    data = (tmp_path / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(data[:length])
    assert checkpoints.load() is None


def test_nested_state_comes_back_as_it_was(tmp_path: Path) -> None:
    shared = torch.randn(3, 4).t()
    state = {
        "state": {0: {"momentum": shared, "step": 3}, 1: {}},
        "groups": [{"betas": (0.9, 0.999), "lr": 0.1, "flag": True, "name": "x"}],
        "half": torch.ones(2, dtype=torch.float16),
        "again": shared,
    }
    checkpoints = Checkpoints(tmp_path, "one")
    checkpoints.save(state)
    loaded = checkpoints.load()
    assert loaded is not None
    assert loaded["groups"] == state["groups"]
    for name in ("state", "half", "again"):
        torch.testing.assert_close(loaded[name], state[name], rtol=0, atol=0, check_stride=True)
    assert isinstance(loaded["groups"][0]["betas"], tuple)
    assert list(loaded["state"]) == [0, 1]


def test_what_a_checkpoint_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not object"):
        Checkpoints(tmp_path, "one").save({"x": object()})


def test_saving_replaces_at_once(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "one")
    for value in (1.0, 2.0):
        checkpoints.save({"x": torch.tensor(value)})
    assert list(tmp_path.iterdir()) == [tmp_path / CHECKPOINT]
    loaded = checkpoints.load()
    assert loaded is not None
    assert loaded["x"].item() == 2.0
