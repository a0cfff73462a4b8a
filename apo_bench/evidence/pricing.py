"""Another machine's prices: runs with the times that their steps would have taken there, by its probes.

A step of a rule is the same step wherever it is taken, so a run of s steps costs s times the milliseconds that a probe
of the other machine measured for such a step. What a machine has of its own beside time (memory, energy, the phases of
a clock) is not known of the other one, and is left out.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from apo_bench.evidence.cells import Machine
from apo_bench.evidence.quantities import is_emulated
from apo_bench.evidence.step_costs import StepCost, step_costs
from apo_bench.records.cell import Cell
from apo_bench.records.facts import Environment
from apo_bench.records.probe import Probed, ProbeRecord
from apo_bench.records.run import Fingerprint, RunRecord
from apo_bench.records.spec import Device


def machines_of(probes: Iterable[ProbeRecord]) -> tuple[Machine, ...]:
    """On which machines probes were made."""
    return tuple(dict.fromkeys(_machine(probe) for probe in probes))


def _machine(probe: ProbeRecord) -> Machine:
    return Machine(probe.environment.device_name, probe.spec.threads)


@dataclasses.dataclass(frozen=True)
class Pricing:
    """Runs at another machine's prices.

    Attributes:
        records: All runs; those with a price have its times, the others keep theirs.
        probes: The probes, one for each kind of step that is priced, as if made with the code and on the device of the
            runs.
        machine: Whose prices these are.
        missing: Cells without a price, one title each.
        other_code: Parts of the code (harness, torch) in which a probe is of another version, with the number of cells.
    """

    records: tuple[RunRecord, ...]
    probes: tuple[ProbeRecord, ...]
    machine: Machine
    missing: tuple[str, ...]
    other_code: tuple[tuple[str, int], ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """What a page says of it."""
        said = [
            (
                f"times are priced on {self.machine}: steps times the milliseconds that its probe measured, whatever "
                "machine the runs were made on; memory and phases, which are not known of it, are left out"
            )
        ]
        if self.missing:
            said.append(
                f"without a probe of that machine, and so without times: {'; '.join(self.missing)}; `apo-bench probe` "
                "there makes one, with the same optimizer and task"
            )
        said += [
            f"the probes are of another version of {part} than the runs in {count} cell{'' if count == 1 else 's'}"
            for part, count in self.other_code
        ]
        return tuple(said)


@dataclasses.dataclass(frozen=True)
class _Price:
    probe: ProbeRecord
    probed: Probed
    cost: StepCost


def priced(records: Iterable[RunRecord], probes: Sequence[ProbeRecord]) -> Pricing:
    """Price runs by the probes of one machine.

    A probe fits a run of the same task, optimizer, hyperparameters, precision and compilation, with the same code of
    the task and of the optimizer; the kind of device, the harness and torch may be others. Of several the newest
    without a doubt is taken, of those that fit exactly first.

    Args:
        records: Of runs.
        probes: Oldest first; all of one machine.

    Raises:
        ValueError: They are of no machine, or of several.
    """
    machines = machines_of(probes)
    if len(machines) != 1:
        raise ValueError(f"prices must be of one machine (got {len(machines)})")
    prices: dict[Cell, list[_Price]] = defaultdict(list)
    for probe in probes:
        for probed, cost in step_costs(probe):
            prices[_anywhere(probe.spec.cell(probed.optimizer))].append(_Price(probe, probed, cost))
    made: list[RunRecord] = []
    fitted: dict[tuple[Cell, Fingerprint], ProbeRecord] = {}
    missing: dict[Cell, None] = {}
    others: dict[str, set[Cell]] = defaultdict(set)
    for record in records:
        if is_emulated(record) or not record.is_result or record.cost is None:
            made.append(record)
            continue
        cell = Cell.of(record.spec)
        key = cell.step, record.fingerprint
        price = _fitting(prices.get(_anywhere(cell), ()), record)
        if price is None:
            missing[cell] = None
            made.append(record)
            continue
        for part in ("harness", "torch"):
            if getattr(price.probed.fingerprint, part) != getattr(record.fingerprint, part):
                others[part].add(cell)
        if key not in fitted:
            fitted[key] = _as_of(price, record)
        made.append(_repriced(record, price))
    return Pricing(
        tuple(made),
        tuple(fitted.values()),
        machines[0],
        tuple(dict.fromkeys(cell.title for cell in missing)),
        tuple((part, len(cells)) for part, cells in sorted(others.items())),
    )


def _anywhere(cell: Cell) -> Cell:
    return msgspec.structs.replace(cell.step, device=Device.CPU)


def _fitting(prices: Sequence[_Price], record: RunRecord) -> _Price | None:
    own = record.fingerprint
    fitting = [
        price
        for price in prices
        if (price.probed.fingerprint.task, price.probed.fingerprint.optimizer) == (own.task, own.optimizer)
    ]
    exact = [
        price
        for price in fitting
        if (price.probed.fingerprint.harness, price.probed.fingerprint.torch) == (own.harness, own.torch)
    ]
    best = exact or fitting
    sound = [price for price in best if not price.cost.flags]
    return (sound or best)[-1] if best else None


def _as_of(price: _Price, record: RunRecord) -> ProbeRecord:
    """The probe as one that fits a run: of its device, with its code; of the others in it the reference is kept."""
    probe = price.probe
    reference, own = probe.competitors[0], msgspec.structs.replace(price.probed, fingerprint=record.fingerprint)
    kept = (own,) if reference is price.probed else (reference, own)
    spec = msgspec.structs.replace(
        probe.spec, device=record.spec.device, competitors=tuple(one.optimizer for one in kept)
    )
    return msgspec.structs.replace(probe, spec=spec, competitors=kept)


def _repriced(record: RunRecord, price: _Price) -> RunRecord:
    cost, milliseconds = record.cost, price.cost.milliseconds
    if cost is None:
        return record
    there: Environment = msgspec.structs.replace(
        record.environment or price.probe.environment,
        device_name=price.probe.environment.device_name,
        threads=price.probe.spec.threads,
    )
    return msgspec.structs.replace(
        record,
        environment=there,
        cost=msgspec.structs.replace(
            cost,
            train_seconds=cost.steps * milliseconds / 1000.0,
            step_ms=milliseconds,
            data_seconds=None,
            phases={},
            peak_memory_bytes=None,
            baseline_memory_bytes=None,
            peak_reserved_bytes=None,
            process_memory_bytes=None,
            energy_joules=None,
            clock_mhz=None,
            throttle_reasons=(),
            foreign_processes=None,
        ),
        curve=tuple(
            msgspec.structs.replace(point, seconds=point.step * milliseconds / 1000.0) for point in record.curve
        ),
    )
