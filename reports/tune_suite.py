"""Tune the competitors of the classification suite at scale `local`, each with the same number of trials a task.

fp32, the task's own budget, validation every 50 steps; the setting with the highest validation accuracy, a mean over
the last epoch's evaluations, is the one that stands in `apo_bench.suites`.

    python reports/tune_suite.py [--trials 8] [--workers 2]

Finished trials are kept in ``reports/classification-local/tuning.csv`` and not run again.
"""

import argparse
from pathlib import Path

from tuning import by_accuracy, run, trials

from apo_bench.spec import Scale
from apo_bench.suites import suite

FILE = Path(__file__).parent / "classification-local" / "tuning.csv"
EVERY = 50


def main() -> None:
    """Run the trials and print the best of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    local = suite("classification", Scale.LOCAL)
    tried = run(
        [
            job
            for entry in local.tasks
            for competitor in local.optimizers
            for job in trials(entry.task, competitor.optimizer, options.trials, epochs=entry.epochs, every=EVERY)
        ],
        FILE,
        options.workers,
    )
    for entry in local.tasks:
        for competitor in local.optimizers:
            own = [result for result in tried if (result.task, result.optimizer) == (entry.task, competitor.optimizer)]
            best = max(own, key=by_accuracy)
            print(f"{entry.task} {competitor.optimizer}: {best.overrides} {best.accuracy}")


if __name__ == "__main__":
    main()
