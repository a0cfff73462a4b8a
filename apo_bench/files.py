"""Files that are whole or absent, whatever happens while they are written."""

import errno
import os
import uuid
from pathlib import Path

CHECKPOINT = "checkpoint.safetensors"
"""Written by a run in its folder; the store knows by it a run that can be continued."""


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
