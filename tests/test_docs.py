"""What the documents say is what the program does."""

import doctest
import importlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import publish
import pytest
from support.records import record
from support.shell import Shell

from apo_bench.cli.main import COMMANDS, _parser
from apo_bench.evidence.leaderboard import leaderboard
from apo_bench.plugins.optimizer import resolve_hyperparameters
from apo_bench.plugins.registry import optimizers
from apo_bench.records.spec import Device, Scale
from apo_bench.records.suite import TUNING_SEED
from apo_bench.render.leaderboard import leaderboard_markdown
from apo_bench.suites import SUITES, suite
from apo_bench.suites.lr_adaptation import BEST, GRID

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "reports").rglob("*.md"), *DOCS.glob("*.md")])


def _page(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}[^\n]*\n(.*?)```", text, flags=re.DOTALL)


def test_every_promise_names_a_test_that_is_there() -> None:
    rows = [line for line in _page("robustness").splitlines() if re.match(r"\| (?!promise|---)", line)]
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, row
        for path, name in named:
            assert f"\ndef {name}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path}::{name}"


def test_every_command_is_documented() -> None:
    documented = re.findall(r"^\| `apo-bench ([a-z]+)", _page("commands"), flags=re.MULTILINE)
    assert documented == list(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_shown_is_one_that_the_command_line_takes(page: Path) -> None:
    for block in _blocks(page.read_text(encoding="utf-8"), "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            for command in re.findall(
                r"apo-bench ((?:list|run|probe|status|report|claims|check|export)\b[^&#|]*)", line
            ):
                _parser().parse_args(command.split())


def test_every_example_is_shown_by_a_page_and_every_snippet_is_one() -> None:
    """Only ``--8<-- "FILE"`` is replaced; a build does not notice a marker that is spelled otherwise."""
    shown = set()
    for page in DOCS.glob("*.md"):
        for line in page.read_text(encoding="utf-8").splitlines():
            if not re.match(r"\s*-+\s*8\b", line):
                continue
            marker = re.fullmatch(r'--8<-- "([^":]+)(?::([\w-]+))?"', line)
            assert marker, f"{page.name}: {line}"
            path, section = marker.groups()
            assert section is None or f"[start:{section}]" in (ROOT / path).read_text(encoding="utf-8"), line
            shown.add(path)
    examples = [path for path in (ROOT / "examples").rglob("*") if path.suffix in {".py", ".toml"}]
    assert {path.relative_to(ROOT).as_posix() for path in examples} == shown - {"CONTRIBUTING.md", "CHANGELOG.md"}


def test_the_readme_fits_one_screen_and_says_where_everything_is() -> None:
    assert len(README.encode()) <= 9_000
    screen = "\n".join(README.splitlines()[:60])
    assert "docs/assets/accuracy-against-cost.png" in screen
    assert len(_blocks(screen, "sh")) == 2
    assert len(re.findall(r"^- \*\*", screen, flags=re.MULTILINE)) == 4
    linked = set(re.findall(r"\]\(([^)]+)\)", README))
    assert all((ROOT / target).exists() for target in linked), linked
    left_out = {"index", "api", "contributing", "changelog", "releasing"}
    assert {f"docs/{page.stem}.md" for page in DOCS.glob("*.md") if page.stem not in left_out} <= linked


def test_ci_runs_the_readmes_test_command() -> None:
    (command,) = (block.strip() for block in _blocks(README, "sh") if "tox" in block)
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_no_document_names_a_machine() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w.])/(home|root|work|tmp|Users)/", text), page


