"""Processes of runs and probes: the server that they are forked from, their device and their output."""

import contextlib
import faulthandler
import io
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

from apo_bench.errors import UsageError
from apo_bench.files import open_to_append
from apo_bench.records.spec import Device


def start_fork_server() -> ForkServerContext:
    """Start the server that imports torch, in the background, so that the first run need not wait for it.

    Raises:
        UsageError: There is no folder for its socket.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["apo_bench.execution.server", "apo_bench.execution.worker"])
    with _folder_for_a_socket():
        multiprocessing.forkserver.ensure_running()
    return context


def server_pid() -> int | None:
    """The server's process, as it was when a process was last forked from it."""
    pid: int | None = getattr(multiprocessing.forkserver, "_forkserver")._forkserver_pid  # noqa: B009, SLF001
    return pid


def is_gone(server: int | None, patience: float = 1.0) -> bool:
    """Whether a server has ended, or another has taken its place; leaves it to multiprocessing to clear it away."""
    if not hasattr(os, "waitid"):  # as on macOS: nobody can tell
        return True
    end = time.monotonic() + patience
    while server is not None and server == server_pid():
        try:
            if os.waitid(os.P_PID, server, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return True
        except ChildProcessError:
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(0.02)
    return True


def kill_server() -> None:
    """End the server, and with it all that was forked from it; the next run starts another."""
    pid = server_pid()
    if pid is not None and not is_gone(pid, 0.0):
        os.kill(pid, signal.SIGKILL)


_LONGEST_FOLDER = 70
"""Bytes: a socket's path has at most 103 on every system, of which multiprocessing's own names take 32."""
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - multiprocessing makes a private folder in it


@contextlib.contextmanager
def _folder_for_a_socket() -> Iterator[None]:
    """Let multiprocessing put its socket where the path is short enough, wherever TMPDIR points.

    Raises:
        UsageError: There is no such folder.
    """
    before = tempfile.tempdir
    try:
        usual = tempfile.gettempdir()
    except FileNotFoundError as error:
        raise UsageError("no folder for temporary files can be written; set TMPDIR to one that can") from error
    if len(os.fsencode(usual)) > _LONGEST_FOLDER:
        short = next((folder for folder in _SHORT_FOLDERS if os.access(folder, os.W_OK | os.X_OK)), None)
        if short is None:
            raise UsageError(
                f"the path of TMPDIR ({usual}) is too long for a socket; set TMPDIR to a folder of at most "
                f"{_LONGEST_FOLDER} bytes"
            )
        tempfile.tempdir = short
    try:
        yield
    finally:
        tempfile.tempdir = before


def open_device(kind: Device, slot: int) -> "torch.device":
    """The device of a worker, with deterministic algorithms; before CUDA has started."""
    import torch

    if kind is Device.CPU:
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts; makes it deterministic
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    # else every copy and cast pays for a fill before it
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # a property of the module
    torch.backends.cudnn.benchmark = False
    device = torch.device("cuda", slot % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def redirect_output(path: Path) -> None:
    """Send what this process prints, C code and crash dumps included, to a file of its own."""
    with open_to_append(path) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # the file is ours: what a plugin prints fits whatever the locale says
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    faulthandler.enable()
