"""Publish a suite of a store: page, runs, probes and figures, and the README's table and figure."""

import argparse
import io
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
from tabulate import tabulate

from apo_bench.evidence.intervals import Interval, mean_interval
from apo_bench.records.digest import seal
from apo_bench.records.spec import Scale
from apo_bench.store.store import Store
from apo_bench.suites import suite

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
"""Of Okabe and Ito (2008), in the order of the reports' figures, so that an optimizer has one colour in all of them."""

ROOT = Path(__file__).parent.parent
SHOWN_TASK, SHOWN_PRECISION = "fashion-mnist-20k.lenet", "fp32"
"""What the README shows: the one task of the suite with several seeds."""
COLUMNS = ("optimizer", "test accuracy (%)", "n", "step / sgdm", "to target")
FIGURE = ROOT / "docs" / "assets" / "accuracy-against-cost.png"


def readme_block(page: str) -> str:
    """The table of a leaderboard page that the README shows, with its main columns, and where it was made."""
    section = page.partition(f"## {SHOWN_TASK} on ")[2].partition("\n## ")[0]
    lines = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("|")]
    places = {name.strip(): place for place, name in enumerate(lines[0])}
    chosen = [row for row in lines[2:] if row[places["precision"]].strip() == SHOWN_PRECISION]
    # without line breaks inside a value, on a narrow screen too
    rows = [[row[places[name]].strip().replace(" ", "\u00a0") for name in COLUMNS] for row in chosen]
    table = tabulate(rows, headers=COLUMNS, tablefmt="pipe", disable_numparse=True, colalign=["left"] + ["right"] * 4)
    claimed = [row[places["optimizer"]].strip() for row in chosen if "**" in row[places["vs. sgdm"]]]
    claim = (
        f"A difference in accuracy to SGDm is claimed for {', '.join(claimed)}."
        if claimed
        else "No difference in accuracy to SGDm is claimed: no simultaneous paired interval excludes zero."
    )
    machines = page.partition("Made on:")[2].strip().removeprefix("- ")
    return f"{table}\n\n{claim} Made on {machines}.\n"


def cost_points(runs: pd.DataFrame) -> dict[str, tuple[float, Interval]]:
    """Ratio of the step to SGDm's, and test accuracy over seeds, of each optimizer that the README shows."""
    shown = runs[(runs["task"] == SHOWN_TASK) & (runs["precision"] == SHOWN_PRECISION)]
    return {
        str(name): (float(own["step_ratio"].iloc[0]), mean_interval([float(value) for value in own["value"]]))
        for name, own in shown.groupby("optimizer")
    }


def described(points: Mapping[str, tuple[float, Interval]]) -> str:
    """What the figure shows in words; a PNG carries it, so that a test can tell from which numbers it was drawn."""
    return "; ".join(
        f"{name}: {accuracy.mean:.4f} ± {accuracy.half_width or 0.0:.4f} % at {ratio:.4f}"
        for name, (ratio, accuracy) in sorted(points.items())
    )


def cost_figure(points: Mapping[str, tuple[float, Interval]]) -> bytes:
    """Draw accuracy against the cost of a step; error bars are 95 % intervals over seeds."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    seeds = min(accuracy.n for _, accuracy in points.values())
    # small, with large letters: a phone shows it at half of its width
    style: Any = {"font.family": "DejaVu Sans", "font.size": 14, "axes.spines.top": False, "axes.spines.right": False}
    with mpl.rc_context(style):
        figure = Figure(figsize=(6.2, 4.0), layout="constrained", facecolor="white")
        axes = figure.subplots()
        for (name, (ratio, accuracy)), colour in zip(sorted(points.items()), COLOURS, strict=False):
            axes.errorbar(
                ratio,
                accuracy.mean,
                yerr=accuracy.half_width,
                fmt="o",
                color=colour,
                capsize=5,
                markersize=9,
                linewidth=2,
            )
            top = accuracy.mean + (accuracy.half_width or 0.0)
            label: Any = {"textcoords": "offset points", "ha": "center", "color": colour, "fontweight": "bold"}
            axes.annotate(name, (ratio, top), (0, 6), **label)
        axes.set_xlabel("cost of a step (SGDm = 1)")
        axes.set_ylabel("test accuracy (%)")
        axes.margins(x=0.12, y=0.12)
        axes.grid(axis="y", color="#e4e4e4")
        axes.set_axisbelow(True)
        axes.set_title(
            f"LeNet on Fashion-MNIST-20k, {SHOWN_PRECISION}\n95 % intervals over {seeds} seeds", loc="left", fontsize=13
        )
        drawn = io.BytesIO()
        metadata = {"Software": None, "Description": described(points)}
        figure.savefig(drawn, format="png", dpi=200, metadata=metadata)
    return drawn.getvalue()


def main() -> None:
    """Write the folder and refresh the README."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("suite", "scale", "store"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    folder = ROOT / "reports" / f"{options.suite}-{options.scale}"
    folder.mkdir(exist_ok=True)
    store = ["--suite", options.suite, "--store", options.store]
    command = [sys.executable, "-m", "apo_bench"]
    page = folder / "leaderboard.md"
    subprocess.run([*command, "report", *store, "--scale", options.scale, "--output", str(page)], check=True)
    subprocess.run([*command, "export", *store, "--output", str(folder / "runs.csv")], check=True)
    subprocess.run(
        [*command, "report", *store, "--scale", options.scale, "--figures", str(folder / "figures")], check=True
    )
    tasks = {entry.task for entry in suite(options.suite, Scale(options.scale)).tasks}
    for record in Store(Path(options.store)).scan().probes:
        if record.spec.task in tasks:
            probes = folder / "probes"
            probes.mkdir(exist_ok=True)
            name = f"{record.spec.task}-{record.spec.precision}-{record.spec.device}.json"
            (probes / name).write_bytes(seal(msgspec.json.format(msgspec.json.encode(record), indent=1)))
    if options.suite != "classification":  # the one that the README shows
        return
    refresh(page, folder / "runs.csv")


def refresh(page: Path, runs: Path) -> None:
    """Write the README's table and figure from a published page and its runs."""
    FIGURE.write_bytes(cost_figure(cost_points(pd.read_csv(runs))))
    readme = ROOT / "README.md"
    block = readme_block(page.read_text(encoding="utf-8"))
    text = re.sub(
        r"(?<=<!-- leaderboard -->\n).*?(?=<!-- /leaderboard -->)",
        lambda _: block,
        readme.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
