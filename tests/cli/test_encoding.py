"""What a command says arrives in every encoding, and where a folder's name is long."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import PLUG, TINY, records_in
from support.shell import COMMAND, Shell, optimizer_plugin

from apo_bench.cli.encoding import print_in_any_encoding


@pytest.mark.parametrize(
    ("encoding", "written"),
    [
        ("latin-1", "a - b ± 2 -> \\u03b7 \\udcff"),
        ("ascii", "a - b +/- 2 -> \\u03b7 \\udcff"),
        ("utf-8", "a – b ± 2 → η \\udcff"),
    ],
)
def test_what_an_encoding_lacks_is_written_in_ascii(
    monkeypatch: pytest.MonkeyPatch, encoding: str, written: str
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    print_in_any_encoding()
    stream.write("a – b ± 2 → η \udcff")  # the last as of a file's name that is no text
    stream.flush()
    assert stream.buffer.getvalue().decode(encoding) == written


class Elsewhere(Shell):
    """A shell with variables of its own."""

    variables: dict[str, str] = {}  # noqa: RUF012 - replaced, never changed

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | self.variables


@pytest.fixture
def elsewhere(tiny_shell: Shell) -> Elsewhere:
    tiny_shell.__class__ = Elsewhere
    assert isinstance(tiny_shell, Elsewhere)
    return tiny_shell


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_suite_runs_and_prints_in_any_encoding(elsewhere: Elsewhere, encoding: str) -> None:
    """Also what a plugin prints into the log of its run."""
    elsewhere.install("plug", optimizer_plugin(["print('η')"]), PLUG)
    elsewhere.variables = {"PYTHONIOENCODING": encoding}
    done = subprocess.run(
        [COMMAND, *TINY, "--optimizers", "plug", "--precisions", "fp32"],
        cwd=elsewhere.folder,
        env=elsewhere.environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"vs. sgdm" in done.stdout
    (record,) = records_in(elsewhere)
    assert record["outcome"]["type"] == "exhausted"
    (log,) = elsewhere.folder.rglob("output.log")
    assert "η" in log.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_temporary_folder_whose_path_is_longer_than_a_socket_s_is_no_obstacle(elsewhere: Elsewhere) -> None:
    deep = elsewhere.folder / ("x" * 100) / ("y" * 100)
    deep.mkdir(parents=True)
    elsewhere.variables = {"TMPDIR": str(deep)}
    elsewhere(*TINY, "--optimizers", "sgd", "--precisions", "fp32")
    assert len(records_in(elsewhere)) == 1


def test_no_short_folder_for_a_socket_is_one_line(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    code = (
        "from apo_bench.execution import process; process._SHORT_FOLDERS = ('/none',)\n"
        "try: process.start_fork_server()\n"
        "except process.UsageError as error: print(error)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"TMPDIR": str(deep)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == (
        f"the path of TMPDIR ({deep}) is too long for a socket; set TMPDIR to a folder of at most 70 bytes\n"
    )
