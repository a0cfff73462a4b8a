"""Which files a piece of code opens."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

_OPENED: list[list[str]] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _OPENED:
        path = arguments[0]
        name = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        for names in _OPENED:
            names.append(name)


sys.addaudithook(_hook)  # it stays for as long as the process lives


@contextlib.contextmanager
def opened() -> Iterator[Callable[[], list[str]]]:
    """Meanwhile, the files that were opened since it was last asked."""
    names: list[str] = []
    _OPENED.append(names)

    def since() -> list[str]:
        found = list(names)
        names.clear()
        return found

    try:
        yield since
    finally:
        _OPENED.remove(names)