def test_the_changelog_has_an_unreleased_section() -> None:
    assert "## Unreleased" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_readmes_table_is_the_published_one_and_its_figure_shows_the_same() -> None:
    folder = ROOT / "reports" / "classification-local"
    page = (folder / "leaderboard.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- leaderboard -->\n(.*?)<!-- /leaderboard -->", README, flags=re.DOTALL)
    assert block is not None
    assert block.group(1) == publish.readme_block(page)
    points = publish.cost_points(pd.read_csv(folder / "runs.csv"))
    shown = {row[0].strip(): row for row in (line.split("|")[1:-1] for line in block.group(1).splitlines()[2:6])}
    assert shown.keys() == points.keys()
    for name, (ratio, accuracy) in points.items():
        assert f"{accuracy.mean:.2f}\u00a0±\u00a0{accuracy.half_width:.2f}" in shown[name][1]
        assert f"{ratio:.2f}" in shown[name][3]
    assert _png_description(publish.cost_figure(points)) == publish.described(points)
    assert _png_description(publish.FIGURE.read_bytes()) == publish.described(points)


def _png_description(png: bytes) -> str:
    """The text chunk `Description` of a PNG (PNG specification, third edition, 11.3.3)."""
    place = len(b"\x89PNG\r\n\x1a\n")
    while place < len(png):
        length, kind = int.from_bytes(png[place : place + 4]), png[place + 4 : place + 8]
        content = png[place + 8 : place + 8 + length]
        if kind in {b"tEXt", b"iTXt"} and content.startswith(b"Description\0"):
            return content.rpartition(b"\0")[2].decode("latin-1" if kind == b"tEXt" else "utf-8")
        place += length + 12
    return ""


def test_the_published_leaderboard_follows_from_the_published_runs() -> None:
    folder = ROOT / "reports" / "classification-local"
    runs = pd.read_csv(folder / "runs.csv")
    page = (folder / "leaderboard.md").read_text(encoding="utf-8")
    cells = runs.groupby(["task", "optimizer", "precision"])["value"]
    assert len(cells) > 10
    for (task, optimizer, precision), values in cells:
        section = page.split(f"## {task} on ")[1].split("\n## ")[0]
        (row,) = (
            line for line in section.splitlines() if re.match(rf"\| {optimizer} +\| {precision}( \(emulated\))? ", line)
        )
        assert f" {values.mean():.2f} " in row, row


def _unfounded_cuda_rows(page: str, runs: pd.DataFrame) -> list[str]:
    """Rows of tables under a heading that says "on cuda" for which ``runs`` has no run on CUDA."""
    rows = runs[runs["device"] == "cuda"]
    founded = set(rows[["task", "optimizer", "precision"]].itertuples(index=False, name=None))
    unfounded = []
    for section in re.split(r"^(?=#)", page, flags=re.MULTILINE):
        heading = section.partition("\n")[0].replace("\\", "")
        if not re.search(r"\bon cuda\b", heading, flags=re.IGNORECASE):
            continue
        task = heading.lstrip("# ").split()[0]
        table = [line for line in section.splitlines() if line.startswith("|")][2:]  # after the header and its rule
        for line in table:
            optimizer, precision = (cell.replace("\\", "").split()[0].rstrip(",") for cell in line.split("|")[1:3])
            if (task, optimizer, precision) not in founded:
                unfounded.append(f"{task} {optimizer} {precision}")
    return unfounded


def _published_runs(folders: Iterable[Path]) -> pd.DataFrame:
    """The published records of some folders."""
    empty = pd.DataFrame(columns=["task", "optimizer", "precision", "device"])
    tables = [folder / "runs.csv" for folder in folders]
    return pd.concat([empty, *(pd.read_csv(table) for table in tables if table.is_file())])


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", *sorted((ROOT / "reports").rglob("*.md"))],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_a_row_of_a_card_comes_from_a_record_made_on_one(page: Path) -> None:
    """The README shows the leaderboard of the suite `classification`; every other page has its runs beside it."""
    folders = (ROOT / "reports").glob("classification-*") if page.name == "README.md" and page.parent == ROOT else ()
    runs = _published_runs([*folders, page.parent])
    assert _unfounded_cuda_rows(page.read_text(encoding="utf-8"), runs) == []


def _made_page(device: str) -> str:
    """A page as `apo-bench report` writes it, of records made up."""
    runs = [record(name, 0, 80.0, task="a_task") for name in ("sgdm", "apo-p")]
    runs += [record("kfac", 0, 80.0, task="a_task", damping=damping) for damping in (0.1, 0.2)]
    specs = [msgspec.structs.replace(run.spec, device=Device(device)) for run in runs]
    board = leaderboard("s", Scale.LOCAL, [run.under(spec=spec) for run, spec in zip(runs, specs, strict=True)])
    return leaderboard_markdown(board)


