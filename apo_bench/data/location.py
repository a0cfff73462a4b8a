"""Where data that is not embedded lies."""

import os
from pathlib import Path

from apo_bench.errors import DataError


def data_folder() -> Path:
    """``$APO_BENCH_DATA``, or ``apo-bench`` in the user's cache folder.

    Raises:
        DataError: Neither is named, and the user has no home folder.
    """
    named = os.environ.get("APO_BENCH_DATA")
    if named:
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME")
    if cache:
        return Path(cache) / "apo-bench"
    try:
        return Path.home() / ".cache" / "apo-bench"
    except RuntimeError as error:  # as in a container, under a number that no user has
        raise DataError(
            f"user {os.getuid()} has no home folder; set $APO_BENCH_DATA to a folder for the data, or $HOME"
        ) from error
