"""Files that are whole or absent, whatever happens while they are written; and nothing else taken for a file.

A store may come from a stranger. Where it should have a file there may be a link to one of the reader's own, a pipe
that would be waited for, a device, or more than fits into memory.
"""

import contextlib
import errno
import fcntl
import io
import os
import re
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

CHECKPOINT = "checkpoint.safetensors"
"""Written by a run in its folder; the store knows by it a run that can be continued."""


_BLOCK = 2**20


class NoLocksError(OSError):
    """The file system has no locks that the kernel releases when their holder dies."""


NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL})
"""What `fcntl.flock` says there."""


class NotRegularError(OSError):
    """What lies where a file is expected is none, is a link, or is too large."""

    def __init__(self, reason: str, path: Path | str) -> None:
        super().__init__(errno.EINVAL, reason, str(path))


class LinkError(OSError):
    """A folder into which is written is a link: what it points to may be anything."""


def refuse_link(folder: Path) -> None:
    """See that a folder is one.

    Raises:
        LinkError: It is a link.
    """
    if folder.is_symlink():
        raise LinkError(f"{folder} is a link to {folder.readlink()}, and nothing is written through a link")


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; no link is followed and no pipe waited for.

    Raises:
        NotRegularError: It is none.
        OSError: It is not there, or cannot be read.
    """
    return os.fdopen(_descriptor(path, os.O_RDONLY), "rb")


def read_regular(path: Path | str, most: int) -> bytes:
    """Read a regular file of at most ``most`` bytes.

    Raises:
        NotRegularError: It is none, or larger.
        OSError: It is not there, or cannot be read.
    """
    descriptor, size = _opened(path, os.O_RDONLY)
    try:
        # a buffer of its size, not of what is allowed: that would be 64 MiB for a record of 4 KiB
        data = os.read(descriptor, min(size, most) + 1)
        while len(data) != size and len(data) <= most and (more := os.read(descriptor, _BLOCK)):
            data += more  # it grew meanwhile, or came in parts
    finally:
        os.close(descriptor)
    if len(data) > most:
        raise NotRegularError(f"larger than {most:,} bytes", path)
    return data


@contextlib.contextmanager
def looked_at(path: Path, *, writable: bool = False) -> Iterator[int | None]:
    """Have a regular file open, as a descriptor; `None` where there is none that can be opened.

    Args:
        path: Its place.
        writable: Whether it is also written; then at its end only.
    """
    try:
        descriptor = _descriptor(path, os.O_RDWR | os.O_APPEND if writable else os.O_RDONLY)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_to_append(path: Path) -> io.FileIO:
    """Open a file to append to it, unbuffered; it is made where there is none.

    Raises:
        NotRegularError: It is no regular file, or another name of a file that lies elsewhere.
        OSError: It cannot be written.
    """
    descriptor = _descriptor(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    if os.fstat(descriptor).st_nlink > 1:
        os.close(descriptor)
        raise NotRegularError("a file with several names is not written", path)
    return io.FileIO(descriptor, "a")


def _descriptor(path: Path, flags: int) -> int:
    return _opened(path, flags)[0]


def _opened(path: Path | str, flags: int) -> tuple[int, int]:
    """A descriptor of a regular file, and the file's size."""
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EMLINK}:
            raise NotRegularError("a link, which is not followed", path) from error
        if error.errno in {errno.ENXIO, errno.EISDIR, errno.ENODEV}:  # a socket, a folder, a device without a driver
            raise NotRegularError("not a file", path) from error
        raise
    state = os.fstat(descriptor)
    if not stat.S_ISREG(state.st_mode):
        os.close(descriptor)
        raise NotRegularError("not a file", path)
    return descriptor, state.st_size


_TEMPORARY = re.compile(r"\.[a-z0-9][a-z0-9._]*-[0-9a-f]{8}")


def is_temporary(path: Path) -> bool:
    """Whether a name is one that `write_durably` gives to what is not yet written."""
    return _TEMPORARY.fullmatch(path.name) is not None


def check_locks(folder: Path) -> None:
    """See whether files in a folder can be locked.

    Raises:
        NoLocksError: They cannot.
        OSError: It cannot be written.
    """
    path = folder / f".locks-{uuid.uuid4().hex[:8]}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise NoLocksError(error.errno, error.strerror, str(folder)) from error
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)


def write_durably(path: Path, data: bytes) -> None:
    """Write a file so that after a crash either the old or the new content is there, whole."""
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the renaming of a folder's entries durable, where the file system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(descriptor)
