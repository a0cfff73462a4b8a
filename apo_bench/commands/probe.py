"""``apo-bench probe``: what a step of each competitor costs, side by side."""

import argparse
import dataclasses
import json
import os
import sys
from typing import TYPE_CHECKING

from apo_bench.commands.common import add_json, add_selection, add_store, chosen_device, warn_of_damage
from apo_bench.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.context import ForkServerContext

    from apo_bench.evidence.probes import StepCost
    from apo_bench.probe_record import Probed, ProbeRecord
    from apo_bench.probing import Cell
    from apo_bench.spec import Device, Suite
    from apo_bench.store import Store

HELP = "measure what a step of each competitor costs, side by side; leaderboards then show it"
DESCRIPTION = (
    "Measure what a step of each competitor of a suite costs: all of a cell in one process, every kind of step in "
    "interleaved rounds, in several processes one after the other, as a ratio to SGDm's step with its interval over "
    "processes. Nothing else should run meanwhile. Cells that stand already, without a doubt, are not measured again."
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_selection(parser)
    parser.add_argument("--processes", type=int, default=5, metavar="N", help="processes a cell (default 5)")
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="rounds in each process (default 10)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores, as `run` has them)")
    parser.add_argument("--again", action="store_true", help="measure anew what stands already")
    add_json(parser)
    add_store(parser)


def call(options: argparse.Namespace) -> int:
    """Measure cell by cell."""
    from apo_bench.executors.local import start_fork_server
    from apo_bench.selection import known, parse_scale, select
    from apo_bench.spec import Device, Scale
    from apo_bench.store import Store

    _check_counts(options)
    options.epochs, options.seeds = (1.0 if options.tasks else None), None  # a step costs the same in any budget
    if options.device is not None:
        known(options.device, [str(device) for device in Device], "device")
    suite = select(options, parse_scale(options.scale) if options.scale else Scale.LOCAL)
    store = Store(options.store, create=True)
    context = start_fork_server()
    device = chosen_device(options)
    if options.scale is None and device is Device.CUDA:
        suite = select(options, Scale.PAPER)
    with store.probing(device, patience=1.0) as alone:
        if not alone:
            raise UsageError(f"another probe of {options.store} is measuring on {device}; wait for it")
        _refuse_beside_runs(store, device)
        return _Probing(store, device, options, context).suite(suite)


def _refuse_beside_runs(store: "Store", device: "Device") -> None:
    """Refuse to measure what a run of the same store would disturb, and be disturbed by.

    Raises:
        UsageError: One is in flight.
    """
    running = [run for run in store.active() if run.running and run.intent.spec.device == device]
    if running:
        others = f" and {len(running) - 1} more" if len(running) > 1 else ""
        raise UsageError(
            f"a run is in flight on {device}: {running[0].intent.spec.title}{others}; a probe needs the device to "
            "itself: wait for the runs, or stop them (Ctrl-C; they can be continued), and probe then"
        )


