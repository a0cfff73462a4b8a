"""A plugin that ends the process that imports it is found out in a process of its own, and named.

What a plugin raises is caught; ``os._exit``, a signal or a crash of its C code is not. So a plugin of another
distribution is imported first in a fork of this process, which takes milliseconds and the plugin's own time. A run's
process needs none: it is one.
"""

import contextlib
import functools
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from multiprocessing import parent_process
from types import FrameType
from typing import NoReturn

_OWN = "apo-bench"
_SURVIVED = b"."


def is_to_be_tried(distribution: str, module: str, *, calls: bool) -> bool:
    """Whether a plugin may end this process: it is not ours, and has not been imported without harm.

    Args:
        distribution: What brought it.
        module: What is imported.
        calls: Whether something of it is called too.
    """
    is_own = distribution == _OWN or parent_process() is not None
    return not is_own and hasattr(os, "fork") and (calls or module not in sys.modules)


@functools.cache
def fatal(attempt: Callable[[], object]) -> str | None:
    """How a process ends in which something is attempted; `None` where it survives, whatever is raised."""
    with tempfile.TemporaryFile() as output:
        mine, theirs = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # this process has threads of libraries, at rest
            pid = os.fork()
        if pid == 0:
            _attempt(attempt, theirs, output.fileno())
        os.close(theirs)
        try:
            _, status = os.waitpid(pid, 0)  # not the end of the pipe: a process that the plugin forks may keep it open
            os.set_blocking(mine, False)
            with contextlib.suppress(BlockingIOError):
                if os.read(mine, 1) == _SURVIVED:
                    return None
        except BaseException:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            raise
        finally:
            os.close(mine)
        output.seek(0)
        said = [line.strip() for line in output.read(65536).decode(errors="replace").splitlines() if line.strip()]
    code = os.waitstatus_to_exitcode(status)
    how = f"exit status {code}" if code >= 0 else signal.Signals(-code).name
    return how + (f", after it printed {said[-1][:200]!r}" if said else "")


def _attempt(attempt: Callable[[], object], survived: int, output: int) -> NoReturn:
    process = os.getpid()
    try:
        for signum in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, signal.SIG_DFL)
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        with contextlib.suppress(BaseException):  # whatever it raises, it raises again where that is told
            attempt()
        if os.getpid() == process:  # else a copy that the plugin forked
            os.write(survived, _SURVIVED)
    finally:
        os._exit(0)


@contextlib.contextmanager
def telling_ctrl_c_apart() -> Iterator[Callable[[], bool]]:
    """Tell a person's Ctrl-C from a plugin's `KeyboardInterrupt`: yields whether the former came."""
    pressed: list[int] = []

    def on_interrupt(signum: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - a handler's arguments
        pressed.append(signum)
        raise KeyboardInterrupt

    try:
        previous = signal.signal(signal.SIGINT, on_interrupt)
    except ValueError:  # not the main thread, to which Ctrl-C does not come
        yield lambda: False
        return
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, previous)
