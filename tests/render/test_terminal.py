"""Tables and paragraphs for a terminal: they fit 80 columns, and no number or name is broken."""

import pytest
from support.records import FACTS, record

from apo_bench.evidence.leaderboard import leaderboard
from apo_bench.records.spec import Scale
from apo_bench.render.leaderboard import leaderboard_text
from apo_bench.render.terminal import paragraph, terminal_table, width


@pytest.mark.parametrize(("columns", "expected"), [("80", 80), ("20", 40), ("400", 120)])
def test_the_width_is_the_terminals_within_reason(monkeypatch: pytest.MonkeyPatch, columns: str, expected: int) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert width() == expected


def test_only_the_wrapped_column_goes_on_below_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    table = terminal_table(
        ["runs", "what"], [["12", "a task with a long description, seeds 0,1,2\n  more"]], "><", wrapped=1
    )
    assert table.splitlines() == [
        "runs  what",
        "----  -------------------------------",
        "  12  a task with a long description,",
        "      seeds 0,1,2",
        "        more",
    ]


def test_a_table_that_fits_is_no_wider_than_its_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert terminal_table(["a", "n"], [["x", "10"], ["yy", "1"]], "<>").splitlines() == [
        "a    n",
        "--  --",
        "x   10",
        "yy   1",
    ]


def test_columns_stand_below_each_other_whatever_the_letters() -> None:
    table = terminal_table(["a", "n"], [["日本", "1"], ["e\u0301", "22"], ["x\ny", "3"]], "<>")
    assert table.splitlines() == ["a      n", "----  --", "日本   1", "e\u0301     22", "x\\ny   3"]


def test_a_name_is_never_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    name = "libreoffice-de-en-2k.transformer-small"
    assert name in paragraph(f"the task {name} and what it is", "  ", hang="  ").split()


def test_a_leaderboard_of_long_names_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    records = [
        record(name, seed, 80.0 + seed, task="libreoffice-de-en-2k.transformer-small", facts=FACTS)
        for name in ("sgdm", "schedule-free-adamw", "apo-lr-rmsprop")
        for seed in range(3)
    ]
    text = leaderboard_text(leaderboard("s", Scale.LOCAL, records))
    assert max(map(len, text.splitlines())) <= 80
    assert "schedule-free-adamw" in text
