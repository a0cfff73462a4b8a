"""What runs and probes print: kept, but for the middle of what is too much."""

import os
from pathlib import Path

from apo_bench.files import looked_at

MOST_BYTES = 10 * 2**20
"""Size from which a log is shortened: a plugin that prints in a loop fills no disk."""
_HEAD_BYTES = 2**20
_TAIL_BYTES = 2**20
_LAST_BYTES = 2**16
_LONGEST_LINE = 300


def shorten(path: Path) -> None:
    """Leave out the middle of a log that has grown too long; its process may go on appending to it.

    Raises:
        OSError: It cannot be written.
    """
    with looked_at(path, writable=True) as descriptor:
        if descriptor is None:
            return
        size = os.fstat(descriptor).st_size
        if size <= MOST_BYTES:
            return
        tail = os.pread(descriptor, _TAIL_BYTES, size - _TAIL_BYTES)
        os.ftruncate(descriptor, _HEAD_BYTES)
        left_out = size - _HEAD_BYTES - len(tail)
        os.write(descriptor, f"\n[{left_out:,} bytes left out by apo-bench]\n".encode() + tail)


def last_line(path: Path) -> str | None:
    """The last line that says something; `None` where there is none."""
    with looked_at(path) as descriptor:
        if descriptor is None:
            return None
        size = os.fstat(descriptor).st_size
        end = os.pread(descriptor, _LAST_BYTES, max(0, size - _LAST_BYTES)).decode(errors="replace")
    return next((line.strip()[:_LONGEST_LINE] for line in reversed(end.split("\n")) if line.strip()), None)
