"""Where data that is not embedded lies."""

import os
from pathlib import Path


def data_folder() -> Path:
    """``$APO_BENCH_DATA``, or ``apo-bench`` in the user's cache folder."""
    named = os.environ.get("APO_BENCH_DATA")
    if named:
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "apo-bench"
