"""The costs of a probe as a table and as JSON."""

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apo_bench.evidence.step_costs import StepCost
    from apo_bench.records.probe import Probed, ProbeRecord


def step_cost_table(costs: "Sequence[tuple[Probed, StepCost]]") -> str:
    """A row a competitor: its step, the ratio to the reference, and the kinds of step with their shares."""
    from apo_bench.render.terminal import terminal_table
    from apo_bench.text import printable

    rows = []
    for probed, cost in costs:
        kinds = ", ".join(
            f"{printable(name)} {milliseconds:.3g} × {share:.3g}" for name, share, milliseconds in cost.kinds
        )
        half_width = f" ± {cost.half_width:.2g}" if cost.half_width else ""
        rows.append([probed.optimizer.name, f"{cost.milliseconds:.3g}", f"{cost.ratio:.3g}{half_width}", kinds])
    headers = ["optimizer", "ms/step", f"/ {costs[0][0].optimizer.name}", "kinds of step: ms × share"]
    return terminal_table(headers, rows, "<>><", wrapped=3)


def step_cost_json(record: "ProbeRecord", costs: "Sequence[tuple[Probed, StepCost]]") -> dict[str, object]:
    """A probe with what it composes to, for a program."""
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
