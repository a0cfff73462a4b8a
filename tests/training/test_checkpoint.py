"""A run that is killed and continued equals the undisturbed one."""

import dataclasses
import errno
import hashlib
import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from support.devices import CPU
from support.runs import TASK, numbers_of, run_spec

from apo_bench.errors import UsageError
from apo_bench.files import CHECKPOINT
from apo_bench.plugins.registry import optimizers
from apo_bench.problem.problem import Problem
from apo_bench.problem.rule import TorchRule
from apo_bench.records.events import Evaluated, Event, Remarked
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


SMALL = {"model": {"weight": torch.arange(6.0).reshape(2, 3)}, "taken": 20, "curve": [{"step": 20, "loss": 0.25}]}


def _flips(data: bytes) -> Iterator[bytes]:
    """The file with a flipped bit in each place."""
    for place in range(len(data)):
        yield data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :]


def test_no_changed_byte_of_a_checkpoint_goes_unnoticed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "one")
    checkpoints.save(SMALL)
    path = tmp_path / CHECKPOINT
    data = path.read_bytes()
    said: list[str] = []
    for flipped in _flips(data):
        path.write_bytes(flipped)
        assert checkpoints.load(said.append) is None
    assert len(said) == len(data)
    assert {line.startswith("the checkpoint cannot be read (") for line in said} == {True}
    path.write_bytes(data)
    assert checkpoints.load(said.append) is not None


def _resealed(data: bytes) -> bytes:
    """A file whose digest is that of what it holds, whatever that is."""
    place = data.index(b'"digest":"') + len(b'"digest":"')
    bare = data[:place] + b"0" * 64 + data[place + 64 :]
    return data[:place] + hashlib.sha256(bare).hexdigest().encode() + data[place + 64 :]


def _with_state(state: str) -> bytes:
    header = {"identity": "one", "state": state, "digest": "0" * 64}
    return _resealed(safetensors.torch.save({"0": torch.ones(2)}, header))


@pytest.mark.parametrize(
    "state",
    [
        "",
        "{",
        "1",
        "[]",
        "null",
        "[" * 100_000,
        '{"list": [' * 20_000,
        '{"mapping": [["a", {"tensor": ["9", [1]]}]]}',
        '{"mapping": [["a", {"tensor": ["0", [4611686018427387904]]}]]}',
        '{"mapping": [["a", {"tensor": ["0", ["x"]]}]]}',
        '{"mapping": [["a", {"array": ["0", "O", [1], false]}]]}',
        '{"mapping": [["a"]]}',
        '{"mapping": [[{"list": [[]]}, 1]]}',
        '{"surprise": [[]]}',
        '{"device": "nowhere"}',
        '{"generator": ["cpu", {"tensor": ["0", [1]]}]}',
        '{"deque": [[1], -1]}',
    ],
    ids=lambda text: text[:40],
)
def test_a_checkpoint_that_holds_nonsense_under_a_good_digest_is_none(tmp_path: Path, state: str) -> None:
    (tmp_path / CHECKPOINT).write_bytes(_with_state(state))
    said: list[str] = []
    assert Checkpoints(tmp_path, "one").load(said.append) is None
    (line,) = said
    assert line.startswith("the checkpoint cannot be read (")
    assert line.endswith("); the run begins again")
    assert len(line) < 400


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 7,
        b"\xff" * 8,
        b"\xff\xff\xff\xff\x00\x00\x00\x00",
        (10**6).to_bytes(8, "little") + b'{"__metadata__":{"digest":"',
        (2).to_bytes(8, "little") + b"{}",
        _resealed((94).to_bytes(8, "little") + b'{"__metadata__":{"digest":"' + b"0" * 64 + b'"}}x'),
        safetensors.torch.save({"0": torch.ones(2)}, {"identity": "one", "state": "{}"}),
    ],
)
def test_a_file_that_is_no_checkpoint_is_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / CHECKPOINT).write_bytes(data)
    said: list[str] = []
    assert Checkpoints(tmp_path, "one").load(said.append) is None
    assert len(said) == 1


def test_neither_a_pipe_nor_a_folder_nor_a_link_is_a_checkpoint(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "one").save(SMALL)
    path = tmp_path / CHECKPOINT
    elsewhere = path.rename(tmp_path / "elsewhere")
    makers: list[Callable[[], object]] = [
        lambda: os.mkfifo(path),
        path.mkdir,
        lambda: path.symlink_to(elsewhere),
        lambda: path.symlink_to(path),
    ]
    for make in makers:
        make()
        said: list[str] = []
        assert Checkpoints(tmp_path, "one").load(said.append) is None
        assert len(said) == 1
        path.rmdir() if path.is_dir() else path.unlink()
    said = []
    assert Checkpoints(tmp_path, "one").load(said.append) is None
    assert said == []


