"""What a command left in its store, and waiting for it."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.shell import Shell

TINY = ("run", "--suite", "classification", "--scale", "smoke", "--tasks", "tiny", "--epochs", "2")
PLUG = "[apo_bench.optimizers]\nplug = plug:plug\n"


def store_of(shell: Shell) -> Path:
    return shell.folder / "apo-bench-results"


def records_in(shell: Shell) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in sorted(store_of(shell).glob("runs/*/record.json"))]


def active_in(shell: Shell) -> list[Path]:
    """What the runs in flight have said."""
    return list(store_of(shell).glob("active/*/events.jsonl"))


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("waited in vain")
