"""The run's own clock: training and evaluation apart, the device synchronized at the edges only."""

import contextlib
import time
from collections.abc import Iterator

import torch


class Clock:
    """Monotonic seconds spent training and evaluating.

    Attributes:
        training: Seconds inside `train`.
        evaluating: Seconds inside `evaluate`.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.training = 0.0
        self.evaluating = 0.0

    @contextlib.contextmanager
    def train(self) -> Iterator[None]:
        """Count the enclosed work as training."""
        start = self._now()
        yield
        self.training += self._now() - start

    @contextlib.contextmanager
    def evaluate(self) -> Iterator[None]:
        """Count the enclosed work as evaluation."""
        start = self._now()
        yield
        self.evaluating += self._now() - start

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
