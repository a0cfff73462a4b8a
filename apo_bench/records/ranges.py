"""What a number or a text in a file may be. What lies outside came from no run, and its file is damaged.

The bounds are wide: whatever a run can write is inside, and whatever a reader computes from it stays finite or is
caught. Losses and metrics have none, since those of a run in double precision may be as large as a number can be.
"""

from datetime import datetime
from typing import Annotated

from msgspec import Meta

LONGEST_NAME = 1000
LONGEST_MESSAGE = 4000

Count = Annotated[int, Meta(ge=0, le=2**53)]
"""How many: what a table keeps whole beside numbers that are missing."""
Positive = Annotated[int, Meta(ge=1, le=2**53)]
"""What something is divided by."""
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Epochs = Annotated[float, Meta(gt=0.0, le=1e9)]
Duration = Annotated[float, Meta(ge=0.0, le=1e12)]
"""Seconds, up to thirty thousand years, or milliseconds."""
Milliseconds = Annotated[float, Meta(ge=1e-9, le=1e12)]
"""Of a step: no clock tells less, and ratios of two are finite."""
Amount = Annotated[float, Meta(ge=0.0, le=1e30)]
"""Floating-point operations, energy."""
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Name = Annotated[str, Meta(max_length=LONGEST_NAME)]
"""Of something registered, a weight, a version, a machine."""
Message = Annotated[str, Meta(max_length=LONGEST_MESSAGE)]
"""A line for a reader."""
Text = Annotated[str, Meta(max_length=100_000)]
"""What no part of a run wrote: the value of an environment variable."""


def moment(text: str) -> datetime:
    """Read a time as records hold it: ISO 8601 with its zone.

    Raises:
        ValueError: It is none.

    >>> moment("2026-11-25T18:00:00+00:00").year
    2026
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise ValueError(f"{text[:40]!r} is no time in ISO 8601 with its zone")
    return found
