"""Publish a suite of a store: the page, the runs and probes it was made from, the figures, and the README's tables."""

import argparse
import re
import subprocess
import sys
from pathlib import Path

import msgspec

from apo_bench.records.run import encode
from apo_bench.records.spec import Scale
from apo_bench.store.store import Store
from apo_bench.suites import suite

ROOT = Path(__file__).parent.parent
DETAILS = {"ms/step", "training", "overhead", "skipped", "best validation", "training loss"}
"""Columns that the README leaves to the page."""


def readme_block(page: str) -> str:
    """The part of a leaderboard page that the README shows: tables without their details, one heading level lower."""
    tables, _, rest = page.partition("## How to read this")
    machines = rest.partition("Made on:")[2].strip()
    body = tables.partition("\n")[2].strip().replace("\n## ", "\n### ")
    blocks = [_narrowed(block) if block.startswith("|") else block for block in body.split("\n\n")]
    return "\n\n".join([*blocks, "Made on:", machines]) + "\n"


def _narrowed(table: str) -> str:
    """A table without the columns that only the whole page has."""
    rows = [line.split("|")[1:-1] for line in table.splitlines()]
    kept = [place for place, name in enumerate(rows[0]) if name.strip() not in DETAILS]
    return "\n".join("|".join(["", *(row[place] for place in kept), ""]) for row in rows)


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
            (probes / name).write_bytes(msgspec.json.format(encode(record), indent=1) + b"\n")
    if options.suite != "classification":  # the one that the README shows
        return
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
