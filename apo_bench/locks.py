"""Locks that the kernel releases when their holder dies, and who holds them.

A lock is a file that one process has locked (``flock``). What stands in it says who: that is for people, and nothing
depends on it. Whoever waits is told for whom, and for how long.
"""

import contextlib
import errno
import fcntl
import os
import stat
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from multiprocessing import parent_process
from pathlib import Path

import msgspec

from apo_bench.files import NO_LOCKS, NoLocksError, check_locks, looked_at
from apo_bench.say import note

_POLL_SECONDS = 0.02
_MOST_BYTES = 4096
_SHOWN = 160
"""Characters of a name or a command line that are shown."""
_FIRST_WORD_SECONDS = 2.0


class Holder(msgspec.Struct, frozen=True):
    """Who holds a lock, as it wrote itself.

    Attributes:
        pid: The process.
        host: Its machine.
        since: When it took the lock, in UTC.
        token: Tells this hold from every other.
        command: The process of the command that it works for; `None` where it is that itself.
    """

    pid: int
    host: str
    since: str
    token: str
    command: int | None = None

    def __str__(self) -> str:
        pid = self.command or self.pid
        line = _command_line(pid) if self.host == _host() else None
        since = self.since[:19].replace("T", " ")
        return _printable(f"process {pid} on {self.host[:_SHOWN]}, since {since} UTC" + (f": {line}" if line else ""))


class Lock:
    """A lock that this process holds until it releases it, or ends, however it ends."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.token = uuid.uuid4().hex
        self._descriptor = descriptor
        _held.add(self)
        self._say_who()

    def release(self) -> None:
        """Let another process have it; the file stays, for the others that wait at it."""
        _held.discard(self)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        """Nothing that has been thrown away is held."""
        self.release()

    def _say_who(self) -> None:
        parent = parent_process()
        who = Holder(
            pid=os.getpid(),
            host=_host(),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
            token=self.token,
            command=parent.pid if parent else None,
        )
        with contextlib.suppress(OSError):  # a full disk: then nobody knows who
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, msgspec.json.encode(who), 0)


_held: "weakref.WeakSet[Lock]" = weakref.WeakSet()


def _forget() -> None:
    """A process that a plugin forks shares its locks, and would hold them as long as it lives: it gives its part up."""
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_forget)


def acquire(path: Path, patience: float = 0.0) -> Lock | None:
    """Take a lock; `None` when another process holds it for longer than ``patience`` seconds.

    Raises:
        NoLocksError: The file system has none.
        OSError: The file cannot be opened, or is no regular file.
    """
    end = time.monotonic() + max(patience, 2 * _POLL_SECONDS)  # who only looks whether it is held holds it for a moment
    while True:
        lock = _try(path)
        if lock is not None or time.monotonic() >= end:
            return lock
        time.sleep(_POLL_SECONDS)


def _try(path: Path) -> Lock | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file; remove it", str(path))
        if _flock(descriptor, fcntl.LOCK_EX, path) and _is_at(descriptor, path):
            lock = Lock(path, descriptor)
            descriptor = -1
            return lock
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return None


def _flock(descriptor: int, kind: int, path: Path) -> bool:
    """Lock an open file; False where another process holds it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in {errno.EAGAIN, errno.EACCES}:
            return False
        if error.errno in NO_LOCKS:
            raise NoLocksError(error.errno, error.strerror, str(path)) from error
        raise
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one at its path: one that was deleted or replaced meanwhile guards nothing."""
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)


def is_held(path: Path) -> bool:
    """Whether a process holds a lock; looking takes none and writes nothing."""
    with looked_at(path) as descriptor:
        try:
            return descriptor is not None and not _flock(descriptor, fcntl.LOCK_SH, path)
        except OSError:
            return False


def holder(path: Path) -> Holder | None:
    """Who took a lock last; `None` where nobody wrote that, or nobody can read it."""
    with looked_at(path) as descriptor:
        if descriptor is None:
            return None
        try:
            return msgspec.json.decode(os.pread(descriptor, _MOST_BYTES, 0), type=Holder)
        except (OSError, ValueError, RecursionError):
            return None


def who_holds(path: Path) -> str:
    """Who holds a lock, in words."""
    who = holder(path)
    return "another process" if who is None else str(who)


@contextlib.contextmanager
def locked(path: Path, say: Callable[[str], object] = note) -> Iterator[None]:
    """Hold a lock; waits for whoever holds it, and says for whom.

    Args:
        path: Its file.
        say: Told, ever more rarely, who is waited for.

    Raises:
        NoLocksError: The file system has none: to wait there would be to wait forever.
        OSError: Its folder cannot be written.
    """
    check_locks(path.parent)
    begin, pause = time.monotonic(), _FIRST_WORD_SECONDS
    while (lock := acquire(path, pause)) is None:
        waited = time.monotonic() - begin
        say(f"apo-bench: waiting for {path}, for {waited:.0f} s so far; it is held by {who_holds(path)}")
        pause *= 2
    try:
        yield
    finally:
        lock.release()


def _host() -> str:
    return os.uname().nodename


def _command_line(pid: int) -> str | None:
    """The command line of a process of this machine, where the system shows it."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123 - no path of a user's
            words = file.read(_MOST_BYTES).split(b"\0")
    except OSError:
        return None
    line = b" ".join(words).decode(errors="replace").strip()
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"


def _printable(text: str) -> str:
    """What a stranger's file says, without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
