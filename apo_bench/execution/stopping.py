"""What is asked of a command that runs: to finish what is in flight, to save it and stop, to stop at once."""

import contextlib
import errno
import os
import signal
import termios
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from apo_bench.errors import ApoBenchError

GRACE_SECONDS = 6.0
"""How long a run may take to save itself before it is killed; schedulers wait 10 seconds and more."""
_AT_LAST_SECONDS = 3.0
_KILLING = 3


class StoppedBySignalError(ApoBenchError):
    """A scheduler, or the end of a terminal, stopped the command; what was in flight can be continued."""


def stopped_by(signum: int) -> StoppedBySignalError:
    """What to raise when everything in flight has been saved."""
    error = StoppedBySignalError(f"stopped by {signal.Signals(signum).name}; run the same command again to continue")
    error.exit_code = 128 + signum
    return error


class Stopping:
    """What has been asked so far.

    Attributes:
        interrupts: How often Ctrl-C came: once lets the runs in flight finish, twice lets them save themselves, a third
            time kills them.
        signum: SIGTERM or SIGHUP, where one came: the runs in flight save themselves.
    """

    def __init__(self) -> None:
        self.interrupts = 0
        self.signum: int | None = None
        self._since: float | None = None
        self._at_last: threading.Timer | None = None

    @property
    def is_asked(self) -> bool:
        """Whether no further run is to be started."""
        return self.interrupts > 0 or self.signum is not None

    @property
    def saves(self) -> bool:
        """Whether the runs in flight are to save themselves and end."""
        return self._since is not None

    @property
    def kills(self) -> bool:
        """Whether those still in flight are to be killed."""
        return self.saves and (self.interrupts >= _KILLING or self.waited > GRACE_SECONDS)

    @property
    def waited(self) -> float:
        """Seconds since the runs in flight were to save themselves."""
        return 0.0 if self._since is None else time.monotonic() - self._since

    @contextlib.contextmanager
    def heeded(self) -> Iterator[None]:
        """Heed the signals meanwhile; a signal that is ignored (as under ``nohup``) stays ignored."""
        handlers: dict[int, Any] = {signal.SIGINT: self._on_interrupt}
        for other in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(other) is not signal.SIG_IGN:
                handlers[other] = self._on_signal
        previous = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
        try:
            yield
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)
            if self._at_last is not None:
                self._at_last.cancel()

    def _on_interrupt(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a handler's arguments
        self.interrupts += 1
        if self.interrupts > 1:
            self._save()
        if self.interrupts >= _KILLING:
            self._end_at_last(_AT_LAST_SECONDS, 1)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a handler's arguments
        self.signum = self.signum or signum
        self._save()
        if signum == signal.SIGHUP:
            leave_dead_terminal()
        self._end_at_last(GRACE_SECONDS + _AT_LAST_SECONDS, 128 + signum)

    def _save(self) -> None:
        if self._since is None:
            self._since = time.monotonic()

    def _end_at_last(self, seconds: float, status: int) -> None:
        """End this process, and all that die with it, should it hang in something that heeds nothing."""
        if self._at_last is None:
            self._at_last = threading.Timer(seconds, os._exit, (status,))
            self._at_last.daemon = True
            self._at_last.start()


def leave_dead_terminal() -> None:
    """Let what is printed go nowhere when the terminal is gone: else every line would be an error."""
    for descriptor in (0, 1, 2):
        try:
            termios.tcgetattr(descriptor)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                nowhere = os.open(os.devnull, os.O_RDWR)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
