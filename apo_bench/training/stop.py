"""Asking a run to save itself and end, and its answer."""

import dataclasses


@dataclasses.dataclass
class Stop:
    """Looked at between two steps, where it costs nothing.

    Attributes:
        asked: Whether the run is to end.
    """

    asked: bool = False


class Stopped(BaseException):
    """The run was asked to end, and has saved itself where it could."""
