"""A store that vanishes in the middle, and a plugin that changes the folder: nothing is written elsewhere, nothing hangs."""

import shutil
from pathlib import Path

import pytest
from support.commands import PLUG, TINY, records_in, store_of, wait_for
from support.shell import Shell, optimizer_plugin

RUN = (*TINY, "--precisions", "fp32", "--seeds", "0-2", "--optimizers", "plug", "--store", "apo-bench-results")


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).parts[0] for path in folder.rglob("*")}


@pytest.mark.slow
def test_a_store_that_vanishes_is_one_line_and_no_other_is_made(tiny_shell: Shell) -> None:
    tiny_shell.install("plug", optimizer_plugin(["time.sleep(0.05)"]), PLUG)
    running = tiny_shell.start(*RUN)
    store = store_of(tiny_shell)
    wait_for(lambda: list(store.glob("active/*/events.jsonl")))
    while store.is_dir():  # a run may make a file meanwhile
        shutil.rmtree(store, ignore_errors=True)
    output, _ = running.communicate(timeout=60)
    assert running.returncode in {1, 2}
    assert "Traceback" not in output
    assert f"{store}" in output
    assert "vanished" in output
    assert not list(tiny_shell.folder.rglob("record.json"))
    assert _files(tiny_shell.folder) <= {"site", "data", "apo-bench-results"}


@pytest.mark.slow
@pytest.mark.parametrize("place", ["on import", "while training"])
def test_a_relative_store_stays_where_it_is(tiny_shell: Shell, place: str) -> None:
    other = tiny_shell.folder / "other"
    other.mkdir()
    change = f"os.chdir({str(other)!r})"
    source = optimizer_plugin([change] if place == "while training" else ["pass"])
    tiny_shell.install("plug", source if place == "while training" else f"import os\n{change}\n{source}", PLUG)
    tiny_shell(*RUN)
    assert [record["outcome"]["type"] for record in records_in(tiny_shell)] == ["exhausted"] * 3
    tiny_shell("check", "--save", "held.json", "--suite", "classification")
    tiny_shell("check", "--baseline", "held.json", "--output", "page.md")
    assert (tiny_shell.folder / "page.md").is_file()
    assert list(other.iterdir()) == []
