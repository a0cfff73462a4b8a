"""The run's own clock: training, data and evaluation apart, the device synchronized at the edges only."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from apo_bench.problem.ledger import Ledger

_APART = {"data", "evaluation"}
"""Phases of the ledger that are not on the training clock."""


class Clock:
    """Monotonic seconds spent training, drawing batches and evaluating.

    Attributes:
        training: Seconds inside `train`, but for those of the ledger's phase ``data``.
        data: Seconds of that phase.
        evaluating: Seconds inside `evaluate`.
        ledger: Seconds of training by phase.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.training = 0.0
        self.data = 0.0
        self.evaluating = 0.0
        self.ledger = Ledger(device)

    @contextlib.contextmanager
    def train(self) -> Iterator[None]:
        """Count the enclosed work as training."""
        data = self.ledger.seconds["data"]
        start = self._now()
        yield
        seconds = self._now() - start
        self.ledger.settle()
        drawn = self.ledger.seconds["data"] - data
        self.data += drawn
        self.training += max(0.0, seconds - drawn)  # on CUDA two clocks, which differ by microseconds

    @contextlib.contextmanager
    def evaluate(self) -> Iterator[None]:
        """Count the enclosed work as evaluation."""
        start = self._now()
        with self.ledger.phase("evaluation"):
            yield
        self.evaluating += self._now() - start
        self.ledger.settle()

    @property
    def phases(self) -> dict[str, float]:
        """Seconds of training by phase."""
        return {name: seconds for name, seconds in self.ledger.seconds.items() if name not in _APART}

    def state_dict(self) -> dict[str, Any]:
        """All seconds."""
        return {
            "training": self.training,
            "evaluating": self.evaluating,
            "data": self.data,
            "phases": self.phases,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from saved seconds."""
        self.training = state["training"]
        self.evaluating = state["evaluating"]
        self.data = state["data"]
        self.ledger.seconds.update(state["phases"])

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
