"""Numbers and names as people read them: counts, durations, sizes, and text that is safe in Markdown."""

MISSING = "–"
"""Stands in a table where there is no number."""


def quantity(value: float | None) -> str:
    """A count with three digits and a decimal prefix.

    >>> quantity(1234), quantity(5.6e17), quantity(12), quantity(None)
    ('1.23 k', '560 P', '12', '?')
    """
    if value is None:
        return "?"
    for prefix in ("", "k", "M", "G", "T", "P", "E"):
        if value < 999.5:  # noqa: PLR2004 - 3 digits before the next prefix
            return f"{value:.3g} {prefix}".rstrip()
        value /= 1000
    return f"{value:.3g} Z"


def epochs(count: float) -> str:
    """A budget.

    >>> epochs(1), epochs(0.5), epochs(200)
    ('1 epoch', '0.5 epochs', '200 epochs')
    """
    return f"{count:g} epoch{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """Round a time for people.

    >>> duration(48), duration(200), duration(7000)
    ('48 s', '3 min', '1.9 h')
    """
    if seconds < 90:  # noqa: PLR2004
        return f"{seconds:.0f} s"
    if seconds < 5400:  # noqa: PLR2004
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def seconds(value: float | None) -> str:
    """A measured time.

    >>> seconds(48), seconds(200), seconds(None)
    ('48.0 s', '3.3 min', '–')
    """
    if value is None:
        return MISSING
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min"  # noqa: PLR2004


def size(count: float | None) -> str:
    """A number of bytes.

    >>> size(100), size(2048), size(3 * 2**30), size(None)
    ('100 B', '2.0 KiB', '3.00 GiB', '–')
    """
    if count is None:
        return MISSING
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:  # noqa: PLR2004
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def escaped(text: str) -> str:
    r"""Make a name or message harmless inside a table or a list of Markdown: one line, no markup.

    >>> print(escaped("a|b <script>"))
    a\|b \<script\>
    """
    flat = " ".join(text.split())
    for character in "\\`*_[]<>|":
        flat = flat.replace(character, f"\\{character}")
    return flat
