"""What an acceptance looks at: the machine and its card."""

import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpu_setting import ROOT, Check, Setting

if TYPE_CHECKING:
    from apo_bench.measure.nvml import Card

WORK_SECONDS = 1.5


def revision() -> str | None:
    """Commit of the checkout, with a plus sign where it has been changed; `None` where git does not tell."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}+" if changed.strip() else head


# What follows runs in the processes of the parts `environment`, `card` and `records`.


def look_at_environment(setting: Setting) -> tuple[list[Check], dict[str, Any]]:
    """Describe the machine."""
    import msgspec
    import torch

    import apo_bench
    from apo_bench.measure.environment import environment

    available = torch.cuda.is_available()
    made = environment(torch.device("cuda" if available and not setting.cpu else "cpu"))
    ours = Path(apo_bench.__file__).resolve().parent.parent == ROOT
    checks = [Check("the code is that of this checkout", ours, made.apo_bench)]
    if not setting.cpu:
        checks.append(Check("torch finds a CUDA device", available, made.device_name))
    return checks, {"environment": msgspec.to_builtins(made)}


def look_at_card(setting: Setting) -> tuple[list[Check], dict[str, Any]]:
    """Read the card, idle and at work."""
    import torch

    from apo_bench.measure.card import CardUse
    from apo_bench.measure.memory import PeakMemory
    from apo_bench.measure.nvml import open_card

    device = torch.device(setting.device)
    card = open_card(device)
    idle = _readings(card)
    size = 256 if setting.cpu else 4096
    matrix = torch.randn(size, size, device=device)  # initializes CUDA, which the peak of memory needs
    use, memory = CardUse(card), PeakMemory(device)
    use.start()
    start = time.monotonic()
    while time.monotonic() < start + WORK_SECONDS:
        for _ in range(10):
            _ = matrix @ matrix
        use.sample()  # while the products are under way
        if not setting.cpu:
            torch.cuda.synchronize(device)
    use.finish()
    seconds = time.monotonic() - start
    values = {
        "driver": card.driver_version() if card else None,
        "idle": idle,
        "busy": {
            "seconds": seconds,
            "energy_joules": use.energy_joules,
            "mean_watts": use.energy_joules / seconds if use.energy_joules else None,
            "clock_mhz": use.clock_mhz,
            "throttle_reasons": use.throttle_reasons,
            "foreign_processes": use.foreign_processes,
            "process_memory_bytes": use.process_memory_bytes,
        },
        "allocator": {
            "peak_bytes": None if setting.cpu else memory.bytes(),
            "reserved_bytes": memory.reserved(),
        },
    }
    if setting.cpu:
        return [Check("a CPU has no card to read", card is None and use.energy_joules is None, None)], values
    if card is None:
        return [Check("NVML finds the card", passed=False, value="no pynvml, no driver, or MIG")], values
    return card_checks(values), values


def _readings(card: "Card | None") -> dict[str, Any]:
    if card is None:
        return {}
    processes = card.processes()
    return {
        "energy_millijoules": card.energy_millijoules(),
        "clock_mhz": card.sm_clock_mhz(),
        "throttle_reasons": card.throttle_reasons(),
        "processes": None if processes is None else len(processes),  # their numbers say nothing elsewhere
    }


def card_checks(values: Mapping[str, Any]) -> list[Check]:
    """What the readings of a card must say.

    Other processes and throttling are read and not judged: they are the machine's affair. Nor is it a fault that a
    container hides the own process; where it is listed, the driver's count of its memory contains the allocator's.
    """
    idle, busy, allocator = values["idle"], values["busy"], values["allocator"]
    watts, clock = busy["mean_watts"], busy["clock_mhz"]
    held, reserved, peak = busy["process_memory_bytes"], allocator["reserved_bytes"], allocator["peak_bytes"]
    return [
        Check("the driver says its version", bool(values["driver"]), values["driver"]),
        Check("work uses energy, at 1 W to 5 kW", watts is not None and 1.0 < watts < 5000.0, watts),
        Check("the idle card has a clock", bool(idle["clock_mhz"]), idle["clock_mhz"]),
        Check("the busy card has a clock", clock is not None and clock[0] > 0, clock),
        Check(
            "the allocator reserves what it gives", bool(peak) and bool(reserved) and reserved >= peak, [peak, reserved]
        ),
        Check(
            "the driver counts at least what the allocator reserved, or hides the process",
            held is None or (reserved is not None and held >= reserved),
            [held, reserved],
        ),
    ]
