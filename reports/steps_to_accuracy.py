"""Tune every optimizer with the same number of trials, then race them: steps to 85 % validation accuracy.

LeNet on Fashion-MNIST-20k, fp32, 5 epochs, constant learning rate; validation every 20 steps. Two settings are chosen
for each optimizer: the one that needs the fewest steps (ties by accuracy), and the one with the highest accuracy, a
mean over the last epoch's evaluations. Both race on the reporting seeds, and test accuracy is read once, at the end of
each race.

    python reports/steps_to_accuracy.py [--trials 8] [--workers 2]

Finished trials and races are kept in ``reports/steps-to-accuracy/`` and not run again.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import tuning
from tuning import TARGET, Job, Result, by_accuracy, by_steps, run, trials

from apo_bench.evidence.intervals import mean_interval
from apo_bench.plugins.registry import optimizers
from apo_bench.records.suite import TUNING_SEED

FOLDER = Path(__file__).parent / "steps-to-accuracy"
TASK = "fashion-mnist-20k.lenet"
EPOCHS = 5.0
EVERY = 20
REPORTING_SEEDS = (0, 1, 2)
CHOICES: dict[str, Callable[[Result], tuple[float, float]]] = {"steps": by_steps, "accuracy": by_accuracy}


def table(names: list[str], chosen: dict[tuple[str, str], Result], races: list[Result], choice: str) -> pd.DataFrame:
    """One row an optimizer: steps to the target, accuracies, and the paired difference to SGDm's steps."""
    by_run = {(result.optimizer, result.overrides, result.seed): result for result in races}

    def seeds(name: str) -> list[Result]:
        return [by_run[name, chosen[name, choice].overrides, seed] for seed in REPORTING_SEEDS]

    rows = []
    reference = [result.steps for result in seeds("sgdm")]
    for name in names:
        own = seeds(name)
        steps = [result.steps for result in own]
        differences = [a - b for a, b in zip(steps, reference, strict=True) if a is not None and b is not None]
        rows.append(
            {
                "optimizer": name,
                f"steps to {TARGET:g} %": ", ".join("–" if step is None else str(step) for step in steps),
                "mean": _interval(steps, digits=0),
                "minus SGDm, paired": _interval(
                    differences if name != "sgdm" and len(differences) == len(steps) else [None], digits=0
                ),
                "test accuracy (%)": _interval([result.test for result in own], digits=2),
                "setting": ", ".join(
                    f"{key} {value:g}" for key, value in json.loads(chosen[name, choice].overrides).items()
                ),
            }
        )
    order = {name: statistics.fmean([result.steps or math.inf for result in seeds(name)]) for name in names}
    rows.sort(key=lambda row: order[row["optimizer"]])
    return pd.DataFrame(rows)


def _interval(values: list[Any], digits: int) -> str:
    if any(value is None for value in values):
        return "–"
    interval = mean_interval(values)
    return f"{interval.mean:.{digits}f} ± {interval.half_width:.{digits}f}"


def main() -> None:
    """Tune, race, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    names = optimizers().names()
    tried = run(
        [job for name in names for job in trials(TASK, name, options.trials, epochs=EPOCHS, every=EVERY)],
        FOLDER / "trials.csv",
        options.workers,
    )
    chosen = {
        (name, choice): max((result for result in tried if result.optimizer == name), key=order)
        for name in names
        for choice, order in CHOICES.items()
    }
    races = run(
        [
            Job(TASK, name, json.loads(result.overrides), seed, EPOCHS, EVERY, test=True)
            for (name, _), result in chosen.items()
            for seed in REPORTING_SEEDS
        ],
        FOLDER / "races.csv",
        options.workers,
    )
    about = (__doc__ or "").partition("    python")[0].strip()
    about_tuning = (tuning.__doc__ or "").partition("\n\n")[2].strip()
    parts = [f"# Steps to {TARGET:g} % validation accuracy\n\n{about}\n\n{about_tuning}\n"]
    parts.append(
        f"{options.trials} trials an optimizer (`trials.csv`), seed {TUNING_SEED}; races (`races.csv`) on seeds "
        f"{', '.join(map(str, REPORTING_SEEDS))}. ± is half of a 95 % t interval over the seeds, for "
        "differences over pairs with the same seed. Each interval stands for itself: that none of them all misses is "
        "much less certain, and three seeds allow no ranking of neighbours. – means that a seed never got there.\n"
    )
    for choice, title in (("steps", "Chosen for fewest steps"), ("accuracy", "Chosen for validation accuracy")):
        page = table(list(names), chosen, races, choice).to_markdown(index=False, disable_numparse=True)
        parts.append(f"## {title}\n\n{page}\n")
    (FOLDER / "README.md").write_text("\n".join(parts))
    print(f"written: {FOLDER / 'README.md'}")


if __name__ == "__main__":
    main()
