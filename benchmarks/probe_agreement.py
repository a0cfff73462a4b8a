"""Do probes repeat themselves? The same cell is probed again and again, and the ratios of each pair are compared.

Two probes *agree* on an optimizer where their 95 % intervals overlap, and *closely* where the difference of the
logarithms is within the root of the sum of the squared half-widths, as it is for two independent estimates of one
number in about 19 of 20 cases.

    python benchmarks/probe_agreement.py [--pairs 10] [--processes 5] [--rounds 6] [--task fashion-mnist-20k.lenet]
"""

import argparse
import math
import subprocess
import sys
import tempfile
from pathlib import Path

from apo_bench.evidence.step_costs import StepCost, step_costs
from apo_bench.store.store import Store


def probe(options: argparse.Namespace, store: Path) -> dict[str, StepCost]:
    """Probe once; costs by optimizer."""
    command = [sys.executable, "-m", "apo_bench", "probe", "--suite", "classification", "--scale", "local", "--again"]
    command += ["--tasks", options.task, "--precisions", "fp32", "--store", str(store)]
    command += ["--processes", str(options.processes), "--rounds", str(options.rounds)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own command
    newest = Store(store).scan().probes[-1]
    return {probed.optimizer.name: cost for probed, cost in step_costs(newest)}


def half_width(cost: StepCost) -> float:
    """Half-width of the logarithm's interval."""
    assert cost.low is not None
    assert cost.high is not None
    return (math.log(cost.high) - math.log(cost.low)) / 2


def main() -> None:
    """Print one line a pair and optimizer, and the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--task", default="fashion-mnist-20k.lenet")
    options = parser.parse_args()
    agreed: dict[str, list[tuple[bool, bool]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, options.pairs + 1):
            first, second = probe(options, Path(folder)), probe(options, Path(folder))
            for name in [name for name in first if name in second and first[name].ratio != 1.0]:
                one, other = first[name], second[name]
                difference = abs(math.log(one.ratio / other.ratio))
                widths = half_width(one), half_width(other)
                verdict = difference <= sum(widths), difference <= math.hypot(*widths)
                agreed.setdefault(name, []).append(verdict)
                doubts = "; ".join(dict.fromkeys((*one.flags, *other.flags)))
                print(
                    f"{number} {name}: {one.ratio:.3f} ± {one.half_width:.3f}, {other.ratio:.3f} ± "
                    f"{other.half_width:.3f}: {'agree' if verdict[0] else 'DISAGREE'}"
                    f"{'' if verdict[1] else ', not closely'}{' | ' + doubts if doubts else ''}",
                    flush=True,
                )
    for name, verdicts in agreed.items():
        overlap, close = (sum(verdict[place] for verdict in verdicts) for place in (0, 1))
        print(f"{name}: {overlap} of {len(verdicts)} pairs agree, {close} closely")


if __name__ == "__main__":
    main()
