"""Downloads that are whole or absent."""

from collections.abc import Sequence
from pathlib import Path

from apo_bench.errors import DataError


def download(urls: Sequence[str], file: Path, *, checksum: str | None = None) -> None:
    """Fetch a file from the first address that has it; one that is there already is fetched only if it is damaged.

    Args:
        urls: Addresses of the same file.
        file: Where it goes; folders are made.
        checksum: ``"md5:..."`` or ``"sha256:..."`` of its contents, where its publisher gives one.

    Raises:
        DataError: No address has it, or not with this checksum, or there is no network.
    """
    import pooch  # 0.2 s

    problems = []
    for url in urls:
        try:
            pooch.get_logger().setLevel("ERROR")  # errors come here, and it reports each file that it fetches
            pooch.retrieve(url, known_hash=checksum, fname=file.name, path=file.parent)
        except (OSError, ValueError) as error:  # those of requests are OSErrors; a wrong checksum is a ValueError
            problems.append(f"{url}: {_one_line(error)}")
        else:
            return
    raise DataError(f"cannot download {'; '.join(problems)}; put the file at {file} by hand, or try again later")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
