"""Digests of files: whatever changes a byte of one is noticed when it is read.

A sealed file is JSON whose last field is the SHA-256 of all bytes before it: ``{...,"digest":"<64 digits>"}``. Bytes
count, not their meaning: a digest that does not match says that the file is not what was written, and nothing in it is
believed, its schema included.
"""

import contextlib
import hashlib
from collections.abc import Iterator

_BEGIN = b',"digest":"'
_END = b'"}'
_DIGITS = 64
_LENGTH = len(_BEGIN) + _DIGITS + len(_END)
_SHOWN = 300
NO_DIGEST = "its digest is missing: it was changed, or damaged, after it was written"


def seal(data: bytes) -> bytes:
    """Add the digest to a JSON object that has at least one field.

    Args:
        data: The object; nothing follows its last brace.
    """
    content = data[:-1]
    return content + _BEGIN + hashlib.sha256(content).hexdigest().encode() + _END


def is_sealed(data: bytes) -> bool:
    """Whether a file ends as a sealed one does."""
    return data[-_LENGTH : len(_BEGIN) - _LENGTH] == _BEGIN and data.endswith(_END)


def verified(data: bytes) -> bytes:
    """A file without its digest; one that has none comes back as it is.

    Raises:
        ValueError: The digest does not match.
    """
    if not is_sealed(data):
        return data
    content = data[:-_LENGTH]
    digest = data[len(_BEGIN) - _LENGTH : -len(_END)]
    if hashlib.sha256(content).hexdigest().encode() != digest:
        raise ValueError("its digest does not match: it was changed, or damaged, after it was written")
    return content + b"}"


@contextlib.contextmanager
def strictly() -> Iterator[None]:
    """Meanwhile, whatever a decoder raises becomes a `ValueError` of bounded length.

    JSON that is nested too deeply is a `RecursionError`, a value that is out of range an error for the user, and a
    message may quote a whole file.

    Raises:
        ValueError: In place of any other error.
    """
    try:
        yield
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except Exception as error:
        text = str(error)
        if isinstance(error, ValueError) and len(text) <= _SHOWN:
            raise
        raise ValueError(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…") from error