@pytest.mark.parametrize(
    ("page_says", "made_on", "precision", "unfounded"),
    [
        ("cuda", "cuda", "fp32", []),
        ("cpu", "cpu", "fp32", []),
        ("cuda", "cpu", "fp32", ["a_task apo-p fp32", "a_task kfac fp32", "a_task kfac fp32", "a_task sgdm fp32"]),
        ("cuda", "cuda", "fp16", ["a_task apo-p fp32", "a_task kfac fp32", "a_task kfac fp32", "a_task sgdm fp32"]),
    ],
)
def test_the_rule_finds_rows_that_no_card_has_made(
    page_says: str, made_on: str, precision: str, unfounded: list[str]
) -> None:
    runs = pd.DataFrame(
        [("a_task", name, precision, made_on) for name in ("sgdm", "apo-p", "kfac")],
        columns=["task", "optimizer", "precision", "device"],
    )
    assert sorted(_unfounded_cuda_rows(_made_page(page_says), runs)) == unfounded


def test_the_rule_finds_the_one_row_without_a_record_and_pages_without_any() -> None:
    page = _made_page("cuda")
    columns = ["task", "optimizer", "precision", "device"]
    runs = pd.DataFrame([("a_task", name, "fp32", "cuda") for name in ("sgdm", "kfac")], columns=columns)
    assert _unfounded_cuda_rows(page, runs) == ["a_task apo-p fp32"]
    assert len(_unfounded_cuda_rows(page, _published_runs([]))) == 4
    assert _unfounded_cuda_rows(page.replace("a\\_task", "another"), runs)


def test_the_training_loop_of_the_examples_learns_and_adapts(capsys: pytest.CaptureFixture[str]) -> None:
    source = (ROOT / "examples" / "apo_loop.py").read_text(encoding="utf-8")
    first, second = source.split("# --8<-- [end:apo-lr]")
    names: dict[str, Any] = {}
    exec(first, names)  # noqa: S102 - our own example
    assert sum(names["losses"][-20:]) < 0.5 * sum(names["losses"][:20])
    assert names["rule"].meta_updates == 30
    assert names["rule"].learning_rates[0] != 0.01
    assert capsys.readouterr().out.startswith("loss 2.")
    exec(second, names)  # noqa: S102 - our own example
    assert re.fullmatch(r"APOP: loss 0\.\d\d\nKFAC: loss 0\.\d\d\n", capsys.readouterr().out)
    assert sum(names["losses"][-20:]) < 0.9 * sum(names["losses"][280:300])


def test_every_optimizer_is_listed() -> None:
    first_table = _page("optimizers").partition("\n\nKFAC, EKFAC")[0]
    listed = re.findall(r"`([\w-]+)`", " ".join(re.findall(r"^\| (`.*?) \|", first_table, flags=re.MULTILINE)))
    assert sorted(listed) == sorted(optimizers().names())


def test_every_suite_has_an_experiment() -> None:
    listed = re.findall(r"^\| `([\w-]+)` \|", _page("experiments"), flags=re.MULTILINE)
    assert [*listed, "all"] == list(SUITES)


@pytest.mark.parametrize("name", optimizers().names())
def test_declared_defaults_are_those_that_tuning_chose(name: str) -> None:
    """The highest validation accuracy of equally many trials; weight decay was not searched."""
    trials = pd.read_csv(ROOT / "reports" / "steps-to-accuracy" / "trials.csv")
    own = trials[trials["optimizer"] == name]
    assert len(own) == 8
    best = json.loads(str(own.loc[own["validation"].idxmax(), "overrides"]))  # type: ignore[index] # pandas types this loosely
    best.pop("weight_decay", None)
    defaults = optimizers()[name].load().hyperparameters()
    assert best == {field: getattr(defaults, field) for field in best}


