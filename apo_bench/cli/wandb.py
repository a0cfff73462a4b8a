"""``apo-bench wandb``: push runs to Weights & Biases, while they run or afterwards."""

import argparse
import select
import sys

from apo_bench.cli.options import add_store
from apo_bench.errors import ApoBenchError, UsageError
from apo_bench.say import say

HELP = "push runs to W&B, live or afterwards"
DESCRIPTION = (
    "Push the runs of a store to Weights & Biases, each once. Offline unless you are logged in; `wandb sync` uploads "
    "offline runs later. `apo-bench run --wandb` follows its runs live with the same code."
)
_MODES = ("online", "offline")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("action", metavar="ACTION", choices=["push"], help="push")
    parser.add_argument("--project", default="apo-bench", metavar="NAME", help="W&B project (default apo-bench)")
    parser.add_argument("--mode", choices=_MODES, help="online or offline; by default online where you are logged in")
    parser.add_argument("--again", action="store_true", help="also what was pushed before")
    parser.add_argument("--follow", action="store_true", help="keep pushing until the standard input is closed")
    add_store(parser)


def call(options: argparse.Namespace) -> int:
    """Push; returns the exit status: 1 where W&B did not take something."""
    from apo_bench.session.wandb import Pusher, RefusedError, destination
    from apo_bench.store.store import Store

    where = destination(options.project, options.mode)
    pusher = Pusher(Store(options.store), where, again=options.again)
    completed = 0
    try:
        with pusher.alone(_input_closed if options.follow else lambda: False) as mine:
            if mine:
                completed = pusher.follow(_input_closed) if options.follow else pusher.push()
                pusher.push_leaderboards()
    except ApoBenchError:
        raise
    except Exception as error:
        if options.debug:
            raise
        line = " ".join(str(error).split())[:300]
        name = "" if isinstance(error, RefusedError) else f"{type(error).__name__}: "
        raise UsageError(
            f"W&B failed ({name}{line}); the store is whole, push again later or with --mode offline"
        ) from error
    if not mine:
        say("left to the other process")
        return 0
    left = f"; {pusher.refused} refused, see above" if pusher.refused else ""
    say(f"{completed} runs pushed to {where.project} ({where.mode}){left}")
    return 1 if pusher.refused else 0


def _input_closed() -> bool:
    readable, _, _ = select.select([sys.stdin], [], [], 0.0)
    return bool(readable) and sys.stdin.read(1) == ""
