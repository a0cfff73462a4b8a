"""What a running command shows: progress bars on a terminal, plain lines elsewhere."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column

from apo_bench.execution.watcher import Watcher
from apo_bench.records import events
from apo_bench.records.events import CurvePoint, Evaluated, Event, Remarked, Started
from apo_bench.records.outcome import (
    Crashed,
    Diverged,
    Exhausted,
    Failed,
    Interrupted,
    Outcome,
    OutOfMemory,
    Reached,
    Undefined,
    message_of,
)
from apo_bench.records.spec import RunSpec
from apo_bench.text import duration, epochs, printable


class Display(Watcher):
    """Plain lines: one for each finished run, with what it came to and when the rest may be expected.

    Args:
        console: Where to print.
        runs: Number of runs to be made.
        expected: Expected training seconds by run identity.
        output: Where a finished run's output lies, its traceback included; `None` where there is none.
    """

    def __init__(
        self,
        console: Console,
        runs: int,
        expected: dict[str, float | None],
        output: Callable[[RunSpec], Path | None] = lambda _: None,
    ) -> None:
        self.console = console
        self._output = output
        self.runs = runs
        self.done = 0
        self._expected = dict(expected)
        self._spent_expected = 0.0
        self._begin = time.monotonic()
        self._last: dict[str, CurvePoint] = {}
        self._said: set[tuple[str, str]] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def expect(self, expected: dict[str, float | None]) -> None:
        """Learn again which runs are still to be made: expected training seconds by run identity."""
        self._expected = dict(expected)
        self.runs = self.done + len(expected)

    def say(self, message: str) -> None:
        """Print a line between those of the runs."""
        self._print(message)

    def event(self, run: RunSpec, event: Event) -> None:
        """Keep the newest point of the curve, and say what the run remarks; what is left alone once a task."""
        if isinstance(event, Remarked):
            self._print(f"apo-bench: {run.title}: {event.message}")
        if isinstance(event, Started) and event.left_alone and (run.optimizer.name, run.task) not in self._said:
            self._said.add((run.optimizer.name, run.task))
            self._print(f"{run.optimizer.name} on {run.task} leaves alone {_named(event.left_alone)}")
        if isinstance(event, Evaluated):
            self._last[run.run_id] = event.point

    def finished(self, run: RunSpec, outcome: Outcome) -> None:
        """Print one line."""
        self.done += 1
        self._spent_expected += self._expected.pop(run.run_id, None) or 0.0
        left = self._time_left()
        self._print(
            f"[{self.done}/{self.runs}] {run.title}: {self._result(run, outcome)}"
            + (f"; about {left} left" if left and self.done < self.runs else "")
        )

    def elsewhere(self, runs: int, who: str, waited: float) -> None:
        """Say which process works on the rest, and how long it has been waited for."""
        so_far = f" {duration(waited)} so far;" if waited >= 1.0 else ""
        self._print(
            f"another process is running the remaining {runs} runs; waiting for it,{so_far} Ctrl-C stops ({who})"
        )

    def warn(self, message: str) -> None:
        """Print a line about something that does not stop the runs."""
        self._print(f"apo-bench: {message}")

    def draining(self, runs: int) -> None:
        """Say what Ctrl-C does."""
        self._print(f"stopping after the {runs} runs in flight; Ctrl-C again saves them and stops now")

    def _print(self, line: str) -> None:
        self.console.print(printable(line), markup=False, emoji=False, highlight=False, soft_wrap=True)

    def _result(self, run: RunSpec, outcome: Outcome) -> str:
        point = self._last.get(run.run_id)
        match outcome:
            case Exhausted() | Reached():
                if point is None:
                    return "finished"
                return f"validation {point.validation:.4g} after {epochs(point.epoch)}, {point.seconds:.1f} s"
            case Diverged():
                return f"diverged at step {outcome.step} ({outcome.reason})"
            case Undefined():
                return f"no score: {outcome.message}"
            case Crashed() | OutOfMemory() | Failed():
                output = self._output(run)
                message = message_of(outcome)
                return f"failed: {message}" + (f"; see {output}" if output else "")
            case Interrupted():
                return "interrupted"

    def _time_left(self) -> str | None:
        """Expected time of the rest, corrected by how the finished runs compared with what was expected of them."""
        if any(seconds is None for seconds in self._expected.values()) or not self._spent_expected:
            return None
        rest = sum(seconds or 0.0 for seconds in self._expected.values())
        elapsed = time.monotonic() - self._begin
        return duration(rest * elapsed / self._spent_expected)


def _named(left_alone: Mapping[str, Sequence[str]]) -> str:
    """Weights by reason, a few of each.

    >>> _named({"embedding": ["a.weight"], "grouped convolution": ["b", "c", "d", "e"]})
    'a.weight (embedding); b, c and 2 more (grouped convolution)'
    """
    parts = []
    for reason, names in left_alone.items():
        shown = ", ".join(names) if len(names) <= _SHOWN else f"{', '.join(names[:2])} and {len(names) - 2} more"
        parts.append(f"{shown} ({reason})")
    return "; ".join(parts)


_SHOWN = 3
"""Names of weights that are written out."""


class TerminalDisplay(Display):
    """Progress bars: all runs, and each run in flight with its loss and metric."""

    def __enter__(self) -> Self:
        self._bars = Progress(
            TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
            BarColumn(bar_width=8),
            TextColumn("{task.fields[count]}", markup=False, table_column=Column(no_wrap=True, justify="right")),
            TextColumn("{task.fields[state]}", markup=False, table_column=Column(no_wrap=True)),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            console=self.console,
            transient=True,
            expand=True,
        )
        self._all = self._bars.add_task("all runs", total=self.runs, count=f"0/{self.runs}", state="")
        self._by_run: dict[str, TaskID] = {}
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def expect(self, expected: dict[str, float | None]) -> None:
        """Lengthen or shorten the bar of all runs."""
        super().expect(expected)
        self._bars.update(self._all, total=self.runs, count=f"{self.done}/{self.runs}")

    def started(self, run: RunSpec) -> None:
        """Add a bar."""
        self._by_run[run.run_id] = self._bars.add_task(printable(_short(run)), total=None, count="", state="")

    def event(self, run: RunSpec, event: Event) -> None:
        """Move the run's bar."""
        super().event(run, event)
        bar = self._by_run.get(run.run_id)
        if bar is None:
            return
        match event:
            case Started():
                self._bars.update(bar, total=event.steps)
            case events.Progress():
                loss = "" if event.train_loss is None else f"loss {event.train_loss:.3g}"
                point = self._last.get(run.run_id)
                metric = "" if point is None else f"val. {point.validation:.3g}"
                self._move(bar, event.step, " ".join(filter(None, [loss, metric])))
            case Evaluated():
                self._move(bar, event.point.step)

    def _move(self, bar: TaskID, step: int, state: str | None = None) -> None:
        total = next(task.total for task in self._bars.tasks if task.id == bar)
        self._bars.update(bar, completed=step, count=f"{100 * step / total:.0f} %" if total else f"{step}")
        if state is not None:
            self._bars.update(bar, state=state)

    def finished(self, run: RunSpec, outcome: Outcome) -> None:
        """Replace the run's bar by a line."""
        bar = self._by_run.pop(run.run_id, None)
        if bar is not None:
            self._bars.remove_task(bar)
        super().finished(run, outcome)
        left = self._time_left()
        count = f"{self.done}/{self.runs}"
        self._bars.update(self._all, completed=self.done, count=count, state=f"about {left} left" if left else "")


def _short(run: RunSpec) -> str:
    """A run's name with what tells it from its neighbours first: a narrow terminal cuts the end."""
    return f"{run.optimizer.name} {run.precision} seed {run.seed} {run.task}"


@contextlib.contextmanager
def display(
    runs: int,
    expected: dict[str, float | None],
    output: Callable[[RunSpec], Path | None] = lambda _: None,
    *,
    to_stderr: bool = False,
) -> Iterator[Display]:
    """Choose what suits the standard output, or the standard error where the output belongs to a program."""
    console = Console(stderr=to_stderr)
    kind = TerminalDisplay if console.is_terminal else Display
    with kind(console, runs, expected, output) as chosen:
        yield chosen
