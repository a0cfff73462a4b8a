"""Tune the competitors of a suite at scale `local`, each with the same number of trials a task.

fp32, the task's own budget; the setting with the best validation metric, a mean over the last epoch's evaluations, is
the one that stands in `apo_bench.suites`. Of the learning-rate suite each fixed rate of the grid is a trial.

    python reports/tune_suite.py classification [--trials 8] [--workers 2]

Finished trials are kept in ``reports/SUITE-local/tuning.csv`` and not run again.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from tuning import WEIGHT_DECAY, Job, best, run, trials

from apo_bench.records.spec import Scale
from apo_bench.records.suite import TUNING_SEED, Suite
from apo_bench.suites import suite
from apo_bench.suites.lr_adaptation import GRID

SUITES = ("classification", "regression", "reconstruction", "lr-adaptation")
EVERY = 50


def jobs(local: Suite, count: int) -> Iterator[Job]:
    """All trials of a suite."""
    for entry in local.tasks:
        settings = {declared.optimizer: declared.overrides for declared in local.competitors(entry)}
        for optimizer, overrides in settings.items():
            if local.name != "lr-adaptation":
                decay = float(overrides.get("weight_decay") or 0.0)
                yield from trials(
                    entry.task, optimizer, count, epochs=entry.epochs, every=EVERY, weight_decay=decay or 0.0
                )
            elif optimizer in GRID:
                fixed = {"weight_decay": WEIGHT_DECAY} if "weight_decay" in overrides else {}
                for rate in GRID[optimizer]:
                    yield Job(entry.task, optimizer, {**fixed, "lr": rate}, TUNING_SEED, entry.epochs, EVERY)


def main() -> None:
    """Run the trials and print the best of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    file = Path(__file__).parent / f"{options.suite}-local" / "tuning.csv"
    file.parent.mkdir(exist_ok=True)
    tried = run(list(jobs(suite(options.suite, Scale.LOCAL), options.trials)), file, options.workers)
    for task, optimizer in dict.fromkeys((result.task, result.optimizer) for result in tried):
        chosen = best(result for result in tried if (result.task, result.optimizer) == (task, optimizer))
        print(f"{task} {optimizer}: {chosen.overrides} {chosen.validation}")


if __name__ == "__main__":
    main()