class _Probing:
    """One command's probes."""

    def __init__(
        self, store: "Store", device: "Device", options: argparse.Namespace, context: "ForkServerContext"
    ) -> None:
        self.store = store
        self.device = device
        self.options = options
        self.context = context
        self.scan = store.scan()
        self.printed: list[dict[str, object]] = []
        self.failures = 0

    def suite(self, suite: "Suite") -> int:
        """Measure every cell of a suite; returns the exit status."""
        from apo_bench.probing import cells

        options = self.options
        warn_of_damage(self.scan)
        threads = options.threads or max(1, os.cpu_count() or 1)
        found, remarks = cells(
            suite,
            self.device,
            self.scan,
            threads=threads,
            processes=options.processes,
            rounds=options.rounds,
            compile=options.compile,
        )
        self._tell(
            f"suite {suite.name}, scale {suite.scale}, on {self.device}: {len(found)} cells, each {options.processes} "
            f"processes of {options.rounds} rounds, {threads} threads, store {options.store}"
        )
        for line in remarks:
            self._tell(line)
        for number, cell in enumerate(found, start=1):
            names = " ".join(dict.fromkeys(optimizer.name for optimizer in cell.spec.competitors))
            self._tell(f"\n{number} of {len(found)}: {cell.spec.title}: {names}")
            self._cell(cell)
        if options.json:
            print(json.dumps({"probes": self.printed, "remarks": list(remarks)}, indent=2))
        if not found:
            print("apo-bench: nothing was measured; see above", file=sys.stderr)
        return 1 if self.failures or not found else 0

    def _cell(self, cell: "Cell") -> None:
        from apo_bench.executors.job import now
        from apo_bench.executors.probing import ProbeFailedError, probe
        from apo_bench.measure.samples import assemble
        from apo_bench.probing import standing

        record = None if self.options.again else standing(cell, self.scan.probes)
        if record is not None:
            self._tell(f"stands since {record.finished_at[:16].replace('T', ' ')} UTC; --again measures anew")
            self._show(record)
            return
        started_at = now()
        try:
            samples, environment = probe(
                cell.spec, self.context, self.store.probe_output, lambda: _refuse_beside_runs(self.store, self.device)
            )
        except ProbeFailedError as error:
            self.failures += 1
            print(f"apo-bench: {error}", file=sys.stderr)
            return
        record = assemble(cell.spec, samples, cell.fingerprints, environment, (started_at, now()))
        self.store.keep_probe(record)
        self._show(record)

    def _show(self, record: "ProbeRecord") -> None:
        from apo_bench.evidence.probes import step_costs

        costs = step_costs(record)
        self.printed.append(_as_json(record, costs))
        if costs:
            self._tell(_table(costs))
        flags: dict[str, list[str]] = {}
        for probed, cost in costs:
            for flag in cost.flags:
                flags.setdefault(flag, []).append(probed.optimizer.name)
        for flag, names in flags.items():
            everybody = len(names) == len(costs) and len(names) > 1
            self._tell(f"doubtful{'' if everybody else ' (' + ', '.join(names) + ')'}: {flag}")
        for left in record.omitted:
            self.failures += 1
            print(f"apo-bench: {record.spec.title}: {left.optimizer.name} left out: {left.message}", file=sys.stderr)

    def _tell(self, text: str) -> None:
        print(text, file=sys.stderr if self.options.json else sys.stdout, flush=True)


def _table(costs: "Sequence[tuple[Probed, StepCost]]") -> str:
    from tabulate import tabulate

    rows = []
    for probed, cost in costs:
        kinds = ", ".join(f"{name} {milliseconds:.3g} × {share:.3g}" for name, share, milliseconds in cost.kinds)
        half_width = f" ± {cost.half_width:.2g}" if cost.half_width else ""
        rows.append([probed.optimizer.name, f"{cost.milliseconds:.3g}", f"{cost.ratio:.3g}{half_width}", kinds])
    headers = ["optimizer", "ms/step", f"/ {costs[0][0].optimizer.name}", "kinds of step: ms × share"]
    return tabulate(rows, headers=headers, disable_numparse=True, colalign=["left", "right", "right", "left"])


def _as_json(record: "ProbeRecord", costs: "Sequence[tuple[Probed, StepCost]]") -> dict[str, object]:
    spec = record.spec
    return {
        "probe_id": record.probe_id,
        "task": spec.task,
        "precision": str(spec.precision),
        "device": str(spec.device),
        "device_name": record.environment.device_name,
        "threads": spec.threads,
        "competitors": [
            {
                "optimizer": probed.optimizer.name,
                "hyperparameters": probed.optimizer.hyperparameters,
                **dataclasses.asdict(cost),
            }
            for probed, cost in costs
        ],
        "omitted": {left.optimizer.name: left.message for left in record.omitted},
    }


def _check_counts(options: argparse.Namespace) -> None:
    for name in ("processes", "rounds", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value} is not possible; give 1 or more")
