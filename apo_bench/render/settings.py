"""With which settings a row was made, where they come from, and the command that makes it again."""

import shlex
from collections.abc import Sequence

from apo_bench.evidence.rows import Leaderboard, Row, Section
from apo_bench.records.schedules import kind_of
from apo_bench.records.spec import Scalar
from apo_bench.text import escaped


def settings_markdown(board: Leaderboard, section: Section) -> list[str]:
    """One item a row."""
    return [f"- {_item(board, section, row)}" for row in section.rows]


def _item(board: Leaderboard, section: Section, row: Row) -> str:
    cell = row.cell
    values = ", ".join(f"{name} = {_shown(value)}" for name, value in sorted(cell.optimizer.hyperparameters.items()))
    schedule = kind_of(cell.optimizer.schedule)
    tried = [f"{name} the best of {count} tried by validation" for name, count in row.tried.items()]
    origin = "; ".join(tried) if tried else "as declared"
    parts = [
        f"{row.competitor}, {row.precision}: {values}; schedule {schedule} ({origin})",
        _command(board, section, row),
    ]
    return ". Again: ".join(map(escaped, parts))


def _command(board: Leaderboard, section: Section, row: Row) -> str:
    """Complete: with device, budget and seeds, and the settings in which it differs from rows of the same optimizer."""
    cell = row.cell
    name = cell.optimizer.name
    words = [
        *("apo-bench", "run", "--suite", board.suite, "--scale", str(board.scale), "--device", str(cell.device)),
        *("--tasks", cell.task, "--optimizers", name, "--precisions", str(cell.precision)),
        *("--epochs", f"{cell.budget.epochs:g}", "--seeds", ",".join(map(str, row.seeds))),
        *(["--compile"] if cell.compile else []),
    ]
    for field in _differing(section.rows, row):
        words += ["--set", f"{name}.{field}={_shown(cell.optimizer.hyperparameters.get(field))}"]
    return shlex.join(words)


def _differing(rows: Sequence[Row], row: Row) -> list[str]:
    """Hyperparameters in which rows of the same optimizer and precision differ."""
    same = [
        other.cell.optimizer.hyperparameters
        for other in rows
        if (other.cell.optimizer.name, other.precision) == (row.cell.optimizer.name, row.precision)
    ]
    names = {name for one in same for name in one}
    return sorted(name for name in names if len({_shown(one.get(name)) for one in same}) > 1)


def _shown(value: Scalar) -> str:
    """As the command line takes it."""
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)
