"""One place prints, and what it prints is safe for the terminal that shows it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from apo_bench import say
from apo_bench.cli.main import main
from apo_bench.text import laid_out, printable

PACKAGE = Path(__file__).parent.parent / "apo_bench"
ODD = "\x1b]0;title\x07 \x1b[2J \u202eabc\u2066 \u200b\ufeff \r\n \t\x00 \x9b \U000e0041 \ufe0f \u2028 \udcff"


def _printing(path: Path) -> Iterator[str]:
    """Calls of `print`, and uses of the streams of a process."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        place = f"{path.relative_to(PACKAGE.parent)}:{getattr(node, 'lineno', 0)}"
        match node:
            case ast.Call(func=ast.Name(id="print")):
                yield f"{place} prints"
            case ast.Attribute(attr="write" | "writelines", value=ast.Attribute(attr="stdout" | "stderr")):
                yield f"{place} writes to a stream"


def test_nothing_else_prints() -> None:
    found = [line for path in sorted(PACKAGE.rglob("*.py")) if path.name != "say.py" for line in _printing(path)]
    assert found == []
    assert list(_printing(PACKAGE / "say.py"))


def _is_safe(text: str) -> bool:
    return all(character in "\n " or (character.isprintable() and character != "\ufe0f") for character in text)


def test_what_a_terminal_obeys_is_escaped_and_all_else_stays() -> None:
    assert printable(ODD).isprintable()
    assert printable(ODD) == (
        r"\x1b]0;title\x07 \x1b[2J \u202eabc\u2066 \u200b\ufeff \r\n \t\x00 \x9b \U000e0041 \ufe0f \u2028 \udcff"
    )
    for plain in ("cifar10.lenet", "η = 0.1 ± 2 → 3 ‖x‖ “a” …", "naïve 日本語 😀", "C:\\temp"):
        assert printable(plain) == plain
    assert laid_out("a\nb\x1b") == "a\nb\\x1b"


@pytest.mark.parametrize("out", [say.say, say.note, say.warn])
def test_a_line_stays_one_line(capsys: pytest.CaptureFixture[str], out: say.Line) -> None:
    out(ODD)
    said = "".join(capsys.readouterr())
    assert said.count("\n") == 1
    assert said.endswith("\n")
    assert _is_safe(said)


@pytest.mark.parametrize(
    "arguments",
    [
        [ODD],
        ["report", "--suite", ODD],
        ["report", "--suite", "classification", "--store", ODD.replace("\x00", "")],
        ["list", ODD],
        ["wandb", ODD],
        ["run", "--suite", "classification", "--workers", ODD],
        ["check", "--baseline", ODD.replace("\x00", ""), f"--{ODD}"],
        ["data", "verify", ODD],
        ["export", "--format", ODD],
    ],
)
def test_what_the_command_line_says_of_its_arguments_is_safe(
    capsys: pytest.CaptureFixture[str], arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        status = main(arguments)
    except SystemExit as error:  # as argparse ends
        status = int(str(error.code))
    out, err = capsys.readouterr()
    assert status == 2
    assert out == ""
    assert len(err.splitlines()) == 1
    assert _is_safe(err)


def test_help_that_names_a_variable_of_the_environment_is_safe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APO_BENCH_STORE", "a\x1b[2Jb\u202e")
    with pytest.raises(SystemExit):
        main(["report", "--help"])
    assert _is_safe(capsys.readouterr().out)
