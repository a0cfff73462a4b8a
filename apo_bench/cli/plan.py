"""How ``apo-bench run`` shows its plan: a table, costs, or JSON."""

import argparse
import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from apo_bench.measure.cores import Cores
from apo_bench.planning.cost import CellCost, cell_costs
from apo_bench.planning.expected import total
from apo_bench.planning.grid import tuning_points
from apo_bench.planning.plan import Plan, PlannedEntry, PlannedRun
from apo_bench.records.spec import Device, RunSpec
from apo_bench.records.suite import OptimizerEntry, TaskEntry
from apo_bench.render.terminal import paragraph, terminal_table
from apo_bench.say import flush, say, show, show_json
from apo_bench.text import MISSING, duration, epochs, quantity

_NOTE = (
    "Estimate: {tflops:g} TFLOP/s sustained is assumed (--gpu-tflops), not measured. Counted are the network's own "
    "forward and backward passes, 2 FLOPs a multiply-add; what an optimizer adds to them is not in it."
)

_SEEDS_SHOWN = 10
"""One by one; more are shown as ranges."""


def cost_table(cells: Sequence[CellCost], tflops: float) -> str:
    """One row for all cells of a task that cost the same, the sum, and what the numbers are not.

    Args:
        cells: From `cell_costs`.
        tflops: Rate that is assumed, in 10¹² operations a second.
    """
    alike: dict[tuple[object, ...], list[CellCost]] = {}
    for cell in cells:
        key = (
            cell.task,
            cell.epochs,
            cell.steps,
            cell.flops_per_step,
            cell.total_flops,
            cell.tuning,
            cell.data_missing,
        )
        alike.setdefault(key, []).append(cell)
    headers = ["runs", "steps", "FLOPs/step", "FLOPs/run", "GPU hours", "cells"]
    table = terminal_table(headers, [_cost_row(group, tflops) for group in alike.values()], ">>>>><", wrapped=5)
    known = [hours for cell in cells if (hours := cell.gpu_hours(tflops)) is not None]
    partly = f" ({len(cells) - len(known)} of {len(cells)} cells are not known)" if len(known) < len(cells) else ""
    everything = f"All {sum(cell.runs for cell in cells)} runs: {_hours(sum(known))} GPU hours{partly}."
    reasons = {cell.task: cell.not_counted for cell in cells if cell.not_counted}
    unknown = "".join(paragraph(f"FLOPs of {task} are not known: {reason}.") + "\n" for task, reason in reasons.items())
    summed = everything if known else "GPU hours are not known."
    return f"{table}\n\n{unknown}{summed}\n{paragraph(_NOTE.format(tflops=tflops))}"


def _cost_row(cells: Sequence[CellCost], tflops: float) -> list[str]:
    first = cells[0]
    hours = [cell.gpu_hours(tflops) for cell in cells]
    notes = [note for note, holds in (("tuning", first.tuning), ("data missing", first.data_missing)) if holds]
    optimizers = " ".join(dict.fromkeys(cell.optimizer for cell in cells))
    precisions = " ".join(dict.fromkeys(str(cell.precision) for cell in cells))
    return [
        str(sum(cell.runs for cell in cells)),
        "?" if first.steps is None else f"{first.steps:,}",
        quantity(first.flops_per_step),
        quantity(first.total_flops),
        _hours(total(hours)),
        f"{first.task}{''.join(f', {note}' for note in notes)}\n  {optimizers}\n  {precisions}",
    ]


def _hours(hours: float | None) -> str:
    if hours is None:
        return "?"
    return f"{hours:,.1f}" if hours >= 10 else f"{hours:.2g}"  # noqa: PLR2004


def print_json(plan: Plan, options: argparse.Namespace) -> None:
    """Print the plan; a run whose setting is not chosen has no ``run_id``, and names the runs that it waits for."""
    costs = cell_costs(plan)
    by_name = {(cost.task, cost.epochs): cost for cost in costs}

    def described(planned: PlannedRun) -> dict[str, Any]:
        return {
            "run_id": planned.run.run_id,
            **_described(planned.run, by_name),
            "done": planned.reused is not None,
            "changed": list(planned.changed),
            "expected_seconds": planned.expected_seconds,
            "waits_for": [],
        }

    waiting = []
    for one in (*plan.waiting, *plan.dropped):
        run = _described(one.run.first, by_name)
        for name in one.run.search.grid:
            del run["hyperparameters"][name]
        waiting.append(
            {
                "run_id": None,
                **run,
                "done": False,
                "changed": [],
                "expected_seconds": one.expected_seconds,
                "waits_for": list(one.run.search.key),
            }
        )
    cells = [
        {
            **dataclasses.asdict(cost),
            "total_flops": cost.total_flops,
            "gpu_hours_estimate": cost.gpu_hours(options.gpu_tflops),
        }
        for cost in costs
    ]
    tuning = [
        {
            "grid": search.search.grid,
            "chosen": search.search.setting(search.tuned.chosen) if search.tuned.chosen else None,
            "at_end_of_grid": list(search.tuned.ends),
            "validation": search.tuned.validation,
            "diverged": search.tuned.diverged,
            "failed": search.tuned.failed,
            "runs": [described(planned) for planned in search.runs],
        }
        for search in plan.searches
    ]
    printed = {
        "tuning": tuning,
        "runs": [*map(described, plan.runs), *waiting],
        "cells": cells,
        "assumed_gpu_tflops": options.gpu_tflops,
        "unavailable": list(plan.unavailable),
    }
    show_json(printed)


