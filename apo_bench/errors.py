"""Errors that a user sees as one line: what is wrong, where, and how to fix it."""

import difflib
from collections.abc import Iterable


class ApoBenchError(Exception):
    """Base of the errors whose message is written for the user; the command line prints it and exits."""

    exit_code = 2


class UsageError(ApoBenchError):
    """The command, a name or a value is wrong; the message says how to fix it."""


class StoreError(ApoBenchError):
    """The store cannot be used as it is."""


class DataError(ApoBenchError):
    """A dataset is missing or damaged."""


class Terminated(BaseException):
    """SIGTERM or SIGHUP came: whatever is half done is undone on the way out."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.exit_code = 128 + signum


def last_line(error: BaseException) -> str:
    """An error in one line, for a record; of one whose message is for the user, that message."""
    lines = str(error).strip().splitlines()
    line = lines[0] if lines else ""
    return (line if isinstance(error, ApoBenchError) else f"{type(error).__name__}: {line}")[:500]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a suggestion to append to "unknown ...": the nearest known name, or all of them.

    >>> did_you_mean("sgdn", ["adam", "sgdm"])
    "; did you mean 'sgdm'?"
    >>> did_you_mean("zzz", ["adam", "sgdm"])
    '; known: adam, sgdm'
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(names) if names else 'none'}"
