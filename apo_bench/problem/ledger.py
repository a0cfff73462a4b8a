"""Where the time of training goes: seconds by phase of a step.

Phases are ``data`` (drawing the batch of a step), ``forward`` (with the loss), ``backward``, ``update`` (from gradients
to new parameters), ``curvature`` (estimating it), ``inverse`` and ``meta`` (all that a meta-update takes, its own
forward and backward passes included); a rule may have others. What is in none is the difference to the training clock.
"""

import time
from collections import defaultdict
from types import TracebackType

import torch


class Ledger:
    """Seconds by phase, on one device.

    On a CPU a phase costs two looks at the clock. On CUDA it costs two events, put among the kernels without waiting
    for them: the time is that of the device. Their times are read by `settle`.

    >>> ledger = Ledger(torch.device("cpu"))
    >>> with ledger.phase("meta"), ledger.phase("forward"):
    ...     _ = torch.ones(2) + 1
    >>> list(ledger.seconds)
    ['meta']

    Attributes:
        seconds: By phase, up to the last `settle` on CUDA.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._depth = 0
        self._start = 0.0
        self._phases: dict[str, _Phase] = {}
        self._events: _Events | None = _Events() if device.type == "cuda" else None

    def phase(self, name: str) -> "_Phase":
        """Count the enclosed work as ``name``; within another phase it counts as that one's."""
        found = self._phases.get(name)
        if found is None:
            found = self._phases[name] = _Phase(self, name)
        return found

    def settle(self) -> None:
        """Read the times of what the device has done; it must be synchronized."""
        if self._events is not None:
            for name, seconds in self._events.read():
                self.seconds[name] += seconds

    def reset(self) -> None:
        """Forget everything up to now: also what the device has yet to do, whose time is not read."""
        self.seconds.clear()
        if self._events is not None:
            self._events.forget()

    def enter(self) -> None:
        """Begin a phase, unless one has begun."""
        self._depth += 1
        if self._depth == 1:
            if self._events is None:
                self._start = time.perf_counter()
            else:
                self._events.begin()

    def leave(self, name: str) -> None:
        """End the innermost phase."""
        self._depth -= 1
        if self._depth == 0:
            if self._events is None:
                self.seconds[name] += time.perf_counter() - self._start
            else:
                self._events.end(name)


class _Phase:
    """A context that may be entered again and again; made once a name, as a generator would cost more than it times."""

    __slots__ = ("_ledger", "_name")

    def __init__(self, ledger: Ledger, name: str) -> None:
        self._ledger = ledger
        self._name = name

    def __enter__(self) -> None:
        self._ledger.enter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ledger.leave(self._name)


class _Events:
    """Pairs of CUDA events on the current stream; events are used again once they are read."""

    def __init__(self) -> None:
        self._free: list[torch.cuda.Event] = []
        self._pairs: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._begun: torch.cuda.Event | None = None

    def begin(self) -> None:
        self._begun = self._record()

    def end(self, name: str) -> None:
        if self._begun is not None:
            self._pairs.append((name, self._begun, self._record()))
            self._begun = None

    def read(self) -> list[tuple[str, float]]:
        times = [(name, start.elapsed_time(stop) / 1000.0) for name, start, stop in self._pairs]
        self.forget()
        return times

    def forget(self) -> None:
        self._free += [event for _, *both in self._pairs for event in both]
        self._pairs.clear()

    def _record(self) -> torch.cuda.Event:
        event = self._free.pop() if self._free else torch.cuda.Event(enable_timing=True)
        event.record()
        return event
