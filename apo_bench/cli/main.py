"""The command line: finds the command, and turns its errors into one line and an exit status."""

import argparse
import contextlib
import errno
import gc
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from apo_bench import _version
from apo_bench.cli.encoding import print_in_any_encoding
from apo_bench.errors import ApoBenchError, Terminated
from apo_bench.say import note, show, warn

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

COMMANDS = ("list", "run", "probe", "status", "report", "check", "export", "wandb", "data", "doctor")
"""Commands in the order of the help; each is a module of `apo_bench.cli`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 done, 1 runs failed or a check did not hold, 2 usage error."""
    print_in_any_encoding()
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    try:
        status = _called(options)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader is gone, and so is its interest
        return 0
    except KeyboardInterrupt:
        note("interrupted")
        return 1
    except ApoBenchError as error:
        if options.debug:
            raise
        warn(error)
        return error.exit_code
    except OSError as error:
        if options.debug:
            raise
        warn(_what_failed(error))
        return 2
    return status


def _called(options: argparse.Namespace) -> int:
    """Carry the command out; a plugin that exits meanwhile ends it, though not in silence."""
    try:
        status: int = options.call(options)
    except SystemExit as error:  # nothing of ours exits here
        if options.debug:
            raise
        warn(
            f"a plugin ended the command (SystemExit: {error.code}); fix or uninstall it; apo-bench --debug shows where"
        )
        return 1
    return status


def _what_failed(error: OSError) -> str:
    """The line of an error of the system that no command has put into its own words."""
    where = f"{error.filename}: " if error.filename else ""
    what = f"{where}{error.strerror or ' '.join(str(error).split()) or type(error).__name__}"
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}:
        return f"{what}; make room, or name another folder with --store"
    return f"{what}; apo-bench --debug shows where"


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
    return status


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
