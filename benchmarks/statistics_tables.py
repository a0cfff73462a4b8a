"""The tables of docs/statistics.md, from the numbers that `family_error.py` simulated."""

import re
from collections.abc import Iterator
from typing import Any

SEEDS = (3, 5, 10)


def _percent(share: float) -> str:
    return f"{100.0 * share:.1f}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def tables(numbers: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The tables of the page, by name."""
    by_method = numbers["comparisons"]
    for n in SEEDS:
        for measure in ("family_error", "coverage"):
            rows = [
                [condition, *(_percent(by_method[name][str(n)][condition][measure]) for name in by_method)]
                for condition in next(iter(by_method.values()))[str(n)]
            ]
            yield f"{measure} {n}", _table([f"n = {n}, %", *by_method], rows)
    rows = []
    for condition, title, key in (
        ("equal variances", "half-width / σ", "half_width"),
        ("seed explains 60 %", "half-width / σ, seed explains 60 %", "half_width"),
        ("equal variances", "power, %", "power"),
        ("seed explains 60 %", "power, %, seed explains 60 %", "power"),
    ):
        for n in SEEDS:
            found = [own[str(n)][condition][key] for own in by_method.values()]
            shown = [_percent(number) if key == "power" else f"{number:.2f}" for number in found]
            rows.append([f"{title}, n = {n}", *shown])
    yield "width", _table(["", *by_method], rows)
    rows = [
        [f"{name}, {times} times", *(_percent(own[str(n)][str(times)]) for n in (3, 4, 5, 10))]
        for name, own in numbers["large_families"].items()
        for times in (1, 3, 7, 10)
    ]
    yield "large", _table(["family error, %", *(f"n = {n}" for n in (3, 4, 5, 10))], rows)
    rows = [
        [f"{large} of 6 others differ by 12 σ"]
        + [_percent(numbers["holm"][str(n)][large][kind]) for n in SEEDS for kind in ("one_step", "holm")]
        for large in ("0", "3", "6")
    ]
    yield "holm", _table(["power, %", *(f"n = {n}, {kind}" for n in SEEDS for kind in ("one step", "Holm"))], rows)
    rows = [[name, *(_percent(own[str(n)]) for n in SEEDS)] for name, own in numbers["single_cells"].items()]
    yield "cells", _table(["coverage, %", *(f"n = {n}" for n in SEEDS)], rows)
    rows = [
        [name, *(_percent(own[str(n)][kind]) for n in SEEDS for kind in ("planned", "every_seed"))]
        for name, own in numbers["looking"].items()
    ]
    yield (
        "looking",
        _table(["error, %", *(f"{kind} {n}" for n in SEEDS for kind in ("only at n =", "after every seed to"))], rows),
    )
    kinds = ("false_alarms", "found_in_a_noisy_cell", "found_in_a_quiet_cell")
    rows = [
        [name, *(_percent(own[str(n)][kind]) for n in SEEDS for kind in kinds)]
        for name, own in numbers["false_alarms"].items()
    ]
    short = ("false alarms", "found, noisiest", "found, quietest")
    yield "alarms", _table(["%", *(f"n = {n}, {kind}" for n in SEEDS for kind in short)], rows)
    rows = [
        [f"{name}, n = {n}"]
        + [f"{_percent(own[str(n)][tasks]['held'])} ({own[str(n)][tasks]['ranks']:.1f})" for tasks in ("1", "3", "8")]
        for name, own in numbers["ranks"].items()
        for n in SEEDS
    ]
    yield "ranks", _table(["all ranks held, % (ranks an interval)", "1 task", "3 tasks", "8 tasks"], rows)


def filled(page: str, numbers: dict[str, Any]) -> str:
    """The page with its tables as the numbers say.

    Raises:
        ValueError: A table has no place in the page.
    """
    for name, table in tables(numbers):
        page, count = re.subn(
            rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", rf"\g<1>{table}\n\g<2>", page, flags=re.DOTALL
        )
        if count != 1:
            raise ValueError(f"the page must have one place for the table {name!r} (has {count})")
    return page
