"""One side of a comparison: cells as they are compared, whether they come from a store or from a published table."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from apo_bench.evidence.cells import Cells, Machine, Runs
from apo_bench.evidence.contrasts import values_by_seed
from apo_bench.evidence.costs import probed_cost
from apo_bench.evidence.estimates import Sample, ValueScale
from apo_bench.evidence.judgements import sample_of, scale_of
from apo_bench.evidence.quantities import QUANTITIES, Quantity, values_of
from apo_bench.evidence.step_costs import Probes
from apo_bench.records.cell import Cell
from apo_bench.records.outcome import Diverged, Failed, Undefined
from apo_bench.records.run import RunRecord

NOISY = ("value", "train_loss", "steps_to_target")
"""Quantities of a run that another seed changes."""
EXACT = ("flops_per_step", "operator_calls_per_step", "state_bytes")
"""Quantities that are counted."""
STEP = "step_ratio"
"""The quantity of a probe."""
COMPARED = (*NOISY, *EXACT, STEP)
"""What is compared, in this order."""
REPEATED = ("value", "validation_value", "best_validation_value", "train_loss", "steps_to_target", *EXACT)
"""What a deterministic run repeats to the last bit."""


class Code(NamedTuple):
    """With what a cell was made: the parts of its fingerprint."""

    harness: str
    task: str
    optimizer: str
    torch: str
    data: str


class Step(NamedTuple):
    """What a probe says of a cell's step.

    Attributes:
        ratio: To the reference's step.
        ratios: The same in each process; empty where a table does not hold them.
        flags: Reasons to doubt it.
    """

    ratio: float
    ratios: tuple[float, ...] = ()
    flags: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Entry:
    """A cell of one side.

    Attributes:
        cell: Its key.
        metric: Name of the task's metric; empty where no run says it.
        quantities: What is compared, as it is on the task; only what this side can know.
        samples: Values by name of the quantity, of `NOISY` and `EXACT`.
        repeated: By seed, whether it diverged and the values of `REPEATED` that there are.
        lost: By seed, how a run ended that came to no score for the competitor's own reasons.
        code: With what it was made; `None` where the side does not say.
        machine: On which its step was probed; `None` where the side does not say.
        step: What a step costs by the probe; `None` without one.
        is_emulated: Whether 16-bit arithmetic was emulated: its costs then say nothing.
    """

    cell: Cell
    metric: str
    quantities: Mapping[str, Quantity]
    samples: Mapping[str, Sample]
    repeated: Mapping[int, Mapping[str, float | None]]
    lost: Mapping[int, str]
    code: Code | None = None
    machine: Machine | None = None
    step: Step | None = None
    is_emulated: bool = False

    @property
    def seeds(self) -> frozenset[int]:
        """Of the runs that say something about the competitor."""
        return frozenset(self.repeated.keys() | self.lost.keys())

    @property
    def unreached(self) -> int:
        """Runs that did not reach the target, those without a score included."""
        return len(self.seeds - self.samples["steps_to_target"].values.keys())

    def on(self, seeds: frozenset[int]) -> "Entry":
        """The same with the runs of these seeds only."""
        if self.seeds <= seeds:
            return self
        lost = {seed: how for seed, how in self.lost.items() if seed in seeds}
        return dataclasses.replace(
            self,
            samples={name: _restricted(sample, seeds, lost) for name, sample in self.samples.items()},
            repeated={seed: values for seed, values in self.repeated.items() if seed in seeds},
            lost=lost,
        )


def _restricted(sample: Sample, seeds: frozenset[int], lost: Mapping[int, str]) -> Sample:
    values = {seed: value for seed, value in sample.values.items() if seed in seeds}
    diverged = sum(how == "diverged" for how in lost.values())
    counts = (diverged, len(lost) - diverged) if sample.diverged or sample.failed else (0, 0)
    collapsed = min(sample.collapsed, len(values))
    return dataclasses.replace(sample, values=values, diverged=counts[0], failed=counts[1], collapsed=collapsed)


@dataclasses.dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        name: What the user called it.
        entries: By cell.
        made: Code and machines that it is of, one line each.
        left_out: Runs that do not count, of other code or data than the rest of their cell.
    """

    name: str
    entries: Mapping[Cell, Entry]
    made: tuple[str, ...] = ()
    left_out: int = 0


def entry_of(runs: Runs, probes: Probes) -> Entry:
    """A cell of a store."""
    facts = next((record.task for record in runs.records if record.task), None)
    quantities = {name: QUANTITIES[name].on(facts) for name in COMPARED}
    samples = {name: sample_of(runs, quantities[name], facts, probes) for name in NOISY}
    for name in EXACT:
        counted = {} if runs.is_emulated else values_by_seed(runs, quantities[name], probes)
        samples[name] = Sample(counted, scale_of(quantities[name]))
    made, cost = runs.fingerprint, probed_cost(runs, probes)
    return Entry(
        cell=runs.cell,
        metric=facts.metric if facts else "",
        quantities=quantities,
        samples={name: on_possible_scale(sample) for name, sample in samples.items()},
        repeated={seed: _repeated(record) for seed, record in runs.by_seed.items()},
        lost={record.spec.seed: ending for record in runs.records if (ending := _ending(record))},
        code=None if made is None else Code(made.harness, made.task, made.optimizer, made.torch, made.data),
        machine=runs.machine,
        step=None if cost is None else Step(cost.ratio, tuple(map(math.exp, cost.logarithms)), cost.flags),
        is_emulated=runs.is_emulated,
    )


def on_possible_scale(sample: Sample) -> Sample:
    """A sample on its scale, or on the linear one where a value has no logarithm."""
    return sample if sample.has_logarithms else dataclasses.replace(sample, scale=ValueScale.LINEAR)


def side_of(name: str, held: Iterable[Cells], probes: Probes) -> Side:
    """A store, or what of it is chosen; a cell of several suites counts where it has most runs."""
    chosen: dict[Cell, Runs] = {}
    left_out = 0
    for one in held:
        left_out += one.left_out
        for runs in one.cells:
            known = chosen.get(runs.cell)
            if runs.records and (known is None or len(runs.results) > len(known.results)):
                chosen[runs.cell] = runs
    return Side(
        name, {cell: entry_of(runs, probes) for cell, runs in chosen.items()}, made_of(chosen.values()), left_out
    )


def made_of(cells: Iterable[Runs]) -> tuple[str, ...]:
    """Code and machines of cells, the distinct ones."""
    records = (record for runs in cells for record in runs.results)
    places = (
        (made.git_sha, made.dirty, made.torch, made.device_name, made.threads)
        for record in records
        if (made := record.environment) is not None
    )
    return tuple(made_line(*place) for place in dict.fromkeys(places))


def made_line(git_sha: str | None, dirty: bool | None, torch: str, device_name: str, threads: int | None) -> str:  # noqa: FBT001 - as a record has it
    """Code and machine in a line."""
    revision = f"revision {git_sha[:10]}{', modified' if dirty else ''}" if git_sha else "revision unknown"
    machine = device_name if threads is None else str(Machine(device_name, threads))
    return f"{revision}; torch {torch}; {machine}"


def _repeated(record: RunRecord) -> dict[str, float | None]:
    found = values_of(record)
    return {"diverged": isinstance(record.outcome, Diverged), **{name: found.get(name) for name in REPEATED}}


def _ending(record: RunRecord) -> str:
    match record.outcome:
        case Diverged():
            return "diverged"
        case Failed():
            return "raised"
        case Undefined():
            return "has no score, its metric is undefined"
    return ""
