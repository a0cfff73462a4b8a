"""The tree is the one that CONTRIBUTING.md shows, no file is too long, and no module imports itself by a detour."""

import ast
import itertools
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "apo_bench"
LONGEST = 400


def _shown() -> dict[str, list[str]]:
    """The modules of each folder as CONTRIBUTING.md shows them; the package itself has no name."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```text\n(apo_bench/.*?)```", text, flags=re.DOTALL)
    shown: dict[str, list[str]] = {}
    folder = ""
    for line in block.splitlines():
        names = line
        if match := re.match(r"(?:apo_bench/|  (\w+)/) +(?:.*?  )?", line):
            folder, names = match[1] or "", line[match.end() :]
        shown.setdefault(folder, []).extend(names.split())
    return shown


def test_contributing_shows_the_tree_as_it_is() -> None:
    folders = {path.parent.name: path.parent for path in PACKAGE.glob("*/__init__.py")}
    there = {name: sorted(p.stem for p in path.glob("*.py") if p.stem != "__init__") for name, path in folders.items()}
    there[""] = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__main__")
    assert {folder: sorted(names) for folder, names in _shown().items()} == there


def test_the_walk_of_a_run_names_each_module_once() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    walk = text.partition("One run, from the command line to a row of a leaderboard:")[2].partition("\n\nAdd an")[0]
    named = re.findall(r"`(\w+/\w+)`", walk)
    assert len(re.findall(r"^\d+\. ", walk, flags=re.MULTILINE)) == 10
    assert len(named) == len(set(named)) > 15
    assert [name for name in named if not (PACKAGE / f"{name}.py").is_file()] == []


@pytest.mark.parametrize("folder", ["apo_bench", "baselines", "benchmarks", "reports", "tests"])
def test_no_file_is_too_long_to_be_read_at_once(folder: str) -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert lengths
    assert {str(path.relative_to(ROOT)): length for path, length in lengths.items() if length > LONGEST} == {}


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(path: Path, modules: set[str]) -> Iterator[str]:
    """Modules of the package that a module imports anywhere, also where only a type checker looks."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in modules else node.module for name in names)


def test_no_module_imports_itself_by_a_detour() -> None:
    paths = {_name(path): path for path in itertools.chain(PACKAGE.rglob("*.py"), (ROOT / "baselines").rglob("*.py"))}
    doors = {"apo_bench", "apo_bench.optim"}  # they bring together what lies behind them
    graph = {
        name: {found for found in _imported(path, set(paths)) if found in paths and found != name} - doors
        for name, path in paths.items()
        if name not in doors
    }
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))
    assert len(order) > 100
