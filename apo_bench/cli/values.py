"""What a value on the command line may be: numbers within a declared range, and paths; checked before anything is made.

Whatever is given, the line says which option it was, what is taken there, and what was given.
"""

import argparse
import dataclasses
import errno
import math
import os
import re
from collections.abc import Callable
from pathlib import Path

from apo_bench.errors import UsageError, shown
from apo_bench.measure.cores import MOST_THREADS

_WHOLE = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_DATA = "APO_BENCH_DATA"
_DIGITS = 4000
"""Python reads no integer of more than 4300."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Which numbers an option takes.

    Attributes:
        low: The smallest.
        high: The largest.
        whole: Whether only whole numbers are taken.
        above: Whether ``low`` itself is not taken.
    """

    low: float
    high: float
    whole: bool = False
    above: bool = False

    @property
    def words(self) -> str:
        """What is taken, in words."""
        kind = "a whole number" if self.whole else "a number"
        return f"{kind} above {self.low:g}, at most {self.high:g}" if self.above else f"{kind} {self._ends}"

    @property
    def _ends(self) -> str:
        return f"from {self.low:g} to {self.high:g}"

    def read(self, option: str, text: str) -> float:
        """Read what was given to an option.

        Raises:
            UsageError: It is no number, or out of range.
        """
        value = _finite(text, whole=self.whole)
        if value is not None and self._holds(value):
            return value
        if value is not None and value > self.high:
            bound = f"at most {self.high:g}"
        elif self.above:
            bound = f"a number above {self.low:g}"
        else:
            bound = f"at least {self.low:g}" if value is not None else "a whole number" if self.whole else "a number"
        if isinstance(value, float) and math.isfinite(value):
            given = f"{value:g}"
        else:
            given = shown(text, quote=value is None and text != "nan")
        raise UsageError(f"{option} must be {bound} (got {given}); expected {self.words}")

    def _holds(self, value: float) -> bool:
        return (value > self.low if self.above else value >= self.low) and value <= self.high


def _finite(text: str, *, whole: bool) -> float | None:
    """A number; infinite where it is larger than any float, `None` where it is none."""
    if whole:
        if not _WHOLE.fullmatch(text):
            return None
        return int(text) if len(text) <= _DIGITS else math.copysign(math.inf, -1.0 if text[0] == "-" else 1.0)
    return float(text) if _NUMBER.fullmatch(text) else None


EPOCHS = Range(0.0, 1e9, above=True)
"""Far beyond any run; the products of larger numbers no longer fit a float."""
WORKERS = Range(1, 1024, whole=True)
THREADS = Range(1, MOST_THREADS, whole=True)
PROCESSES = Range(1, 1000, whole=True)
ROUNDS = Range(1, 100_000, whole=True)
CHECKPOINT_SECONDS = Range(0.0, 1e7)
TFLOPS = Range(0.0, 1e9, above=True)
SEEDS_PLANNED = Range(3, 10_000, whole=True)
TOLERANCE = Range(0.0, 1e9)


def add_number(
    parser: argparse.ArgumentParser,
    option: str,
    taken: Range,
    *,
    help: str,  # noqa: A002 - argparse's name
    default: float | None = None,
    metavar: str = "N",
) -> None:
    """Declare an option that takes a number within a range."""

    def read(text: str) -> float:
        return taken.read(option, text)

    parser.add_argument(option, type=read, default=default, metavar=metavar, help=help)


class FromEnvironment(str):
    """The text of an environment variable that stands for an option; an error names the variable."""

    __slots__ = ("variable",)
    variable: str

    @classmethod
    def read(cls, variable: str) -> "FromEnvironment | None":
        """The text of a variable; `None` where it is not set, or empty."""
        text = os.environ.get(variable)
        if not text:
            return None
        made = cls(text)
        made.variable = variable
        return made


def path_of(option: str) -> Callable[[str], Path]:
    """The ``type`` of an option that takes a path: one that the system takes, whether there is anything or not."""

    def read(text: str) -> Path:
        return checked_path(f"${text.variable}" if isinstance(text, FromEnvironment) else option, text)

    return read


def checked_path(option: str, text: str) -> Path:
    """A path that was given to an option.

    Raises:
        UsageError: It is none, or too long for the system, or a loop of links.
    """
    if not text.strip():
        raise UsageError(f"{option} must be a path (got an empty one); name another place with {option}")
    if "\0" in text:
        raise UsageError(f"{option} must be a path without a null character (got {shown(text)})")
    try:
        Path(text).absolute().stat()
    except FileNotFoundError:
        if not os.path.isabs(text) and not _has_folder():  # noqa: PTH117 - of a text
            raise UsageError(
                f"{option} {shown(text)} is relative, and the current folder is gone; change to another, or give a "
                "whole path"
            ) from None
    except OSError as error:
        if error.errno in {errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.EILSEQ}:
            raise UsageError(
                f"{option} must be a path that the system takes (got {shown(text)}: {error.strerror}); name another"
            ) from None
    return Path(text)


def keep_data_folder() -> None:
    """Let ``$APO_BENCH_DATA`` name the same folder, here and in the processes of runs, wherever a plugin changes to.

    Raises:
        UsageError: It is no path.
    """
    named = FromEnvironment.read(_DATA)
    if named is not None:
        os.environ[_DATA] = str(path_of(_DATA)(named).absolute())


def _has_folder() -> bool:
    """Whether this process has a current folder: another may have removed it."""
    try:
        return bool(Path.cwd())
    except OSError:
        return False


def fixed(path: Path, option: str) -> Path:
    """A path that stays the same when a plugin changes the current folder, and that a record or a process can be told.

    Raises:
        UsageError: It is not UTF-8.
    """
    whole = path.absolute()
    try:
        str(whole).encode()
    except UnicodeEncodeError:
        raise UsageError(f"{option} must be a path in UTF-8 (got {shown(str(whole))}); name another") from None
    return whole
