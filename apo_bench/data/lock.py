"""Checksums of downloaded files that their publisher gives none for: recorded at first use, and verified ever after.

They stand in ``checksums.lock`` in the data folder, in the format of ``sha256sum``, so that ``sha256sum -c`` checks
them too, and so that the lock of another machine can be put there before fetching. What the first download brought is
taken on trust; that it is still the same, and is the same for all runs, is not.
"""

import functools
import hashlib
from pathlib import Path

from apo_bench.data.location import data_folder
from apo_bench.errors import DataError
from apo_bench.files import NoLocksError, write_durably
from apo_bench.locks import locked

LOCK = "checksums.lock"


def check(file: Path) -> str:
    """Hold a file in the data folder to its recorded checksum, or record it if there is none yet.

    Args:
        file: Somewhere below `data_folder`.

    Returns:
        Its SHA-256 in hexadecimal digits.

    Raises:
        DataError: The file cannot be read, its checksum does not hold, or the lock file cannot be read or written.
    """
    actual = _sha256(file)
    expected = _recorded().get(_name(file))
    if expected is None:
        return record(file)
    if actual != expected:
        raise DataError(
            f"{file} is not the file whose checksum {data_folder() / LOCK} holds (SHA-256 {actual[:12]}…, expected "
            f"{expected[:12]}…); delete the file and fetch it again, or remove the line from the lock if the file is "
            "meant to be another"
        )
    return actual


def record(file: Path) -> str:
    """Write a file's checksum into the lock, in place of an earlier one, and return it.

    Raises:
        DataError: The file cannot be read, or the lock file cannot be read or written.
    """
    digest = _sha256(file)
    path = data_folder() / LOCK
    try:
        with locked(path.with_name(f".{LOCK}.lock")):
            lines = _recorded() | {_name(file): digest}
            text = "".join(f"{value}  {name}\n" for name, value in sorted(lines.items()))
            write_durably(path, text.encode())
    except OSError as error:
        raise not_written(path, error) from error
    return digest


def not_written(path: Path, error: OSError) -> DataError:
    """What to say where a file in the data folder cannot be written."""
    if isinstance(error, NoLocksError):
        return DataError(
            f"the file system of {path.parent} has no locks ({error.strerror}); name a data folder on another one with "
            "$APO_BENCH_DATA, for example on a local disk"
        )
    return DataError(f"cannot write {path} ({error.strerror}); make {path.parent} writable")


def _name(file: Path) -> str:
    return file.relative_to(data_folder()).as_posix()


def _recorded() -> dict[str, str]:
    """Checksums by path relative to the data folder."""
    path = data_folder() / LOCK
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); delete it, and checksums are recorded again") from error
    found = {}
    for number, line in enumerate(lines, 1):
        length = hashlib.sha256().digest_size * 2
        digest, mark, name = line[:length], line[length : length + 2], line[length + 2 :]
        if mark not in {"  ", " *"} or not name:  # an asterisk: sha256sum read the file as binary
            raise DataError(f"{path}, line {number} is not 'SHA-256  file'; remove the line")
        found[name] = digest.lower()
    return found


def _sha256(file: Path) -> str:
    try:
        state = file.stat()
        return _sha256_of(file, state.st_size, state.st_mtime_ns, state.st_ino)
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}); fetch it") from error


@functools.lru_cache(maxsize=64)
def _sha256_of(file: Path, *_state: int) -> str:
    """Hash a file once for each state it is in: large files are asked for again for every run of a plan."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
