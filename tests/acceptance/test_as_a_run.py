"""The tests of a card demand equality only of what promises it: deterministic algorithms, as in a run's process."""

import os
from typing import Any

import pytest
import test_cuda
import torch
from support.devices import CPU, card_of_a_run
from support.runs import TASK, run_spec

from apo_bench.plugins.registry import optimizers
from apo_bench.records.outcome import Diverged
from apo_bench.training.trainer import train


def test_a_card_is_opened_as_by_a_run_and_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    with card_of_a_run() as device:
        assert device == torch.device("cuda", 0)
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert not torch.backends.cudnn.benchmark
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark


@pytest.mark.parametrize(("optimizer", "overrides"), test_cuda.TOO_FAST)
def test_what_must_diverge_on_a_card_diverges_on_a_cpu(optimizer: str, overrides: dict[str, Any]) -> None:
    training = train(run_spec(optimizer, **overrides), TASK, optimizers()[optimizer].load(), CPU)
    assert isinstance(training.outcome, Diverged)
