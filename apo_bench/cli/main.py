"""The command line: finds the command, and turns its errors into one line and an exit status."""

import argparse
import contextlib
import errno
import gc
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from apo_bench import _version
from apo_bench.cli.encoding import print_in_any_encoding
from apo_bench.cli.values import keep_data_folder
from apo_bench.errors import ApoBenchError, Terminated, last_line, shown
from apo_bench.say import note, show, warn

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

COMMANDS = (
    "list",
    "run",
    "probe",
    "status",
    "report",
    "claims",
    "compare",
    "check",
    "export",
    "wandb",
    "data",
    "store",
    "doctor",
)
"""Commands in the order of the help; each is a module of `apo_bench.cli`."""

_THREADS_SECONDS = 5.0
"""How long a process that is done waits for threads that run on."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 done, 1 runs failed or a check did not hold, 2 usage error."""
    print_in_any_encoding()
    parser = _parser()
    debug = False
    try:
        options = parser.parse_args(arguments)
        debug = options.debug
        if options.command is None:
            parser.print_help()
            return 0
        keep_data_folder()
        status = _called(options)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader is gone, and so is its interest
        return 0
    except KeyboardInterrupt:
        note("interrupted")
        return 1
    except Exception as error:
        if debug:
            raise
        warn(_what_failed(error))
        return error.exit_code if isinstance(error, ApoBenchError) else 2
    return status


def _called(options: argparse.Namespace) -> int:
    """Carry the command out; a plugin that exits meanwhile ends it, though not in silence."""
    try:
        status: int = options.call(options)
    except SystemExit as error:  # nothing of ours exits here
        if options.debug:
            raise
        code = shown(str(error), quote=False)
        warn(f"a plugin ended the command (SystemExit: {code}); fix or uninstall it; apo-bench --debug shows where")
        return 1
    return status


def _what_failed(error: Exception) -> str:
    """The line of an error; one that no command has put into its own words says where it is from."""
    if isinstance(error, ApoBenchError):
        return str(error)
    if not isinstance(error, OSError):
        return f"{last_line(error)}{_where(error)}; this is a mistake of apo-bench: --debug shows it, please report it"
    where = f"{error.filename}: " if error.filename else ""
    what = f"{where}{error.strerror or ' '.join(str(error).split()) or type(error).__name__}"
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}:
        return f"{what}; make room, or name another folder with --store"
    return f"{what}; apo-bench --debug shows where"


def _where(error: Exception) -> str:
    """The last place of our own code on the way to an error."""
    place, step = "", error.__traceback__
    while step is not None:
        module = step.tb_frame.f_globals.get("__name__")
        if isinstance(module, str) and module.startswith("apo_bench."):
            place = f" in {module}, line {step.tb_lineno}"
        step = step.tb_next
    return place


def script() -> int:
    """`main` in a process that then ends: what torch leaves behind is not searched for garbage first."""
    for signum in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) is not signal.SIG_IGN:  # as under nohup
            signal.signal(signum, _terminate)
    try:
        status = main()
    except Terminated as error:
        with contextlib.suppress(OSError):  # the terminal may be gone
            warn(f"stopped by {signal.Signals(error.args[0]).name}")
        status = error.exit_code
    gc.freeze()
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        threading.Thread(target=_end, args=(status,), daemon=True).start()
    return status


def _end(status: int) -> None:
    """End this process although a thread that a plugin has left behind runs on: Python would wait for it forever."""
    time.sleep(_THREADS_SECONDS)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status)


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - a handler's arguments
    for other in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)  # it is leaving already
    raise Terminated(signum)


class _Parser(argparse.ArgumentParser):
    """Reports a usage error in one line, without the usage block."""

    def error(self, message: str) -> NoReturn:
        note(f"{self.prog}: {message}; see {self.prog} --help")
        self.exit(2)

    def _print_message(self, message: str, file: "SupportsWrite[str] | None" = None) -> None:
        """Help and version: also a default that an environment variable sets is safe for the terminal."""
        show(message.removesuffix("\n"), to_stderr=file is sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="apo-bench",
        description="Which neural-network optimizer, at which precision, at what cost: run suites, read leaderboards.",
    )
    parser.add_argument("--version", action="version", version=f"apo-bench {_version()}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    for name in COMMANDS:
        command = importlib.import_module(f"apo_bench.cli.{name}")
        subparser = commands.add_parser(
            name, help=command.HELP, description=getattr(command, "DESCRIPTION", command.HELP.capitalize() + ".")
        )
        command.configure(subparser)
        subparser.set_defaults(call=command.call)
    return parser
