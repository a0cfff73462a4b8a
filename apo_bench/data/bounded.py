"""Archives unpacked up to a size that is known before: a small file may say that it is a large one, and be it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import SupportsRead


class TooLargeError(ValueError):
    """What is packed is larger than it can be."""


def read_at_most(file: "SupportsRead[bytes]", most: int, name: str) -> bytes:
    """Read an unpacked file to its end.

    Args:
        file: Unpacks while it is read.
        most: Bytes that it may have.
        name: Of the file, for the message.

    Raises:
        TooLargeError: It has more.
    """
    content = file.read(most + 1)
    refuse_more(len(content), most, name)
    return content


def refuse_more(size: int, most: int, name: str) -> None:
    """Hold a size to its bound.

    Raises:
        TooLargeError: It is larger.
    """
    if size > most:
        raise TooLargeError(f"{name} unpacks to more than {most:,} bytes, which it cannot have")
