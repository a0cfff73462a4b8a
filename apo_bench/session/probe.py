"""Probes of a suite, carried out cell by cell."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from apo_bench.errors import UsageError
from apo_bench.evidence.step_costs import doubts, step_costs
from apo_bench.execution.probe import ProbeFailedError, probe
from apo_bench.planning.probe import PlannedProbe, planned_probes, standing
from apo_bench.records.probe import ProbeRecord, assemble
from apo_bench.records.run import now
from apo_bench.records.spec import Device
from apo_bench.records.suite import Suite
from apo_bench.render.step_costs import step_cost_json, step_cost_table
from apo_bench.say import note, say, show, show_json, warn
from apo_bench.store.scan import Scan
from apo_bench.store.store import Store


@dataclasses.dataclass(frozen=True)
class ProbeSettings:
    """How probes are made.

    Attributes:
        threads: CPU threads.
        threads_from: What said how many (`apo_bench.measure.cores`).
        processes: Processes a cell, one after the other.
        rounds: Rounds in each.
        compile: Whether models run through `torch.compile`.
        again: Whether to measure what has a probe already.
        output_is_data: Whether the standard output gets JSON, so that words go to the standard error.
    """

    threads: int
    processes: int
    rounds: int
    compile: bool = False
    again: bool = False
    output_is_data: bool = False
    threads_from: str | None = None


class ProbeSession:
    """One command's probes.

    Args:
        settings: How they are made.
        store: Takes the records.
        scan: What it holds.
        device: What is measured on; claimed by the caller.
        context: The server that processes are forked from.
    """

    def __init__(
        self, settings: ProbeSettings, store: Store, scan: Scan, device: Device, context: ForkServerContext
    ) -> None:
        self.settings = settings
        self.store = store
        self.scan = scan
        self.device = device
        self.context = context
        self.printed: list[dict[str, object]] = []
        self.failures = 0

    def carry_out(self, suite: Suite) -> int:
        """Measure every cell of a suite; returns the exit status."""
        settings = self.settings
        found, unavailable, remarks = planned_probes(
            suite,
            self.device,
            self.scan,
            threads=settings.threads,
            processes=settings.processes,
            rounds=settings.rounds,
            compile=settings.compile,
        )
        self._tell(
            f"suite {suite.name}, scale {suite.scale}, on {self.device}: {len(found)} cells, each {settings.processes} "
            f"processes of {settings.rounds} rounds, {settings.threads} threads, store {self.store.path}"
        )
        for line in unavailable:
            warn(line)
        for line in remarks:
            self._tell(line)
        for number, planned in enumerate(found, start=1):
            names = " ".join(dict.fromkeys(optimizer.name for optimizer in planned.spec.competitors))
            self._tell("")
            self._tell(f"{number} of {len(found)}: {planned.spec.title}: {names}")
            self._make(planned)
        if settings.output_is_data:
            show_json({"probes": self.printed, "remarks": [*unavailable, *remarks]})
        if not found:
            warn("nothing was measured; see above")
        return 1 if self.failures or unavailable or not found else 0

    def _make(self, planned: PlannedProbe) -> None:
        record = None if self.settings.again else standing(planned, self.scan.probes)
        if record is not None:
            measured = record.finished_at[:16].replace("T", " ")
            self._tell(f"already measured on {measured} UTC; use --again to re-measure")
            self._show(record)
            return
        started_at = now()
        try:
            with self._progress() as show:

                def between(ended: int) -> None:
                    refuse_beside_runs(self.store, self.device)
                    show(ended)

                samples, environment = probe(
                    planned.spec,
                    self.context,
                    self.store.probe_output,
                    between,
                    threads_from=self.settings.threads_from,
                )
        except ProbeFailedError as error:
            self.failures += 1
            warn(error)
            return
        record = assemble(planned.spec, samples, planned.fingerprints, environment, (started_at, now()))
        self.store.keep_probe(record)
        self._show(record)

    @contextlib.contextmanager
    def _progress(self) -> Iterator[Callable[[int], None]]:
        """A bar on a terminal, gone when the cell is measured; nothing elsewhere."""
        console = Console(stderr=True)
        columns = (TextColumn("processes"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
            bar = bars.add_task("", total=self.settings.processes)
            yield lambda ended: bars.update(bar, completed=ended)

    def _show(self, record: ProbeRecord) -> None:
        costs = step_costs(record)
        self.printed.append(step_cost_json(record, costs))
        if costs:
            show(step_cost_table(costs), flush=True, to_stderr=self.settings.output_is_data)
        for flag, names in doubts((probed.optimizer.name, cost) for probed, cost in costs).items():
            is_for_all = len(names) == len(costs) and len(names) > 1
            self._tell(f"doubtful{'' if is_for_all else ' (' + ', '.join(names) + ')'}: {flag}")
        for left in record.omitted:
            self.failures += 1
            warn(f"{record.spec.title}: {left.optimizer.name} left out: {left.message}")

    def _tell(self, line: str) -> None:
        (note if self.settings.output_is_data else say)(line, flush=True)


def refuse_beside_runs(store: Store, device: Device) -> None:
    """Refuse to measure what a run of the same store would disturb, and be disturbed by.

    Raises:
        UsageError: One is in flight.
    """
    running = [run for run in store.in_flight().runs if run.running and run.intent.spec.device == device]
    if running:
        others = f" and {len(running) - 1} more" if len(running) > 1 else ""
        who = f" ({running[0].holder})" if running[0].holder else ""
        raise UsageError(
            f"a run is in flight on {device}: {running[0].intent.spec.title}{others}{who}; a probe needs the device to "
            "itself: wait for the runs, or stop them (Ctrl-C; they can be continued), and probe then"
        )
