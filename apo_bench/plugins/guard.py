"""Where code of a plugin is called by a command: what it does to the process is undone, what it raises is one line.

This is no sandbox: a plugin may do whatever its user may. It keeps what plugins do by accident (leave a changed folder,
print into a table, exit, raise what is no `Exception`) from changing what a command does with the others.
"""

import contextlib
import gc
import io
import locale
import os
import posix
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn, TypeVar, cast

from apo_bench.errors import ApoBenchError, Terminated, last_line
from apo_bench.say import pass_on

T = TypeVar("T")


class PluginRaisedError(Exception):
    """Code of a plugin raised something; the message is that error in one line."""


def guarded(call: Callable[[], T]) -> T:
    """Call code of a plugin.

    Raises:
        ApoBenchError: It raised one.
        PluginRaisedError: It raised anything else, an exit and an interrupt of its own included.
        KeyboardInterrupt: The user pressed Ctrl-C meanwhile.
        Terminated: The process was asked to end meanwhile.
    """
    handler = signal.getsignal(signal.SIGINT)
    pressed = handler if isinstance(handler, _Pressed) else _Pressed()  # one call within another
    with _undone(pressed):
        try:
            return call()
        except (ApoBenchError, Terminated):
            raise
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and pressed.was_pressed:
                raise
            raise PluginRaisedError(last_line(error)) from error


class _Pressed:
    """Tells the user's Ctrl-C from a `KeyboardInterrupt` that a plugin raises itself."""

    def __init__(self) -> None:
        self.was_pressed = False

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        self.was_pressed = True
        signal.default_int_handler(signum, frame)


@contextlib.contextmanager
def _undone(pressed: _Pressed) -> Iterator[None]:
    """Undo afterwards what plugins change in passing.

    These are the current folder, the standard streams, handlers of signals and timers, the file mask, the locale,
    warnings that became errors, generators of random numbers, and torch's switches.
    """
    process = os.getpid()
    with contextlib.ExitStack() as stack:
        for keep in (_streams, _folder, _interpreter, _torch, _randomness):
            stack.enter_context(keep())
        stack.enter_context(_signals(pressed))
        stack.enter_context(_no_exit(process))
        stack.callback(_end_copies, process)  # the first of all to be called
        yield


@contextlib.contextmanager
def _no_exit(process: int) -> Iterator[None]:
    """An end of the process that skips everything, and would be silent, is an exit like any other."""
    before, thread = os._exit, threading.get_ident()

    def leave(status: int = 0) -> NoReturn:
        if (os.getpid(), threading.get_ident()) != (process, thread):
            before(status)  # a process of the plugin's own, or a thread of ours whose command is gone
        raise SystemExit(f"os._exit({status})")

    os._exit = leave
    posix._exit = leave  # noqa: SLF001 - it has no other name
    try:
        yield
    finally:
        os._exit = before
        posix._exit = before  # noqa: SLF001


def _end_copies(process: int) -> None:
    """A copy of this process that a plugin forked must not carry out the command a second time."""
    if os.getpid() != process:
        os._exit(0)


@contextlib.contextmanager
def _streams() -> Iterator[None]:
    """Meanwhile, what is printed goes to the standard error: the standard output may be a table or JSON."""
    names = ("stdin", "stdout", "stderr", "__stdin__", "__stdout__", "__stderr__")
    before = {name: getattr(sys, name) for name in names}
    copies = {}
    for descriptor in (0, 1, 2):
        with contextlib.suppress(OSError):  # it is closed
            copies[descriptor] = os.dup(descriptor)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    if {1, 2} <= copies.keys():
        os.dup2(2, 1)
    sys.stdout = cast("Any", _ToStderr())
    try:
        yield
    finally:
        for stream in {id(one): one for one in (sys.stdout, sys.stderr, *before.values())}.values():
            with contextlib.suppress(Exception):
                stream.flush()
        for descriptor, copy in copies.items():
            os.dup2(copy, descriptor)
            os.close(copy)
        again = {id(stream): _open_again(stream, name) for name, stream in before.items()}
        for name, stream in before.items():
            setattr(sys, name, again[id(stream)])


