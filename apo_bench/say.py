"""The one place that writes to the standard output and error: what is printed is safe for the terminal that shows it.

Nothing else in the package prints; a test holds that. A line stays one line whatever is in it.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

from apo_bench.text import laid_out, printable

Line = Callable[[object], None]
"""`say`, `note` or `warn`."""


def say(line: object = "", *, flush: bool = False) -> None:
    """Print one line."""
    print(printable(str(line)), flush=flush)  # noqa: T201


def show(text: str, *, flush: bool = False, to_stderr: bool = False) -> None:
    """Print several lines that were laid out: every name within them is one line already."""
    print(laid_out(text), file=sys.stderr if to_stderr else sys.stdout, flush=flush)


def show_json(value: Any) -> None:
    """Print a value for a program."""
    print(json.dumps(value, indent=2), flush=True)  # noqa: T201 - in ASCII, all else is escaped


def pour(text: str) -> None:
    """Print what was encoded for a program, as it is."""
    sys.stdout.write(text)


def pass_on(text: str) -> None:
    """Write what another wrote to the standard error, lines as they are."""
    sys.stderr.write(laid_out(text))


def flush() -> None:
    """Let what was printed be seen."""
    sys.stdout.flush()


def note(line: object, *, flush: bool = False) -> None:
    """Print one line to the standard error."""
    print(printable(str(line)), file=sys.stderr, flush=flush)  # noqa: T201


def warn(line: object) -> None:
    """Print one line to the standard error, under the name of the program."""
    note(f"apo-bench: {line}")
