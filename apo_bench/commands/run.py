"""``apo-bench run``: run a suite and keep its leaderboard up to date."""

import argparse
import contextlib
import dataclasses
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from apo_bench.commands.common import add_json, add_selection, add_store, chosen_device, warn_of_damage
from apo_bench.errors import UsageError

if TYPE_CHECKING:
    from apo_bench.executors.job import Job
    from apo_bench.plan import Plan, PlannedRun, PlannedSearch
    from apo_bench.publish import Publisher
    from apo_bench.spec import Device
    from apo_bench.store import Store

HELP = "run a suite; re-issue the command to continue where it stopped"
DESCRIPTION = (
    "Run a suite and keep its leaderboard up to date. Where an optimizer has a grid, its values are tried first, on a "
    "seed of their own, and the best by validation is run. Finished runs are reused; Ctrl-C lets the runs in flight "
    "finish, twice stops at once, and the same command continues."
)
_CONSENT_SECONDS = 3600.0
_WANDB_SECONDS = 60.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_selection(parser)
    parser.add_argument("--epochs", type=float, metavar="N", help="this budget on every task")
    parser.add_argument("--seeds", metavar="0,1,4-6", help="these seeds on every task")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="runs at a time (default 1)")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads a run (default: all cores, shared among workers)"
    )
    parser.add_argument(
        "--checkpoint-every",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="save runs in flight this often (default 60)",
    )
    parser.add_argument("--wandb", action="store_true", help="follow the runs in W&B, in a process of its own")
    parser.add_argument(
        "--plan", action="store_true", help="print what would be run and what each cell costs, and stop"
    )
    parser.add_argument(
        "--gpu-tflops",
        type=float,
        default=20.0,
        metavar="N",
        help="sustained TFLOP/s assumed in the estimate of GPU hours (default 20)",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask before hours of work")
    add_json(parser)
    add_store(parser)


def call(options: argparse.Namespace) -> int:
    """Plan, run, publish."""
    from apo_bench.executors.local import start_fork_server
    from apo_bench.registry import optimizers, tasks
    from apo_bench.selection import known, parse_scale, select
    from apo_bench.spec import Device, Scale
    from apo_bench.store import Scan, Store

    _check_counts(options)
    if options.device is not None:
        known(options.device, [str(device) for device in Device], "device")
    likely = parse_scale(options.scale) if options.scale else Scale.LOCAL
    suite = select(options, likely)  # before torch is imported: a typo answers at once
    store = None if options.plan else Store(options.store, create=True)
    held = store or (Store(options.store) if (options.store / "runs").is_dir() else None)
    scan = held.scan() if held else Scan({}, ())
    warn_of_damage(scan)
    if store:
        start_fork_server()
    device = chosen_device(options)
    if options.scale is None and device is Device.CUDA:
        suite = select(options, Scale.PAPER)

    from apo_bench.commands.planned import print_costs, print_json, print_plan
    from apo_bench.plan import plan
    from apo_bench.publish import Publisher

    def look(scan: Scan, *, after_tuning: bool) -> "Plan":
        return plan(suite, device, tasks(), optimizers(), scan, compile=options.compile, after_tuning=after_tuning)

    planned = look(scan, after_tuning=False)
    threads = options.threads or max(1, (os.cpu_count() or 1) // options.workers)
    if options.json:
        print_json(planned, options)
    else:
        print_plan(planned, device, options, threads)
        if options.plan or suite.scale is Scale.PAPER:
            print_costs(planned, options)
    for line in planned.unavailable:
        print(f"apo-bench: {line}", file=sys.stderr)
    _warn_of_ends(planned.searches)
    if store is None:
        return 0
    _refuse_beside_a_probe(store, device)
    _ask(planned, options)
    publisher = Publisher(store, planned, scan.probes)
    execution = Execution(options, threads, store, publisher, lambda: look(store.scan(), after_tuning=True))
    return execution.carry_out(planned)


@dataclasses.dataclass(frozen=True)
class Execution:
    """How the runs of a plan are made.

    Attributes:
        options: Of the command line.
        threads: CPU threads a run.
        store: Takes the records.
        publisher: Keeps the leaderboard up to date.
        after_tuning: Plans anew, with settings chosen.
    """

    options: argparse.Namespace
    threads: int
    store: "Store"
    publisher: "Publisher"
    after_tuning: "Callable[[], Plan]"

    def carry_out(self, plan: "Plan") -> int:
        """Run what is pending, publish, and return the exit status."""
        from apo_bench.report.markdown import leaderboard_text

        self.store.remove_orphans()
        complete = True
        if plan.pending:
            plan, complete = self._make(plan)
        board = self.publisher.publish()
        if not self.options.json:
            print(f"\n{leaderboard_text(board)}\nleaderboard: {self.publisher.path}")
        if not complete:
            print("interrupted; the same command continues", file=sys.stderr)
            return 1
        failures = [*board.failures, *self.publisher.lost.values()]
        if failures:
            title, message = failures[0]
            print(
                f"apo-bench: {len(failures)} runs failed, the first: {title}: {message}; "
                "the same command tries them again",
                file=sys.stderr,
            )
        for line in _without_setting(plan):
            print(f"apo-bench: {line}", file=sys.stderr)
        return 1 if failures or plan.dropped or plan.unavailable else 0

    def _make(self, plan: "Plan") -> "tuple[Plan, bool]":
        """Make the tuning runs, then the reported ones at the settings that they chose.

        Returns:
            The plan with these settings, and whether everything was run; False where Ctrl-C left some.
        """
        from apo_bench.display import display

        with (
            _following(self.options),
            display(plan.pending_count, _expected(plan), to_stderr=self.options.json) as shown,
        ):
            self.publisher.follow(shown)
            if plan.pending_tuning:
                waited_for = [one.search.key for one in plan.searches if not one.tuned.is_final]
                if not self._run(plan, plan.pending_tuning) or self.publisher.interrupted:
                    return plan, False  # interrupted: also where the last tuning runs were let finish
                plan = self.after_tuning()
                self.publisher.show(plan)
                shown.expect(_expected(plan))
                new = [one for one in plan.searches if one.search.key in waited_for]
                for one in new:
                    shown.say(one.tuned.line)
                _warn_of_ends(new)
            return plan, self._run(plan, plan.pending_reported)

    def _run(self, plan: "Plan", pending: "Sequence[PlannedRun]") -> bool:
        from apo_bench.executors.local import execute

        jobs = [self._job(plan, one) for one in pending]
        return execute(jobs, self.store, workers=self.options.workers, watcher=self.publisher)

    def _job(self, plan: "Plan", pending: "PlannedRun") -> "Job":
        from apo_bench.executors.job import Job
        from apo_bench.record import Intent

        return Job(
            intent=Intent(
                spec=pending.run,
                suite=plan.suite.name,
                scale=plan.suite.scale,
                fingerprint=pending.fingerprint,
            ),
            store=str(self.store.path),
            threads=self.threads,
            checkpoint_seconds=self.options.checkpoint_every,
            co_scheduled=min(self.options.workers, plan.pending_count) - 1,
        )


def _expected(plan: "Plan") -> dict[str, float | None]:
    """Expected seconds of all runs still to be made; those that wait have no identity yet, and a number instead."""
    known = {pending.run.run_id: pending.expected_seconds for pending in plan.pending}
    return known | {f"waiting {place}": waiting.expected_seconds for place, waiting in enumerate(plan.waiting)}


def _warn_of_ends(searches: "Iterable[PlannedSearch]") -> None:
    """One line for each choice at an end of its grid."""
    for one in searches:
        if one.tuned.ends:
            name = f"{one.search.points[0].optimizer.name}.{one.tuned.ends[0]}"
            print(
                f"apo-bench: {one.tuned.line}: a better may lie beyond; widen the grid, or give --set {name}=VALUE",
                file=sys.stderr,
            )


def _without_setting(plan: "Plan") -> list[str]:
    """One line for each grid of which no point came to anything."""
    lines = []
    for one in plan.searches:
        dropped = sum(run.run.search.key == one.search.key for run in plan.dropped)
        if dropped:
            name = f"{one.search.points[0].optimizer.name}.{next(iter(one.search.grid))}"
            lines.append(f"{one.tuned.line}; its reported runs ({dropped}) are not made, give --set {name}=VALUE")
    return lines


@contextlib.contextmanager
def _following(options: argparse.Namespace) -> Iterator[None]:
    """Let W&B follow the store meanwhile; whatever becomes of it, the runs do not wait for it."""
    if not options.wandb:
        yield
        return
    command = [sys.executable, "-m", "apo_bench", "wandb", "push", "--follow", "--store", str(options.store)]
    follower = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603 - our own command
    try:
        yield
    finally:
        if follower.stdin:
            follower.stdin.close()
        try:
            follower.wait(timeout=_WANDB_SECONDS)
        except subprocess.TimeoutExpired:
            print("apo-bench: W&B is still busy; it goes on in the background", file=sys.stderr)


def _refuse_beside_a_probe(store: "Store", device: "Device") -> None:
    """Leave a probe the device to itself.

    Raises:
        UsageError: One is measuring.
    """
    with store.probing(device, patience=1.0) as free:
        if not free:
            raise UsageError(
                f"a probe of {store.path} is measuring on {device}, and runs would disturb it; wait until it is done"
            )


def _check_counts(options: argparse.Namespace) -> None:
    for name in ("workers", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value} is not possible; give 1 or more")
    if not 0 < options.gpu_tflops < math.inf:
        raise UsageError(f"--gpu-tflops {options.gpu_tflops:g} is not possible; give a number above 0")
    if not options.checkpoint_every >= 0:
        raise UsageError(f"--checkpoint-every {options.checkpoint_every:g} is not possible; give 0 or more seconds")


def _ask(plan: "Plan", options: argparse.Namespace) -> None:
    """Have hours of work confirmed.

    Raises:
        UsageError: There is nobody to ask, or the answer is no.
    """
    from apo_bench.display import duration
    from apo_bench.spec import Scale

    total = plan.expected_seconds
    long = plan.suite.scale is Scale.PAPER if total is None else total / options.workers > _CONSENT_SECONDS
    if not plan.pending or not long or options.yes:
        return
    time = "hours" if total is None else f"about {duration(total / options.workers)}"
    if not sys.stdin.isatty():
        raise UsageError(f"this takes {time}; give --yes to start it, or --plan to look at it")
    if input(f"This takes {time}. Start? [y/N] ").strip().lower() not in {"y", "yes"}:
        raise UsageError("not started; give fewer --tasks, --seeds or --epochs, or a smaller --scale")
