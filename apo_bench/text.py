"""Numbers as people read them."""


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
