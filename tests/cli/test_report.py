"""`apo-bench report`: a page and its figures."""

import pytest
from support.commands import TINY
from support.shell import Shell


def test_report_to_a_file(tiny_shell: Shell) -> None:
    tiny_shell(*TINY, "--optimizers", "sgd", "--precisions", "fp32")
    tiny_shell("report", "--suite", "classification", "--output", "page.md")
    assert (tiny_shell.folder / "page.md").read_text(encoding="utf-8").startswith("# Leaderboard")
    done = tiny_shell("report", "--suite", "classification", "--output", "none/page.md", status=2)
    assert "cannot write none/page.md" in done.stderr
    wrong = tiny_shell("report", "--suite", "classification", "--scale", "local", status=2)
    assert "there are: smoke" in wrong.stderr


@pytest.mark.slow
def test_report_writes_figures(tiny_shell: Shell) -> None:
    common = ("run", "--suite", "classification", "--scale", "smoke", "--tasks", "tiny", "--precisions", "fp32")
    tiny_shell(*common, "--epochs", "2", "--optimizers", "sgdm,apo-lr-sgdm")
    report = ("report", "--suite", "classification", "--figures", "new/figures")
    page = tiny_shell(*report)
    folder = tiny_shell.folder / "new" / "figures"
    stem = "classification-smoke-tiny"
    expected = sorted(f"{stem}{kind}.{ending}" for kind in ("", "-learning-rates") for ending in ("png", "svg"))
    assert sorted(path.name for path in folder.iterdir()) == expected
    assert all(path.stat().st_size > 1000 for path in folder.iterdir())
    assert page.stdout.startswith("# Leaderboard")
    assert len(page.stderr.splitlines()) == 4
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    tiny_shell(*report)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (tiny_shell.folder / "file").write_text("", encoding="utf-8")
    wrong = tiny_shell("report", "--suite", "classification", "--figures", "file/x", status=2)
    assert "name another folder with --figures" in wrong.stderr
