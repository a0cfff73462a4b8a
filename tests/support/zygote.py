"""Starts ``apo-bench`` by forking a process that has imported it: a trial of many takes as long as its runs do.

Its server is forked too, where it would be another interpreter that imports torch first; what they do is the same.

``python -c "from support.zygote import serve; serve()"`` reads a line of JSON for each command, with its ``arguments``
and the file for its ``output``; writes its process; and writes a line ``PID STATUS`` when it has ended.
"""

import contextlib
import ctypes
import importlib
import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Sequence
from multiprocessing import util
from typing import Any

WARM = (
    "torch", "apo_bench.cli.run", "apo_bench.cli.plan", "apo_bench.planning.plan", "apo_bench.session.run",
    "apo_bench.execution.local", "apo_bench.execution.worker", "apo_bench.evidence.tuning",
    "apo_bench.plugins.optimizer", "apo_bench.plugins.task",
    "apo_bench.tasks.images", "pandas",
)  # fmt: skip


def serve() -> None:
    """Fork a command for each line on the standard input, until that ends."""
    for module in WARM:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    waiting = b""
    os.set_blocking(0, False)
    while True:
        readable, _, _ = select.select([0], [], [], 0.02)
        if readable:
            data = os.read(0, 65536)
            if not data:
                return
            *lines, waiting = (waiting + data).split(b"\n")
            for line in lines:
                _say(f"{_fork(json.loads(line))} started")
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                _say(f"{ended[0]} {os.waitstatus_to_exitcode(ended[1])}")


def _say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def _fork(request: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        os.setsid()
        output = os.open(request["terminal"] or request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        nothing = os.open(request["terminal"] or os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w", 1)
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
        vars(util)["spawnv_passfds"] = _spawn
        from apo_bench.cli.main import script

        sys.argv = ["apo-bench", *request["arguments"]]
        status = script()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - as the interpreter would
        traceback.print_exc()
        status = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        vars(util)["_exit_function"]()
        os._exit(status)


_spawn_another = util.spawnv_passfds


def _spawn(path: bytes, arguments: Sequence[str], kept: Sequence[int]) -> int:
    """Start one of multiprocessing's helpers: the fork server from this process, which has imported torch."""
    if "forkserver" not in arguments[-1]:
        return _spawn_another(path, arguments, kept)
    pid = os.fork()
    if pid:
        return pid
    try:
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, signal.SIG_DFL)
        ctypes.CDLL(None).prctl(_PR_SET_NAME, SERVER.encode(), 0, 0, 0)
        for descriptor in range(3, 256):
            if descriptor not in kept:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        exec(arguments[-1], {})  # noqa: S102 - multiprocessing's own line
    finally:
        os._exit(0)


_PR_SET_NAME = 15
SERVER = "forkserver"
