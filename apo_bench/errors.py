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


_LONGEST_ERROR = 500
_LONGEST_SHOWN = 60
"""Characters of an error, and of what was given, that a line shows."""


def last_line(error: BaseException) -> str:
    """An error in one line, for a record; of one whose message is for the user, that message.

    A plugin may raise anything: a message that cannot be made or told, of many lines, or of many megabytes.
    """
    kind = kind_of(error)
    try:
        line = next((line for line in str.__str__(str(error))[:100_000].splitlines() if line.strip()), "").strip()
    except BaseException as again:  # noqa: BLE001 - what a plugin's own exception says of itself may fail, too
        line = f"its message cannot be made ({kind_of(again)})"
    line = line if isinstance(error, ApoBenchError) else f"{kind}: {line}".removesuffix(": ")
    return line[:_LONGEST_ERROR].encode(errors="backslashreplace").decode()


def kind_of(value: object) -> str:
    """The name of a value's type, whatever its metaclass says."""
    return str(type.__dict__["__name__"].__get__(type(value)))[:_LONGEST_SHOWN]


def shown(text: str, *, quote: bool = True) -> str:
    """What was given, as a line shows it: of a long one, the beginning and its length.

    >>> shown("a" * 70), shown("12", quote=False)
    ("'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…', 70 characters", '12')
    """
    cut = text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"
    length = "" if len(text) <= _LONGEST_SHOWN else f", {len(text)} characters"
    return f"{cut!r}{length}" if quote else f"{cut}{length}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a suggestion to append to "unknown ...": the nearest known name, or all of them.

    >>> did_you_mean("sgdn", ["adam", "sgdm"])
    "; did you mean 'sgdm'?"
    >>> did_you_mean("zzz", ["adam", "sgdm"])
    '; known: adam, sgdm'
    """
    names = sorted(known)
    near = difflib.get_close_matches(name[:_LONGEST_SHOWN], names, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(names) if names else 'none'}"
