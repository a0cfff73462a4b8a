"""What else keeps this machine's processors busy."""

import os
import time
from pathlib import Path

_STAT = Path("/proc/stat")
_IDLE = slice(3, 5)
"""Columns ``idle`` and ``iowait`` of proc_stat(5)."""
_GUEST = 8
"""From here on times of guests, which ``user`` and ``nice`` hold already."""


class ForeignLoad:
    """CPU cores kept busy by others than this process since construction, by the kernel's count; Linux only."""

    def __init__(self) -> None:
        self._busy = _busy_seconds()
        self._own = time.process_time()
        self._start = time.monotonic()

    def cores(self) -> float | None:
        """Their mean number; `None` where the kernel does not say.

        The kernel counts in hundredths of a second: over less than a few seconds the number is coarse.
        """
        busy = _busy_seconds()
        seconds = time.monotonic() - self._start
        if busy is None or self._busy is None or seconds <= 0:
            return None
        own = time.process_time() - self._own
        return max(0.0, (busy - self._busy - own) / seconds)


def _busy_seconds() -> float | None:
    """CPU seconds since the machine started, over all processors, time stolen by a hypervisor included."""
    try:
        first = _STAT.read_text(encoding="ascii").split("\n", 1)[0]
        times = [int(word) for word in first.split()[1 : _GUEST + 1]]
        ticks = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None
    return (sum(times) - sum(times[_IDLE])) / ticks if times else None
