"""Commands that are killed, and what they leave behind."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from support.commands import wait_for
from support.shell import Shell
from support.zygote import SERVER

TESTS = Path(__file__).parent.parent


class Started:
    """A command that was started, in a session and a process group of its own."""

    def __init__(self, pid: int, output: Path, status: Callable[[int], int | None]) -> None:
        self.pid = pid
        self._output = output
        self._status = status

    @property
    def status(self) -> int | None:
        """Its exit status; `None` while it runs."""
        return self._status(self.pid)

    def output(self) -> str:
        """What it has printed so far."""
        return self._output.read_text(encoding="utf-8", errors="replace")

    def wait(self, seconds: float = 120.0) -> int:
        """Its exit status, once it has ended."""
        end = time.monotonic() + seconds
        while (status := self.status) is None:
            assert time.monotonic() < end, f"still running after {seconds} s:\n{self.output()}"
            time.sleep(0.02)
        return status


class Commands:
    """Starts commands in a shell's folder, each in a moment."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        environment = shell.environment | {"OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = f"{environment['PYTHONPATH']}{os.pathsep}{TESTS}"
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from support.zygote import serve; serve()"],
            cwd=shell.folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._ended: dict[int, int] = {}
        self._begun: list[int] = []
        self._unread = b""
        self._number = 0
        assert self._process.stdout
        os.set_blocking(self._process.stdout.fileno(), False)

    def start(self, *arguments: str, terminal: str | None = None) -> Started:
        """Start ``apo-bench``, with a ``terminal`` of its own where one is named."""
        assert self._process.stdin
        self._number += 1
        output = self.shell.folder / f"output-{self._number}"
        request = {"arguments": arguments, "output": str(output), "terminal": terminal}
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        wait_for(self._has_begun)
        return Started(self._begun.pop(), output, self._status)

    def __call__(self, *arguments: str, seconds: float = 120.0) -> Started:
        """Run ``apo-bench`` to its end."""
        started = self.start(*arguments)
        started.wait(seconds)
        return started

    def stop(self) -> None:
        """Kill what is left."""
        for pid in self._begun:
            kill(pid)
        self._process.kill()
        self._process.communicate()

    def _status(self, pid: int) -> int | None:
        self._listen()
        return self._ended.get(pid)

    def _has_begun(self) -> bool:
        self._listen()
        return bool(self._begun)

    def _listen(self) -> None:
        assert self._process.stdout
        with contextlib.suppress(BlockingIOError):
            self._unread += os.read(self._process.stdout.fileno(), 65536)
        *lines, self._unread = self._unread.split(b"\n")
        for line in lines:
            pid, what = line.decode().split()
            if what == "started":
                self._begun.append(int(pid))
            else:
                self._ended[int(pid)] = int(what)


@contextlib.contextmanager
def commands_in(shell: Shell) -> Iterator[Commands]:
    """Commands, none of which outlives the test."""
    made = Commands(shell)
    try:
        yield made
    finally:
        made.stop()


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]
    return []


def server_of(pid: int) -> int | None:
    """The server that a command's runs are forked from."""
    for child in children(pid):
        with contextlib.suppress(OSError):
            process = Path(f"/proc/{child}")
            if SERVER.encode() in (process / "cmdline").read_bytes() + (process / "comm").read_bytes():
                return child
    return None


def workers_of(pid: int) -> list[int]:
    """The processes of a command's runs."""
    server = server_of(pid)
    return [] if server is None else children(server)


def kill(pid: int, signum: int = signal.SIGKILL) -> bool:
    """Send a signal; whether the process was there."""
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return False
    return True


def is_alive(pid: int) -> bool:
    """Whether a process runs: it is there, and not a corpse that its parent has not looked at."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


def run_of(store: Path, worker: int) -> str | None:
    """The run whose claim a worker holds."""
    for lock in store.glob("locks/*.lock"):
        with contextlib.suppress(ValueError, OSError):
            if json.loads(lock.read_bytes()).get("pid") == worker:
                return lock.stem
    return None


def is_continuable(store: Path, run: str) -> bool:
    """Whether a run that is not finished has a checkpoint."""
    return any(store.glob(f"active/{run}-*/checkpoint.safetensors"))


def records_of(store: Path) -> dict[str, list[dict[str, Any]]]:
    """The records of each run."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(store.glob("runs/*/record.json")):
        found.setdefault(path.parent.name.partition("-")[0], []).append(json.loads(path.read_bytes()))
    return found


def values_of(record: dict[str, Any]) -> dict[str, Any]:
    """What of a record is the same however often the run was killed."""
    curve = [{name: value for name, value in point.items() if name != "seconds"} for point in record["curve"]]
    scores = {name: value for name, value in record["scores"].items() if "second" not in name}
    cost = {name: record["cost"][name] for name in ("steps", "skipped_steps", "state_bytes")}
    return {"outcome": record["outcome"], "scores": scores, "curve": curve, "cost": cost}
