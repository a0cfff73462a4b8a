"""The digest of a checkpoint, a safetensors file: what is needed to verify one without torch.

The header has a field for the SHA-256 of the whole file, in which 64 zeros stand for the digest itself.
"""

import hashlib
from pathlib import Path

from apo_bench.files import open_regular

DIGEST = "digest"
PLACEHOLDER = "0" * 64
_FIELD = f'"{DIGEST}":"'.encode()
_LENGTH_BYTES = 8
"""A safetensors file begins with the length of its header, little-endian."""
_LARGEST_HEADER = 2**30
_CHUNK = 2**22


class DamagedError(ValueError):
    """A checkpoint is not what was written."""


def sealed(data: bytes) -> bytes:
    """A checkpoint with its digest in place of the zeros. Quotes inside other strings are escaped: the place is one."""
    place = data.index(_FIELD + PLACEHOLDER.encode()) + len(_FIELD)
    digest = hashlib.sha256(data).hexdigest().encode()
    whole = memoryview(data)
    return b"".join([whole[:place], digest, whole[place + len(digest) :]])


def check_digest(path: Path) -> None:
    """Read a checkpoint from its first byte to its last.

    Raises:
        OSError: It is not there, is no regular file, or the disk does not give it.
        DamagedError: Its digest is not there, or does not match.
    """
    with open_regular(path) as file:
        first = file.read(_LENGTH_BYTES)
        length = int.from_bytes(first, "little")
        if length > _LARGEST_HEADER:
            raise DamagedError("its header is damaged")
        header = file.read(length)
        place = header.find(_FIELD)
        if place < 0:
            raise DamagedError("it has no digest")
        begin, end = place + len(_FIELD), place + len(_FIELD) + len(PLACEHOLDER)
        found = hashlib.sha256(first + header[:begin] + PLACEHOLDER.encode() + header[end:])
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    if found.hexdigest().encode() != header[begin:end]:
        raise DamagedError("its digest does not match: it was damaged after it was written")
