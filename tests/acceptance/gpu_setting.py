"""What an acceptance is asked for, and what a check is."""

import dataclasses
from pathlib import Path
from typing import Any

SCHEMA = 1
ROOT = Path(__file__).resolve().parents[2]
OPTIMIZERS = ("sgdm", "adam", "kfac", "apo-p")
PRECISIONS = ("fp32", "fp16")
LENET = "fashion-mnist-20k.lenet"
SHARES = {"environment": 30, "doctor": 30, "tests": 170, "run": 210, "probe": 60, "card": 20, "records": 20}
"""The parts in their order, and the seconds of each where the whole has 540."""


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that must hold.

    Attributes:
        name: What must hold.
        passed: Whether it does.
        value: What was seen; JSON.
    """

    name: str
    passed: bool
    value: Any


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is accepted, and where.

    Attributes:
        output: Folder of everything that is written.
        cpu: Whether the CPU stands in for the card.
    """

    output: Path
    cpu: bool

    @property
    def device(self) -> str:
        """Kind of device."""
        return "cpu" if self.cpu else "cuda"

    @property
    def store(self) -> Path:
        """Folder of the records."""
        return self.output / "store"

    @property
    def tasks(self) -> str | None:
        """Tasks of the run; `None` for all of the suite."""
        return LENET if self.cpu else None


def probed(setting: Setting) -> tuple[str, ...]:
    """Precisions of the probe: on a CPU fp16 is emulated, and has no cost."""
    return PRECISIONS[:1] if setting.cpu else PRECISIONS
