"""Records full of texts that mean harm: every reading command says all there is, and nothing of it does any."""

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest
from support.hostile_records import SUITE, TEXTS, hostile_records, hostile_snapshot, hostile_store

from apo_bench.cli.main import main
from apo_bench.records.run import Role
from apo_bench.records.snapshot import encode_snapshot
from apo_bench.records.spec import Scale
from apo_bench.store.store import Store

Command = Callable[..., tuple[int, str, str]]
ABOUT = [f"{place}-{ascii(text)[1:20]}" for place, text in enumerate(TEXTS)]
_FORMULA = re.compile(r"\s*['\s]*[=+\-@\uff1d\uff0b\uff0d\uff20]")
_LIVE = re.compile(r"<[a-zA-Z/!?]|(?<!\\)\]\(|://|www\.|@|\$|(?<!\\)\{|javascript:(?!alert\()|&(?!amp;|lt;|gt;|#\d+;)")


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command in this process: its status and all that it printed, which is safe for a terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("APO_BENCH_STORE", str(tmp_path / "store"))

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(arguments)
        out, err = capsys.readouterr()
        check_terminal(out)
        check_terminal(err)
        assert "Traceback" not in err
        assert all(line.startswith("apo-bench: ") or line.endswith((".png", ".svg")) for line in err.splitlines())
        return status, out, err

    return run


def check_terminal(text: str) -> None:
    assert [character for character in text if character != "\n" and not character.isprintable()] == []
    assert not re.search("[\u115f\u1160\u3164\ufe00-\ufe0f]", text)


def check_page(page: str) -> None:
    """No markup but the page's own: its headings, its tables, its legend."""
    check_terminal(page)
    legend = page.partition("## How to read this")[2].partition("Made on:")[0]
    own = page.replace(legend, "")
    assert _LIVE.findall(own) == []
    sections = ("## Diverged runs", "## Runs without", "## Steps that", "## Tuning", "## Doubtful", "## How to")
    for line in own.splitlines():
        assert not re.match(r"#|\d+[.)] |=+$|-+$|    |```|~~~|>", line) or line.startswith(
            ("# Leaderboard: ", "# Check of ", "## ")
        )
        if line.startswith("## "):
            assert line.startswith(sections) or " on cpu" in line
    bars = [len(re.findall(r"(?<!\\)\|", line)) for line in own.splitlines() if line.startswith("|")]
    tables = [len(re.findall(r"\|", line)) for line in own.splitlines() if re.fullmatch(r"[|:-]+", line)]
    assert set(bars) == set(tables)


def check_csv(text: str, rows: int) -> None:
    header, *cells = csv.reader(io.StringIO(text))
    assert len(cells) == rows
    for row in cells:
        assert len(row) == len(header)
        for name, cell in zip(header, row, strict=True):
            if _FORMULA.match(cell) and not cell.startswith("'"):
                assert name == "value" or float(cell) < 0


@pytest.fixture
def harmless(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Holds every command to what it must not do with records that are full of some texts."""
    return lambda *texts: _check(texts, tmp_path, command, monkeypatch)


def test_no_record_does_harm(harmless: Callable[..., None]) -> None:
    harmless(*TEXTS)


@pytest.mark.parametrize("text", ["\x1b]0;title\x07\r\n\u202e", ""], ids=ascii)
def test_a_record_does_no_harm_alone(harmless: Callable[..., None], text: str) -> None:
    harmless(text)


@pytest.mark.soak
@pytest.mark.parametrize("text", TEXTS, ids=ABOUT)
def test_no_record_does_harm_alone(harmless: Callable[..., None], text: str) -> None:
    harmless(text)


def _check(texts: Sequence[str], tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    store = hostile_store(tmp_path / "store", *texts)
    scan = store.scan()
    records = scan.newest()
    assert len(records) > 5 * len(texts)  # valid, so that it is not damage that is looked at
    reported = [one for one in scan.of(SUITE, Scale.LOCAL) if one.is_result and one.role is Role.REPORTED]
    shown = {one.run_id for one in reported}

    status, page, _ = command("report", "--suite", SUITE)
    assert status == 0
    check_page(page)
    assert f"\n{len(shown)} runs have a result" in page
    with monkeypatch.context() as patched:
        patched.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        assert command("report", "--suite", SUITE)[0] == 0
    assert command("report", "--suite", SUITE, "--output", "page.md") == (0, "page.md\n", command("status")[2])
    check_page((tmp_path / "page.md").read_text(encoding="utf-8"))
    assert command("report", f"--suite={texts[0]}")[0] == 2

    status, page, _ = command("claims", "--scale", "local")
    assert status == 0
    check_terminal(page)

    status, out, _ = command("status")
    assert status == 0
    assert "waits to be continued: " in out or len(records) == 1
    status, out, _ = command("status", "--json")
    assert {row["suite"] for row in json.loads(out)["suites"]} == {one.suite for one in records.values()}

    status, out, _ = command("export")
    assert status == 0
    check_csv(out, len(records))
    status, out, _ = command("export", "--format", "jsonl")
    assert {json.loads(line)["task"] for line in out.splitlines()} == {one.spec.task for one in records.values()}
    assert command("export", "--output", "t.parquet")[0] == 0
    assert set(pd.read_parquet(tmp_path / "t.parquet")["task"]) == {one.spec.task for one in records.values()}

    assert command("check", "--save", "b.json", "--suite", SUITE)[0] == 2  # none is of this code
    (tmp_path / "b.json").write_bytes(encode_snapshot(hostile_snapshot(*texts)))
    status, out, _ = command("check", "--baseline", "b.json", "--output", "check.md")
    assert status == 1 or not out
    if out:
        check_page((tmp_path / "check.md").read_text(encoding="utf-8"))
        assert command("check", "--baseline", "b.json", "--json")[0] == 1


def test_a_text_comes_back_from_the_table(tmp_path: Path, command: Command) -> None:
    """JSON Lines and Parquet hold it as it is; of a cell of CSV, one apostrophe in front of a formula is taken away."""
    for place, text in enumerate(("=1+1", "'=1", "+x", "a,b", 'a"b', "a\nb", " - x", "a;=1", "x", "-1.5")):
        hostile_store(tmp_path / str(place), text)
        _, out, _ = command("export", "--store", str(place))
        back = {
            re.sub(r"\A'(?=['\s]*[=+\-@])", "", row["task"]) for row in csv.DictReader(io.StringIO(out, newline=""))
        }
        assert back == {text, "t"}


def test_there_are_enough_of_them() -> None:
    assert len(set(TEXTS)) == len(TEXTS) >= 42
    assert len({one.run_id for text in TEXTS for one in hostile_records(text)}) > 5 * len(TEXTS)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["\x1b]0;t\x07", "../../etc", "a" * 300, "$x$", ""], ids=ascii)
def test_figures_of_hostile_records(text: str, tmp_path: Path, command: Command) -> None:
    store = hostile_store(tmp_path / "store", text)
    figures = tmp_path / "figures"
    status, _, err = command("report", "--suite", SUITE, "--figures", str(figures))
    assert status in {0, 2}
    assert "is not usable" in err or status == 0
    made = {path.name for path in figures.rglob("*")}
    assert all(re.fullmatch(r"[a-z0-9.-]+\.(png|svg)", name) for name in made)
    assert {path for path in tmp_path.iterdir() if path.name not in {"store", "figures"}} == set()
    assert isinstance(store, Store)