def _described(run: RunSpec, costs: Mapping[tuple[str, float], CellCost]) -> dict[str, Any]:
    cost = costs[run.task, run.budget.epochs]
    return {
        "task": run.task,
        "optimizer": run.optimizer.name,
        "hyperparameters": dict(run.optimizer.hyperparameters),
        "precision": str(run.precision),
        "seed": run.seed,
        "epochs": run.budget.epochs,
        "flops_per_step": cost.flops_per_step,
        "total_flops": cost.total_flops,
    }


def print_costs(plan: Plan, options: argparse.Namespace) -> None:
    """Print what each cell costs."""
    show(f"\n{cost_table(cell_costs(plan), options.gpu_tflops)}", flush=True)


def print_plan(plan: Plan, device: Device, options: argparse.Namespace, threads: Cores) -> None:
    """Print a row for what is run on each task, how much of it is left, and why finished runs are made again."""
    suite = plan.suite
    say(
        f"suite {suite.name}, scale {suite.scale}, on {device}, {options.workers} x {threads.count} threads "
        f"({threads.source}), store {options.store}"
    )
    say()
    rows: list[list[str]] = []
    available = {entry.task for entry in suite.tasks}
    by_entry = iter(plan.by_entry)
    for entry in plan.asked.tasks:
        rows += _rows(entry, next(by_entry) if entry.task in available else None, plan, options)
    show(terminal_table(["runs", "done", "expected", "task"], rows, ">>><", wrapped=3))
    seconds = plan.expected_seconds
    time = f"about {duration(seconds / options.workers)} of training" if seconds is not None else "unknown time"
    say()
    say(f"{plan.pending_count} of {plan.count} runs to be made: {time}")
    if plan.waiting:
        say(f"{len(plan.pending_tuning)} of them are tuning runs, for which {len(plan.waiting)} others wait")
    for one in plan.searches:
        say(f"tuning {one.tuned.line}")
    for name, parts in _changes(plan).items():
        say(f"running {name} again, because these changed: {', '.join(parts)}")
    flush()


def _rows(
    entry: TaskEntry, planned: PlannedEntry | None, plan: Plan, options: argparse.Namespace
) -> Iterator[list[str]]:
    """A row for a task's tuning runs, where it has any, and one for its reported runs; `None` has no data."""
    competitors, formats = plan.asked.competitors(entry), plan.asked.formats(entry)
    what = f"{entry.task}, {epochs(entry.epochs)}, {' '.join(formats)}"
    tried = tuning_points(plan.asked, entry)
    if tried:
        names = " ".join(f"{name} ({count} points)" for name, count in tried.items())
        described = f"{what}, {_seeds(plan.asked.tuning_seeds)}: tuning\n  {names}"
        if planned is None:
            yield [str(sum(tried.values()) * len(formats)), MISSING, "data missing", described]
        else:
            left = [one.expected_seconds for one in planned.tuning if one.reused is None]
            done = len(planned.tuning) - len(left)
            yield [str(len(planned.tuning)), str(done), _time(left, options), described]
    described = f"{what}, {_seeds(entry.seeds)}\n  {' '.join(_competitors(competitors))}"
    if planned is None:
        yield [str(len(competitors) * len(formats) * len(entry.seeds)), MISSING, "data missing", described]
        return
    left = [one.expected_seconds for one in planned.runs if one.reused is None]
    done = len(planned.runs) - len(left)
    count = len(planned.runs) + len(planned.waiting)
    left += [one.expected_seconds for one in planned.waiting]
    yield [str(count), str(done), _time(left, options), described]


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'' if len(seeds) == 1 else 's'} {_listed(seeds)}"


def _listed(seeds: Sequence[int]) -> str:
    """Seeds as ``--seeds`` takes them; consecutive ones as a range where there are many."""
    if len(seeds) <= _SEEDS_SHOWN:
        return ",".join(map(str, seeds))
    ranges: list[list[int]] = []
    for seed in seeds:
        if ranges and seed == ranges[-1][-1] + 1:
            ranges[-1][1:] = [seed]
        else:
            ranges.append([seed])
    shown = ["-".join(map(str, ends)) for ends in ranges[:_SEEDS_SHOWN]]
    more = len(ranges) - len(shown)
    return ",".join(shown) + (f" and {more} more" if more else "")


def _time(seconds: Sequence[float | None], options: argparse.Namespace) -> str:
    summed = total(seconds)
    return "?" if summed is None else duration(summed / options.workers)


def _competitors(declared: Sequence[OptimizerEntry]) -> list[str]:
    """Names, with the number of settings where it is not 1."""
    counts = Counter(entry.optimizer for entry in declared)
    return [name if count == 1 else f"{name} ({count} settings)" for name, count in counts.items()]


def _changes(plan: Plan) -> dict[str, list[str]]:
    """By what must run again (an optimizer on a task), the changed parts of its fingerprint."""
    changes: dict[str, list[str]] = {}
    for planned in plan.pending:
        if planned.changed:
            name = f"{planned.run.optimizer.name} on {planned.run.task}"
            changes.setdefault(name, list(planned.changed))
    return changes