class _ToStderr:
    """Stands for the standard output; a plugin that has kept or closed it does no harm to the real one."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)

    def write(self, text: str) -> int:
        """Write to the standard error."""
        pass_on(text)
        return len(text)

    def close(self) -> None:
        """Stay open."""


def _open_again(stream: Any, name: str) -> Any:
    """A stream, or another in its place where a plugin closed it."""
    descriptor = ("stdin", "stdout", "stderr").index(name.strip("_"))
    if not isinstance(stream, io.TextIOWrapper) or not stream.closed:
        return stream
    mode = "w" if descriptor else "r"
    return os.fdopen(descriptor, mode, encoding=stream.encoding, errors=stream.errors, closefd=False)


@contextlib.contextmanager
def _folder() -> Iterator[None]:
    try:
        before = os.open(".", os.O_RDONLY | os.O_DIRECTORY)  # also where its path is gone, or cannot be read
    except OSError:
        yield
        return
    try:
        yield
    finally:
        os.fchdir(before)
        os.close(before)


@contextlib.contextmanager
def _interpreter() -> Iterator[None]:
    mask = os.umask(0o077)
    os.umask(mask)
    settings = locale.setlocale(locale.LC_ALL)
    limit, hook, collects = sys.getrecursionlimit(), sys.excepthook, gc.isenabled()
    filters = list(warnings.filters)
    try:
        yield
    finally:
        os.umask(mask)
        with contextlib.suppress(locale.Error):
            locale.setlocale(locale.LC_ALL, settings)
        sys.setrecursionlimit(limit)
        sys.excepthook = hook
        (gc.enable if collects else gc.disable)()
        hiding = [one for one in warnings.filters if one not in filters and one[0] != "error"]  # as libraries do
        warnings.filters[:] = [*hiding, *filters]  # type: ignore[index] # typed as any sequence


@contextlib.contextmanager
def _signals(pressed: _Pressed) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    (left, interval), began = signal.getitimer(signal.ITIMER_REAL), time.monotonic()
    if before.get(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, pressed)
    try:
        yield
    finally:
        rest = max(left - (time.monotonic() - began), 1e-3) if left else 0.0
        signal.setitimer(signal.ITIMER_REAL, rest, interval)
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


@contextlib.contextmanager
def _randomness() -> Iterator[None]:
    """The generators that are loaded; torch's is `_torch`'s."""
    python = random.getstate()
    numpy = sys.modules.get("numpy")
    state = None if numpy is None else numpy.random.get_state(legacy=True)
    try:
        yield
    finally:
        random.setstate(python)
        if numpy is not None:
            numpy.random.set_state(state)


@contextlib.contextmanager
def _torch() -> Iterator[None]:
    """Its switches; where a plugin imports it, they are afterwards as they are in a process that has just done so."""
    before = _switches() if "torch" in sys.modules else None
    try:
        yield
    finally:
        if "torch" in sys.modules:
            _switch_back(before)


def _switches() -> dict[str, Any]:
    import torch

    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "grad": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "random": torch.get_rng_state(),
    }


def _switch_back(before: dict[str, Any] | None) -> None:
    import torch

    was: dict[str, Any] = {"dtype": torch.float32, "device": torch.device("cpu"), "grad": True}
    was |= {"deterministic": False, "warn only": False} | (before or {})
    now = _switches()
    if now["device"] != was["device"]:
        torch.set_default_device(None if was["device"].type == "cpu" else was["device"])
    if now["dtype"] != was["dtype"]:
        torch.set_default_dtype(was["dtype"])
    if now["grad"] != was["grad"]:
        torch.set_grad_enabled(was["grad"])
    if (now["deterministic"], now["warn only"]) != (was["deterministic"], was["warn only"]):
        torch.use_deterministic_algorithms(was["deterministic"], warn_only=was["warn only"])
    if before is not None:
        if now["threads"] != was["threads"]:
            torch.set_num_threads(was["threads"])
        torch.set_rng_state(was["random"])
