"""Output in whatever encoding the terminal has: what it lacks is written in ASCII, and nothing fails for it."""

import codecs
import io
import sys

_HANDLER = "apo-bench"
_IN_ASCII = {
    "–": "-",
    "—": "-",
    "−": "-",
    "…": "...",
    "±": "+/-",
    "×": "x",
    "→": "->",
    "≥": ">=",
    "≤": "<=",
    "‖": "||",
    "′": "'",
    "“": '"',
    "”": '"',
}


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """What stands for characters that an encoding lacks: a usual spelling, else an escape, which loses nothing."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    parts = (_IN_ASCII.get(one) or one.encode("ascii", "backslashreplace").decode() for one in lacking)
    return "".join(parts), error.end


def print_in_any_encoding() -> None:
    """Let this process's standard output and error take every text (``PYTHONIOENCODING``, a locale, a file's name)."""
    codecs.register_error(_HANDLER, _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in {"strict", "backslashreplace"}:
            stream.reconfigure(errors=_HANDLER)
