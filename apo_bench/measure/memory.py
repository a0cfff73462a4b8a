"""Peak memory of a run."""

import sys
from pathlib import Path

import torch

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


class PeakMemory:
    """Peak memory since construction.

    On CUDA the allocator's peak; on Linux the peak resident set of this process, reset at construction; elsewhere
    unknown. The resident set means something for a run only in a process of its own.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._resident = False
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif sys.platform == "linux":
            try:
                _CLEAR_REFS.write_text("5")  # proc(5): reset the peak resident set size
                self._resident = True
            except OSError:
                pass  # a container may forbid it; an unreset peak would be wrong, so there is none

    def bytes(self) -> int | None:
        """Peak so far, in bytes; `None` where it cannot be known."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        if not self._resident:
            return None
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        return None
