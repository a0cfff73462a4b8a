"""The acceptance: its limits, its file and its verdict."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import gpu as acceptance
import pytest

PARTS = tuple(acceptance.SHARES)

SCRIPT = Path(acceptance.__file__)


@pytest.fixture
def setting(tmp_path: Path) -> Any:
    return acceptance.Setting(tmp_path, cpu=True)


def python(source: str) -> list[str]:
    return [sys.executable, "-c", source]


def stand_in(monkeypatch: pytest.MonkeyPatch, **sources: str) -> None:
    """Let every part be a program that does nothing, but for those of ``sources``."""
    monkeypatch.setattr(acceptance, "command", lambda name, _: python(sources.get(name, "print('fine')")))
    monkeypatch.setattr(acceptance, "_LOOKS", {})  # nobody demands checks of them
    summary = "print('== 3 skipped in 0.10s ==')"
    sources.setdefault("tests", summary)


def read(setting: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((setting.output / "acceptance.json").read_bytes())
    return document


def results(setting: Any) -> dict[str, str]:
    return {part["name"]: part["result"] for part in read(setting)["parts"]}


def test_the_limits_of_all_parts_are_the_limit_of_the_whole() -> None:
    left = 540.0
    for number, name in enumerate(PARTS):
        limit = acceptance.limit(name, PARTS[number + 1 :], left)
        assert limit == pytest.approx(acceptance.SHARES[name])
        left -= limit
    assert left == pytest.approx(0.0)


def test_a_part_gets_what_earlier_ones_left() -> None:
    assert acceptance.limit("records", (), 100.0) == 100.0
    assert acceptance.limit("card", ("records",), 100.0) == pytest.approx(50.0)


def test_a_part_over_its_limit_is_killed_with_its_children(tmp_path: Path) -> None:
    child = tmp_path / "child"
    source = (
        "import subprocess, sys, time; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        f"open({str(child)!r}, 'w').write(str(child.pid)); time.sleep(60)"
    )
    start = time.monotonic()
    status, over = acceptance.run_limited(python(source), tmp_path / "log", 3.0, os.environ)
    assert over
    assert status == -9
    assert time.monotonic() - start < 20.0
    assert _ends(int(child.read_text()))


def test_what_a_finished_part_leaves_behind_is_killed_too(tmp_path: Path) -> None:
    source = (
        "import subprocess, sys; "
        "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], stdout=subprocess.DEVNULL).pid)"
    )
    assert acceptance.run_limited(python(source), tmp_path / "log", 30.0, os.environ) == (0, False)
    assert _ends(int((tmp_path / "log").read_text()))


def _ends(pid: int) -> bool:
    """Whether a process is gone, or dead and not yet collected by init, within a few seconds."""
    for _ in range(50):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False


def test_all_parts_passing_is_a_pass(
    monkeypatch: pytest.MonkeyPatch, setting: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(monkeypatch)
    assert acceptance.Acceptance(setting, PARTS, 60.0).run() == 0
    written = read(setting)
    assert written["schema"] == acceptance.SCHEMA
    assert written["verdict"] == "passed"
    assert written["finished_at"] >= written["started_at"]
    assert set(results(setting).values()) == {"passed"}
    for part in written["parts"]:
        assert part["exit_status"] == 0
        assert part["seconds"] <= part["limit_seconds"]
        assert part["last_lines"]
        assert part["command"].startswith("python -c")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == list(PARTS)
    assert lines[-1].startswith("passed: 7 of 7 parts on cpu")


def test_a_hanging_part_fails_and_the_next_ones_run(monkeypatch: pytest.MonkeyPatch, setting: Any) -> None:
    stand_in(monkeypatch, probe="import time; print('measuring', flush=True); time.sleep(60)")
    monkeypatch.setitem(acceptance.SHARES, "probe", 2)
    monkeypatch.setitem(acceptance.SHARES, "records", 60)
    assert acceptance.Acceptance(setting, ("probe", "records"), 62.0).run() == 1
    assert results(setting)["probe"] == "failed"
    assert results(setting)["records"] == "passed"
    (part,) = (part for part in read(setting)["parts"] if part["name"] == "probe")
    assert part["reason"].startswith("over its limit of 2 s, and killed")
    assert part["last_lines"] == ["measuring"]
    assert read(setting)["verdict"] == "failed"


def test_a_failing_part_fails_the_whole_with_its_last_words(monkeypatch: pytest.MonkeyPatch, setting: Any) -> None:
    stand_in(monkeypatch, run="import sys; print('no memory left'); sys.exit(3)")
    assert acceptance.Acceptance(setting, PARTS, 60.0).run() == 1
    (part,) = (part for part in read(setting)["parts"] if part["result"] == "failed")
    assert (part["name"], part["reason"]) == ("run", "exit status 3: no memory left")


def test_after_every_part_the_file_says_what_is_known(monkeypatch: pytest.MonkeyPatch, setting: Any) -> None:
    """The second part reads the file as a kill at that moment would leave it."""
    copy = f"import shutil; shutil.copy({str(setting.output / 'acceptance.json')!r}, {str(setting.output / 'then')!r})"
    stand_in(monkeypatch, doctor=copy)
    acceptance.Acceptance(setting, PARTS, 60.0).run()
    then = json.loads((setting.output / "then").read_bytes())
    assert [part["result"] for part in then["parts"]] == ["passed", *["not run"] * 6]
    assert then["verdict"] == "unfinished"
    assert then["finished_at"] is None


def test_a_kill_of_the_script_kills_the_part_and_leaves_the_file(setting: Any) -> None:
    """The part in flight is the part `environment`: Python takes longer to start than to be killed."""
    arguments = [sys.executable, str(SCRIPT), "--cpu", "--output", str(setting.output), "--parts", "environment"]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    log = setting.output / "logs" / "environment.log"
    for _ in range(300):
        if log.exists():
            break
        time.sleep(0.02)
    process.terminate()
    assert process.wait(timeout=20) == 1
    assert read(setting)["verdict"] == "unfinished"
    assert not (setting.output / "findings" / "environment.json").exists()


def test_parts_that_were_not_asked_for_are_not_run(monkeypatch: pytest.MonkeyPatch, setting: Any) -> None:
    stand_in(monkeypatch)
    assert acceptance.Acceptance(setting, ("environment", "doctor"), 60.0).run() == 0
    assert read(setting)["verdict"] == "passed as far as asked for"
    (reason,) = {part["reason"] for part in read(setting)["parts"] if part["result"] == "not run"}
    assert reason == "not asked for"


@pytest.mark.parametrize("missing", ["pytest", "pytest_timeout"])
def test_without_pytest_the_tests_are_not_run_and_the_mend_is_said(
    monkeypatch: pytest.MonkeyPatch, setting: Any, missing: str
) -> None:
    stand_in(monkeypatch)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else found(name))
    assert acceptance.Acceptance(setting, ("tests",), 60.0).run() == 1
    assert results(setting)["tests"] == "not run"
    (part,) = (part for part in read(setting)["parts"] if part["name"] == "tests")
    assert "pip install pytest pytest-timeout" in part["reason"]
    assert read(setting)["verdict"] == "failed"


def test_without_an_installed_distribution_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, setting: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    assert acceptance.main(["--output", str(setting.output / "never")]) == 2
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 1
    assert "pip install -e ." in printed.err
    assert not (setting.output / "never").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parts", "run,prob"], "unknown part 'prob'"),
        (["--seconds", "0"], "--seconds must be a number above 0 (got 0)"),
    ],
)
def test_wrong_use_is_said(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        acceptance.main(arguments)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("summary", "cpu", "passed"),
    [
        ("== 119 skipped, 1547 deselected in 3.59s ==", True, True),
        ("== 2 passed, 117 skipped in 3.59s ==", True, False),
        ("== 1547 deselected in 3.59s ==", True, False),
        ("== 110 passed, 9 skipped, 1547 deselected in 99.59s (0:01:39) ==", False, True),
        ("== 119 skipped, 1547 deselected in 3.59s ==", False, False),
        ("== 1 failed, 110 passed in 99.59s ==", False, False),
        ("== 110 passed, 2 errors in 99.59s ==", False, False),
        ("Killed", False, False),
    ],
)
def test_pytests_summary_is_judged(summary: str, passed: bool, cpu: bool) -> None:  # noqa: FBT001 - a parameter of the test
    assert acceptance.tests_check(["3 passed", summary, "a warning at exit"], cpu=cpu).passed is passed


def test_findings_decide_even_where_the_exit_status_is_0() -> None:
    part = acceptance.Part("card", checks=[acceptance.Check("it hums", passed=False, value=7)], exit_status=0)
    acceptance.judge(part, over=False)
    assert (part.result, part.reason) == ("failed", "not so: it hums (7)")
    part.checks *= 3
    acceptance.judge(part, over=False)
    assert part.reason == "not so: it hums (7), and 2 more checks"
    silent = acceptance.Part("card", exit_status=0)
    acceptance.judge(silent, over=False)
    assert (silent.result, silent.reason) == ("failed", "it made no checks")


def test_folders_of_the_machine_stay_out(setting: Any) -> None:
    text = f"{sys.executable} {SCRIPT} --output {setting.output}/store {Path.home()}/.cache/apo-bench"
    assert acceptance.without_folders(text, setting) == (
        "python CHECKOUT/tests/acceptance/gpu.py --output OUTPUT/store ~/.cache/apo-bench"
    )
