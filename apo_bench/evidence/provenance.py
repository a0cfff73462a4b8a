"""What a page says of results that were left out, or that count in part: of other code, other data, another machine."""

from collections.abc import Iterator

from apo_bench.evidence.cells import Cells


def provenance(held: Cells) -> tuple[str, ...]:
    """One line for each kind; empty where everything is of the installed code and of one machine."""
    return tuple(_lines(held))


def _lines(held: Cells) -> Iterator[str]:
    if held.left_out:
        yield (
            f"{_runs(held.left_out)} left out: made with another version of the code, or with other data, than the "
            "rest of the cell; `apo-bench run` makes them again"
        )
    outdated = held.outdated
    if outdated:
        count = sum(len(runs.results) for runs in outdated)
        yield (
            f"{_runs(count)} in rows marked †: made with another version of the code than the installed one, of which "
            "the cell has no result; no difference between rows of two versions is claimed"
        )
    machines = "; ".join(f"{device}: {machine}" for device, machine in held.machines.items())
    elsewhere = held.elsewhere
    if elsewhere:
        others = ", ".join(f"{name} ({_runs(count)})" for name, count in elsewhere.most_common())
        yield f"times and memory are those of one machine ({machines or 'unknown'}); only the scores count of {others}"


def _runs(count: int) -> str:
    return f"{count} run{'' if count == 1 else 's'}"
