"""Memory of a run: its peak, and what was there before it."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
Loaded = TypeVar("Loaded")


class PeakMemory:
    """Peak memory since construction, but for what was done `aside`.

    On CUDA the allocator's peak; on Linux the peak resident set of this process, reset at construction; elsewhere
    unknown. The resident set means something for a run only in a process of its own.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._resident = False
        self._highest = self._highest_reserved = 0
        self._reset()

    def _reset(self) -> None:
        device = self._device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif sys.platform == "linux":
            try:
                _CLEAR_REFS.write_text("5", encoding="ascii")  # proc(5): reset the peak resident set size
                self._resident = True
            except OSError:
                pass  # a container may forbid it; an unreset peak would be wrong, so there is none

    def bytes(self) -> int | None:
        """Peak so far, in bytes; `None` where it cannot be known."""
        if self._device.type == "cuda":
            return max(self._highest, torch.cuda.max_memory_allocated(self._device))
        peak = _status("VmHWM") if self._resident else None
        return None if peak is None else max(self._highest, peak)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Leave out what the harness does between steps: large evaluation batches, copies for a checkpoint.

        On a CPU memory that was freed meanwhile and not given back to the system still counts.
        """
        self._highest, self._highest_reserved = self.bytes() or 0, self.reserved() or 0
        yield
        self._reset()

    def reserved(self) -> int | None:
        """The most that torch's CUDA allocator had reserved so far, in bytes; `None` on other devices.

        More than `bytes`: the allocator keeps freed blocks, and cannot use all of what it keeps.
        """
        if self._device.type != "cuda":
            return None
        return max(self._highest_reserved, torch.cuda.max_memory_reserved(self._device))


def loaded_above_baseline(load: Callable[[], Loaded], device: torch.device) -> tuple[Loaded, int | None]:
    """Load the data, and tell what part of the peak of memory is none of the training's.

    On a CPU the resident set before the data: the interpreter and torch. On CUDA, whose allocator knows of neither,
    what it has given out once the data are on the device. Elsewhere unknown.

    Args:
        load: Brings the data to the device.
        device: Where.

    Returns:
        What ``load`` returned, and the baseline in bytes.
    """
    before = resident_bytes() if device.type == "cpu" else None
    loaded = load()
    return loaded, torch.cuda.memory_allocated(device) if device.type == "cuda" else before


def resident_bytes() -> int | None:
    """Resident set of this process now, in bytes (``VmRSS`` of proc(5)); `None` where there is no such file.

    A page counts once this process has touched it: a process forked from one that has imported torch begins with less
    than one that imports torch itself, and grows by the parts of the libraries that it comes to use.
    """
    return _status("VmRSS")


def _status(field: str) -> int | None:
    """A size out of /proc/self/status, in bytes."""
    if not _STATUS.exists():
        return None
    for line in _STATUS.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None