def test_the_local_suites_settings_are_those_that_tuning_chose() -> None:
    trials = pd.read_csv(ROOT / "reports" / "classification-local" / "tuning.csv")
    local = suite("classification", Scale.LOCAL)
    for task in local.tasks:
        for entry in local.optimizers:
            own = trials[(trials["task"] == task.task) & (trials["optimizer"] == entry.optimizer)]
            assert len(own) == 8
            best = json.loads(str(own.loc[own["validation"].idxmax(), "overrides"]))  # type: ignore[index] # pandas types this loosely
            kind = optimizers()[entry.optimizer].load().hyperparameters
            settings = {**entry.overrides, **task.overrides.get(entry.optimizer, {})}
            chosen = resolve_hyperparameters(kind, settings, optimizer=entry.optimizer)
            assert best == {field: chosen[field] for field in best}, (task.task, entry.optimizer)


def _best(trials: pd.DataFrame, task: str, optimizer: str, *, maximize: bool) -> dict[str, Any]:
    own = trials[(trials["task"] == task) & (trials["optimizer"] == optimizer)]
    assert len(own) >= 5
    place = own["validation"].idxmax() if maximize else own["validation"].idxmin()
    best: dict[str, Any] = json.loads(str(own.loc[place, "overrides"]))  # type: ignore[index] # pandas types this loosely
    return best


def test_the_regression_suites_settings_are_those_that_tuning_chose() -> None:
    trials = pd.read_csv(ROOT / "reports" / "regression-local" / "tuning.csv")
    local = suite("regression", Scale.LOCAL)
    assert set(trials["seed"]) == {TUNING_SEED}
    assert (trials.groupby(["task", "optimizer"])["seed"].count() == 8).all()
    for entry in local.tasks:
        for declared in local.competitors(entry):
            best = _best(trials, entry.task, declared.optimizer, maximize=False)
            assert best == {**declared.overrides, **entry.overrides[declared.optimizer]}, entry.task


def test_the_best_fixed_rates_are_those_of_the_grid() -> None:
    """Chosen on validation data with the tuning seed, and not at an end of the grid."""
    trials = pd.read_csv(ROOT / "reports" / "lr-adaptation-local" / "tuning.csv")
    assert set(trials["seed"]) == {TUNING_SEED}
    assert TUNING_SEED not in {seed for entry in suite("lr-adaptation", Scale.LOCAL).tasks for seed in entry.seeds}
    assert set(BEST) == {entry.task for entry in suite("lr-adaptation", Scale.LOCAL).tasks} == set(trials["task"])
    for task, rates in BEST.items():
        assert set(rates) == set(trials[trials["task"] == task]["optimizer"])
        for optimizer, rate in rates.items():
            assert _best(trials, task, optimizer, maximize=True)["lr"] == rate
            assert rate not in {GRID[optimizer][0], GRID[optimizer][-1]}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "page"), [("signsgd", "add-an-optimizer"), ("moons", "add-a-task")])
def test_the_examples_work_as_installed_distributions(shell: Shell, name: str, page: str) -> None:
    folder = shell.folder / "project"
    shutil.copytree(ROOT / "examples" / name, folder)
    assert (
        len([line for line in (folder / f"{name}.py").read_text(encoding="utf-8").splitlines() if line.strip()]) <= 20
    )
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(shell.plugins), str(folder)],
        check=True,
    )
    command = next(match for match in re.findall(r"`apo-bench (run [^`]+)`", _page(page)) if name in match)
    done = shell(*command.split(), "--scale", "smoke", "--precisions", "fp32", "--seeds", "0")
    assert " runs have a result" in done.stdout
    assert name in done.stdout
    assert "failed" not in done.stdout


@pytest.mark.parametrize(
    "module",
    [
        "apo_bench.errors",
        "apo_bench.records.schedules",
        "apo_bench.cli.selection",
        "apo_bench.text",
        "apo_bench.evidence.intervals",
        "apo_bench.evidence.censored",
        "apo_bench.evidence.collapse",
        "apo_bench.evidence.estimates",
        "apo_bench.evidence.families",
    ],
)
def test_docstring_examples(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0
