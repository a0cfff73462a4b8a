"""What may lie where a store should have a file."""

import os
import socket
from collections.abc import Callable
from pathlib import Path


def _link_loop(path: Path) -> None:
    path.symlink_to(path)


def _link_outside(path: Path) -> None:
    outside = path.parents[3] / "outside.json"
    outside.write_bytes(b"{}")
    path.symlink_to(outside)


def _socket(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(before)


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


PIECES: dict[str, Callable[[Path], object]] = {
    "folder": lambda path: path.mkdir(),
    "link loop": _link_loop,
    "link to nothing": lambda path: path.symlink_to("nowhere"),
    "link outside": _link_outside,
    "pipe": os.mkfifo,
    "socket": _socket,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "empty": lambda path: path.touch(),
    "a terabyte of zeros": _huge,
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe{}"),
    "nested too deep": lambda path: path.write_bytes(b"[" * 200_000),
    "nested and closed": lambda path: path.write_bytes(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
}


def replace(path: Path, piece: str) -> None:
    """Put a piece in the place of a file."""
    path.unlink(missing_ok=True)
    PIECES[piece](path)
