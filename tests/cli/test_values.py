"""Numbers and paths on the command line: whatever is given, it is taken, or refused in one line that says what is."""

import argparse
import errno
import os
from pathlib import Path

import pytest
from support.shell import Shell

from apo_bench.cli.main import _parser, main
from apo_bench.cli.values import WORKERS, Range
from apo_bench.errors import UsageError

RUN = ("run", "--suite", "classification")
REPORT = ("report", "--suite", "classification")
PROBE = ("probe", "--suite", "classification")
NUMBERS = [
    (RUN, "--epochs"),
    (RUN, "--workers"),
    (RUN, "--threads"),
    (RUN, "--checkpoint-every"),
    (RUN, "--gpu-tflops"),
    (PROBE, "--processes"),
    (PROBE, "--rounds"),
    (PROBE, "--threads"),
    (REPORT, "--seeds-planned"),
]
NO_NUMBERS = ["nan", "inf", "Infinity", "1e309", "1" * 5000, "10**30", "1_0", "٣", "two", "", " ", "0x10", "1e", "1,5", "1\n"]  # fmt: skip


def _line(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a usage error."""
    assert main(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.isprintable()
    assert len(line) < 900  # the names of all tasks
    return line


def test_every_option_with_a_number_is_among_those_that_are_tried() -> None:
    tried = {option for _, option in NUMBERS}
    parsers = next(action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)).choices
    declared = {
        action.option_strings[0]
        for parser in parsers.values()
        for action in parser._actions
        if action.metavar in {"N", "SECONDS"}
    }
    assert declared == tried
    plain = [action for parser in parsers.values() for action in parser._actions if action.type in {int, float, Path}]
    assert plain == []  # these say neither the range nor what was given


@pytest.mark.parametrize("text", NO_NUMBERS)
@pytest.mark.parametrize(("command", "option"), NUMBERS)
def test_what_is_no_number_in_range_is_refused(
    command: tuple[str, ...], option: str, text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    line = _line(capfd, *command, option, text)
    assert line.startswith(f"apo-bench: {option} must be ")
    assert "expected a " in line


@pytest.mark.parametrize(("command", "option"), NUMBERS)
@pytest.mark.parametrize("text", ["-1", "-0.5", str(10**30), "1e308"])
def test_a_number_out_of_range_is_refused_with_the_range(
    command: tuple[str, ...], option: str, text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert f"apo-bench: {option} must be " in _line(capfd, *command, option, text)


def test_the_range_itself_is_taken() -> None:
    assert WORKERS.read("--workers", "1") == 1
    assert WORKERS.read("--workers", "01024") == 1024
    assert type(WORKERS.read("--workers", "+7")) is int
    assert Range(0.0, 1.0).read("--x", "0") == 0.0
    assert Range(0.0, 1.0).read("--x", ".5e-3") == 0.0005
    with pytest.raises(
        UsageError, match=r"^--x must be a number above 0 \(got 0\); expected a number above 0, at most 1$"
    ):
        Range(0.0, 1.0, above=True).read("--x", "0.0")
    with pytest.raises(
        UsageError, match=r"^--workers must be at most 1024 \(got 1025\); expected a whole number from 1"
    ):
        WORKERS.read("--workers", "1025")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--tolerance", "flops=nan"), "--tolerance flops=nan: expected flops=N with N not below 0"),
        (("--tolerance", "flops=1e309"), "--tolerance flops=1e309: expected flops=N with N not below 0"),
        (("--tolerance", "flops=-1"), "expected flops=N with N not below 0, for example flops=0.05"),
        (("--tolerance", "flops"), "expected flops=N with N not below 0"),
        (("--tolerance", ""), "unknown quantity ''"),
        (("--tolerance", "flops=1,flops=2"), "--tolerance names flops twice; give it once"),
        (("--hold", ""), "unknown quantity ''"),
    ],
)
def test_tolerances_are_numbers(given: tuple[str, ...], words: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert words in _line(capfd, "check", "--baseline", "b.json", *given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--seeds", "0-9999999999"), "--seeds must be at most 10,000 seeds (got '0-9999999999'); give fewer"),
        (("--seeds", "0-10000"), "--seeds must be at most 10,000 seeds"),
        (("--seeds", ",".join(["0-9999"] * 1000)), "--seeds must be at most 10,000 seeds"),
        (("--seeds", f"0-{'9' * 10_000}"), "--seeds must be at most 9223372036854775807 each"),
        (("--seeds", str(2**63)), "--seeds must be at most 9223372036854775807 each"),
        (("--seeds", "9" * 5000), "--seeds must be at most 9223372036854775807 each"),
        (("--seeds", ""), "--seeds '' is not a list of seeds"),
        (("--seeds", "-1"), "--seeds '-1' is not a list of seeds"),
        (("--seeds", "1.5"), "is not a list of seeds"),
        (("--seeds", "٣"), "is not a list of seeds"),
        (("--seeds", "0\n1"), "--seeds '0\\n1' is not a list of seeds"),
        (("--tasks", ""), "--tasks must name at least one (got '')"),
        (("--tasks", " , "), "--tasks must name at least one (got ' , ')"),
        (("--optimizers", ""), "--optimizers must name at least one (got '')"),
        (("--precisions", ","), "--precisions must name at least one (got ',')"),
        (("--scale", ""), "unknown scale ''"),
        (("--suite", ""), "unknown suite ''"),
        (("--device", ""), "unknown device ''"),
        (("--tasks", "x" * 100_000), "unknown task 'xxx"),
        (("--optimizers", "\x1b[2J\u202e"), "unknown optimizer '\\x1b[2J\\u202e'"),
        (("--set", "sgdm.lr=1e309"), "--set sgdm.lr must be a value that a record can hold (got inf, which would come back as another, as '1e309'); use a finite number"),
        (("--set", "sgdm.lr=nan"), "--set sgdm.lr must be a value that a record can hold (got nan"),
        (("--set", "sgdm.lr=-Infinity"), "--set sgdm.lr must be a value that a record can hold (got -inf"),
        (("--set", f"sgdm.lr={10**30}"), "(got an integer of more than 64 bits, as '1000"),
        (("--set", f"sgdm.lr={'9' * 5000}"), "--set sgdm.lr must be a value that a record can hold (got inf"),
        (("--set", f"sgdm.lr={'x' * 201}"), "(got a text of 201 characters, as"),
        (("--set", "sgdm.lr=\x1b[2J"), "use characters that can be printed"),
        (("--set", "sgdm.lr=\udcff"), "use characters that can be printed"),
        (("--set", "sgdm.=1"), "invalid --set 'sgdm.=1'; expected OPTIMIZER.FIELD=VALUE"),
        (("--set", ".lr=1"), "invalid --set '.lr=1'; expected OPTIMIZER.FIELD=VALUE"),
        (("--set", ""), "invalid --set ''; expected OPTIMIZER.FIELD=VALUE"),
        (("--set", "=" * 10_000), "invalid --set '===="),
    ],
)  # fmt: skip
def test_what_selects_runs_is_refused_in_one_line(
    given: tuple[str, ...], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert words in _line(capfd, *RUN, "--scale", "smoke", *given)


def test_more_runs_than_a_command_plans_are_counted_and_not_made(capfd: pytest.CaptureFixture[str]) -> None:
    line = _line(capfd, "run", "--suite", "all", "--scale", "paper", "--seeds", "0-99,101-9999", "--optimizers", "all")
    assert "a command plans at most 100,000 runs, and this would be " in line


PATHS = [
    (("status",), "--store"),
    (("report", "--suite", "classification"), "--store"),
    (("report", "--suite", "classification"), "--output"),
    (("report", "--suite", "classification"), "--figures"),
    (("export",), "--store"),
    (("export",), "--output"),
    (("check", "--suite", "classification"), "--save"),
    (("check",), "--baseline"),
    (("check", "--baseline", "b.json"), "--output"),
    (("wandb", "push"), "--store"),
    (("doctor",), "--store"),
    (RUN, "--store"),
    (PROBE, "--store"),
]


@pytest.mark.parametrize("text", ["", " ", "a\0b", "x" * 400, "/".join(["x" * 200] * 30), "loop", "loop/x"])
@pytest.mark.parametrize(("command", "option"), PATHS)
def test_what_the_system_takes_for_no_path_is_refused(
    command: tuple[str, ...],
    option: str,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    assert f"apo-bench: {option} must be a path" in _line(capfd, *command, option, text)
    assert [path.name for path in tmp_path.iterdir()] == ["loop"]


@pytest.mark.parametrize(("command", "option"), PATHS)
def test_a_path_that_is_not_utf8_is_one_line_wherever_it_cannot_be_used(
    command: tuple[str, ...],
    option: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if command == ("doctor",):
        pytest.skip("says that there is nothing yet")
    line = _line(capfd, *command, option, "a\udcff\udc80b")
    if command in {RUN, PROBE}:
        assert "--store must be a path in UTF-8 (got '" in line
    assert list(tmp_path.iterdir()) == []


def test_a_store_whose_name_is_not_utf8_can_be_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / os.fsdecode(b"st\xffre")
    try:
        (store / "runs").mkdir(parents=True)
    except OSError as error:
        assert error.errno == errno.EILSEQ  # noqa: PT017 - a file system of UTF-8 only
        pytest.skip("the file system takes no such name")
    assert main(["status", "--store", str(store)]) == 0
    assert "st\\udcffre holds no finished run" in capfd.readouterr().out
    assert main(["export", "--store", str(store), "--output", str(store / "runs.csv")]) == 0
    assert (store / "runs.csv").is_file()


@pytest.mark.parametrize(
    ("variable", "text", "words"),
    [
        ("APO_BENCH_STORE", "x" * 400, "$APO_BENCH_STORE must be a path that the system takes (got 'xxx"),
        ("APO_BENCH_STORE", " ", "$APO_BENCH_STORE must be a path (got an empty one)"),
        ("APO_BENCH_DATA", "x" * 400, "$APO_BENCH_DATA must be a path that the system takes (got 'xxx"),
    ],
)
def test_variables_are_held_to_the_same(
    variable: str, text: str, words: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, text)
    assert words in _line(capfd, "status")


def test_an_empty_variable_is_one_that_is_not_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("APO_BENCH_STORE", "")
    (tmp_path / "runs").mkdir()
    assert "no results at apo-bench-results; run a suite first" in _line(capfd, "status")


def test_a_folder_that_is_gone_is_one_line(shell: Shell) -> None:
    gone = shell.folder / "gone"
    gone.mkdir()
    here = Path.cwd()
    os.chdir(gone)
    try:
        gone.rmdir()
        assert main(["status"]) == 2
        assert main(["list", "optimizers"]) == 0
    finally:
        os.chdir(here)
