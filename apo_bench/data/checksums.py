"""Checksums of data files: nothing is parsed before its checksum holds."""

import hashlib
from pathlib import Path

from apo_bench.errors import DataError

MANIFEST = "SHA256SUMS"


def verified_digest(folder: Path) -> str:
    """Verify every file that ``folder``'s ``SHA256SUMS`` names and return the SHA-256 of that manifest.

    Raises:
        DataError: The manifest or a file is missing, or a checksum does not hold.
    """
    try:
        manifest = (folder / MANIFEST).read_bytes()
        for line in manifest.decode().splitlines():
            expected, name = line.split(maxsplit=1)
            with (folder / name).open("rb") as file:
                actual = hashlib.file_digest(file, "sha256").hexdigest()
            if actual != expected:
                raise DataError(
                    f"{folder / name} is damaged (SHA-256 {actual[:12]}…, expected {expected[:12]}…); "
                    "reinstall apo-bench"
                )
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}); reinstall apo-bench") from error
    return hashlib.sha256(manifest).hexdigest()