@pytest.mark.parametrize(
    "harm", [lambda data: data[:-1], lambda data: data[:-9] + bytes([data[-9] ^ 64]) + data[-8:]], ids=["short", "bit"]
)
def test_a_run_with_a_damaged_checkpoint_begins_again_says_so_and_ends_as_undisturbed(
    tmp_path: Path, harm: Callable[[bytes], bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    """A bit of a weight that flipped made another result, and no word was said."""
    undisturbed = _train("sgdm", Precision.FP32, None)
    checkpoints = Checkpoints(tmp_path, "run", every_seconds=0.0)
    with pytest.raises(KilledError):
        _train("sgdm", Precision.FP32, checkpoints, _killed_at(40))
    path = tmp_path / CHECKPOINT
    path.write_bytes(harm(path.read_bytes()))
    events: list[Event] = []
    again = _train("sgdm", Precision.FP32, checkpoints, events.append)
    assert again.continued == 0
    assert numbers_of(again) == numbers_of(undisturbed)
    assert again.scores == undisturbed.scores
    (remark,) = [event.message for event in events if isinstance(event, Remarked)]
    assert remark.startswith("the checkpoint cannot be read (")
    assert remark in capsys.readouterr().err


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


class Mode(Enum):
    FAST = 1


@pytest.mark.parametrize(
    "value",
    [
        torch.float16,
        torch.device("cpu"),
        torch.Size([2, 3]),
        deque([1, 2, torch.ones(2)], maxlen=4),
        {1, 2},
        frozenset({"a"}),
        3 + 4j,
        b"bytes",
        math.inf,
        -math.inf,
        2**80,
        {(1, "a"): [None]},
        np.arange(6).reshape(2, 3),
        np.float32(0.1),
        np.array(2.5),
        torch.ones(2, dtype=torch.complex64) * (1 + 2j),
        torch.ones(3).expand(2, 3),
        torch.zeros(0, 3),
        torch.tensor(5),
        torch.arange(4).to(torch.uint16),
    ],
    ids=str,
)
def test_state_of_every_kind_comes_back_as_it_was(tmp_path: Path, value: object) -> None:
    checkpoints = Checkpoints(tmp_path, "one")
    checkpoints.save({"x": value})
    loaded = checkpoints.load()
    assert loaded is not None
    found = loaded["x"]
    assert type(found) is type(value)
    if isinstance(value, torch.Tensor):
        assert isinstance(found, torch.Tensor)
        assert found.dtype == value.dtype
        assert torch.equal(found, value)
    elif isinstance(value, np.ndarray):
        assert isinstance(found, np.ndarray)
        assert found.dtype == value.dtype
        assert np.array_equal(found, value)
    elif isinstance(value, deque):
        assert isinstance(found, deque)
        assert found.maxlen == value.maxlen
        assert list(found)[:2] == list(value)[:2]
    else:
        assert found == value


def test_a_generator_comes_back_with_its_state(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    torch.rand(5, generator=generator)
    checkpoints = Checkpoints(tmp_path, "one")
    checkpoints.save({"x": generator})
    loaded = checkpoints.load()
    assert loaded is not None
    assert torch.equal(torch.rand(4, generator=loaded["x"]), torch.rand(4, generator=generator))


class Odd(TorchRule):
    """Has a state that no file can hold, or cannot even say its state."""

    def __init__(self, problem: Problem, kind: str) -> None:
        super().__init__(problem, torch.optim.SGD(problem.parameters, lr=0.05))
        self.kind = kind

    def state_dict(self) -> dict[str, Any]:
        if self.kind == "raises":
            raise AttributeError("no state")
        return {"mode": Mode.FAST if self.kind == "enum" else SimpleNamespace(a=1), **super().state_dict()}


@pytest.mark.parametrize("kind", ["object", "enum", "raises"])
def test_a_state_that_cannot_be_stored_is_said_once_and_the_run_goes_on(tmp_path: Path, kind: str) -> None:
    sgdm = optimizers()["sgdm"].load()
    competitor = dataclasses.replace(sgdm, build=lambda problem, _: Odd(problem, kind))
    events: list[Event] = []
    run = run_spec("sgdm", epochs=3)
    training = train(run, TASK, competitor, CPU, events.append, Checkpoints(tmp_path, "run", every_seconds=0.0))
    assert len(training.curve) == 3
    (remark,) = [event.message for event in events if isinstance(event, Remarked)]
    assert remark.startswith("not checkpointed, because the state of sgdm cannot be stored (")
    assert not (tmp_path / CHECKPOINT).exists()


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
