"""Nobody outlives the command: the server dies with it, and runs and probes die with the server, whatever they do.

A thread that watches the command cannot end a process that holds the interpreter's lock. On Linux the kernel does it:
it kills a process when its parent is gone. The parent of a run's process is the fork server, which imports this module
first; of the server, the command. Elsewhere the thread has to do.
"""

import contextlib
import ctypes
import os
import signal
import threading
from multiprocessing import parent_process

_PR_SET_PDEATHSIG = 1
_server: int | None = None
"""The process that runs and probes are forked from, as they know it."""


def become_server() -> None:
    """Make this process one that dies with its parent, and leaves it to that to obey signals.

    A scheduler sends SIGTERM to all processes at once, a terminal that closes SIGHUP: were the server to obey, its
    children would die with it before they could save themselves.
    """
    global _server  # noqa: PLW0603 - what is forked from this process finds it there
    _server = os.getpid()
    for ignored in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    _die_with_parent_process()


def die_with_command() -> None:
    """End this process when the command that asked for it is gone, or the server that it was forked from."""
    parent = parent_process()
    if parent is None:
        return
    _die_with_parent_process()
    if _server is not None and os.getppid() != _server:  # it was gone before the kernel was told
        os._exit(1)

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watch-parent").start()


def _die_with_parent_process() -> None:
    with contextlib.suppress(OSError, AttributeError):  # only Linux has it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
