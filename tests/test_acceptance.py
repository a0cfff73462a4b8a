"""The acceptance on a card: its limits, its file, its verdict, and that each of its checks can fail."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from test_leaderboard import record
from test_probe import MADE_ON, made_probe

from apo_bench.records.outcome import Crashed, Diverged, Reason
from apo_bench.records.probe import Omitted, ProbeRecord
from apo_bench.records.run import Cost, PrecisionBackend, PrecisionFacts, RunRecord
from apo_bench.records.spec import Device, OptimizerSpec, Precision

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu_acceptance.py"
CARD = "A Card"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_acceptance", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their module
    spec.loader.exec_module(module)
    return module


acceptance = _load()
PARTS = tuple(acceptance.SHARES)


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
    """The part in flight is the part `environment`: Python alone takes longer to start than to be killed."""
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
    [(["--parts", "run,prob"], "unknown part 'prob'"), (["--seconds", "0"], "--seconds 0 is not possible")],
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
def test_pytests_summary_is_judged(summary: str, passed: bool, cpu: bool) -> None:  # noqa: FBT001
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
        "python CHECKOUT/benchmarks/gpu_acceptance.py --output OUTPUT/store ~/.cache/apo-bench"
    )


GOOD_COST = Cost(
    steps=140,
    skipped_steps=0,
    train_seconds=2.0,
    eval_seconds=0.5,
    step_ms=10.0,
    peak_memory_bytes=100,
    peak_reserved_bytes=200,
    state_bytes=50,
    phases={"forward": 0.5, "backward": 1.0, "update": 0.4},
    flops_per_step=1e6,
    energy_joules=120.0,
    clock_mhz=(1400, 1700),
)


def made_run(*, cost: Cost | None = GOOD_COST, **fields: Any) -> RunRecord:
    """A record as a card should leave it, but for ``fields``."""
    run = record("sgdm", 0, 80.0, precision=Precision.FP16)
    run = msgspec.structs.replace(
        run.under(spec=msgspec.structs.replace(run.spec, device=Device.CUDA)),
        environment=msgspec.structs.replace(MADE_ON, device_name=CARD),
        cost=cost,
    )
    return msgspec.structs.replace(run, **fields)


def wrong(*runs: RunRecord | None, device: str = "cuda") -> list[str]:
    """Names of the checks that some runs do not pass."""
    made = {f"run {number}": run for number, run in enumerate(runs)}
    checks = acceptance.run_checks(made, device=device, device_name=CARD)
    json.dumps([check.value for check in checks])
    return [check.name for check in checks if not check.passed]


def cost(**fields: Any) -> RunRecord:
    return made_run(cost=msgspec.structs.replace(GOOD_COST, **fields))


def test_runs_as_they_should_be_pass() -> None:
    assert wrong(made_run(), made_run()) == []


@pytest.mark.parametrize(
    ("run", "check"),
    [
        (None, "every planned run has a result"),
        (made_run(outcome=Crashed(message="killed")), "every planned run has a result"),
        (made_run(outcome=Diverged(step=3, reason=Reason.TRAINING_LOSS)), "no run diverged"),
        (made_run().under(spec=record("sgdm", 0, 80.0).spec), "runs were made on cuda, on this machine's"),
        (made_run(environment=MADE_ON), "runs were made on cuda, on this machine's"),
        (made_run(environment=None), "runs were made on cuda, on this machine's"),
        (
            made_run(precision=PrecisionFacts(backend=PrecisionBackend.EMULATED, kept_fp32=())),
            "arithmetic is native",
        ),
        (made_run(precision=None), "arithmetic is native"),
        (cost(peak_memory_bytes=None), "peak memory is known"),
        (cost(peak_memory_bytes=0), "peak memory is known"),
        (cost(peak_reserved_bytes=None), "peak memory is known"),
        (cost(peak_reserved_bytes=99), "peak memory is known"),
        (cost(state_bytes=0), "optimizers hold state"),
        (cost(flops_per_step=None), "a step's FLOPs are counted"),
        (cost(phases={}), "phases are there, and within the training clock"),
        (cost(phases={"forward": 0.1, "backward": 0.1}), "phases are there, and within the training clock"),
        (
            cost(phases={"forward": 1.0, "backward": 1.0, "update": 0.1}),
            "phases are there, and within the training clock",
        ),
        (cost(clock_mhz=None), "clocks of the card are known"),
        (cost(energy_joules=None), "runs of 0.5 s or more used energy"),
    ],
)
def test_each_check_of_runs_can_fail(run: RunRecord | None, check: str) -> None:
    assert wrong(made_run(), run) == [check]


def test_a_diverged_run_and_a_missing_one_are_named() -> None:
    diverged = made_run(outcome=Diverged(step=3, reason=Reason.TRAINING_LOSS))
    checks = acceptance.run_checks({"a": diverged, "b": None}, device="cuda", device_name=CARD)
    by_name = {check.name: check.value["wrong"] for check in checks}
    assert by_name["no run diverged"] == {diverged.spec.title: "training loss is not finite"}
    assert by_name["every planned run has a result"] == ["b: no record"]


def test_a_short_or_continued_run_need_not_have_energy_but_not_all_may_lack_it() -> None:
    short = cost(energy_joules=None, train_seconds=0.1, eval_seconds=0.1, phases=dict.fromkeys(GOOD_COST.phases, 0.03))
    continued = msgspec.structs.replace(cost(energy_joules=None), continued=1)
    assert wrong(made_run(), short, continued) == []
    assert wrong(short, continued) == ["runs of 0.5 s or more used energy"]


def test_no_runs_pass_nothing() -> None:
    every = [check.name for check in acceptance.run_checks({}, device="cuda", device_name=CARD)]
    assert wrong() == every


def of_a_cpu(precision: Precision, backend: PrecisionBackend, **fields: Any) -> RunRecord:
    run = record("sgdm", 0, 80.0, precision=precision, backend=backend)
    known = msgspec.structs.replace(GOOD_COST, peak_reserved_bytes=None, energy_joules=None, clock_mhz=None)
    environment = msgspec.structs.replace(MADE_ON, device_name=CARD)
    return msgspec.structs.replace(run, environment=environment, cost=msgspec.structs.replace(known, **fields))


def test_on_a_cpu_fp16_is_emulated_and_nothing_of_a_card_is_asked() -> None:
    single = of_a_cpu(Precision.FP32, PrecisionBackend.NATIVE)
    half = of_a_cpu(Precision.FP16, PrecisionBackend.EMULATED)
    assert wrong(single, half, device="cpu") == []
    native = of_a_cpu(Precision.FP16, PrecisionBackend.NATIVE)
    assert wrong(single, native, device="cpu") == ["fp16 is emulated, as expected on a CPU"]
    emulated = of_a_cpu(Precision.FP32, PrecisionBackend.EMULATED)
    assert wrong(emulated, half, device="cpu") == ["fp32 is native"]
    reserved = of_a_cpu(Precision.FP32, PrecisionBackend.NATIVE, peak_reserved_bytes=7)
    assert wrong(reserved, half, device="cpu") == ["peak memory is known"]


def probed(*names: str, processes: int = 3) -> ProbeRecord:
    """A probe on the card."""
    times = [[1.0 + 0.01 * process, 1.0] for process in range(processes)]
    probe = made_probe({name: {"plain": (1.0, times)} for name in names})
    return msgspec.structs.replace(
        probe,
        spec=msgspec.structs.replace(probe.spec, device=Device.CUDA),
        environment=msgspec.structs.replace(MADE_ON, device_name=CARD),
    )


ALL_PROBED = probed(*acceptance.OPTIMIZERS)


@pytest.mark.parametrize(
    ("probes", "passed"),
    [
        ([ALL_PROBED], True),
        ([probed("sgdm", "adam"), ALL_PROBED], True),
        ([ALL_PROBED, probed("sgdm", "adam")], False),  # the newest counts
        ([], False),
        ([probed(*acceptance.OPTIMIZERS[:3])], False),
        ([probed(*acceptance.OPTIMIZERS, processes=1)], False),  # no interval
        ([msgspec.structs.replace(ALL_PROBED, environment=MADE_ON)], False),  # another card
        ([made_probe({name: {"plain": (1.0, [[1.0]] * 3)} for name in acceptance.OPTIMIZERS})], False),  # a CPU
        ([msgspec.structs.replace(ALL_PROBED, competitors=ALL_PROBED.competitors[1:])], False),  # no reference
    ],
)
def test_a_probe_must_have_all_optimizers_with_intervals(probes: list[ProbeRecord], passed: bool) -> None:  # noqa: FBT001
    (check,) = acceptance.probe_checks(probes, [("t", "fp32")], device="cuda", device_name=CARD)
    assert check.passed is passed
    json.dumps(check.value)


def test_every_cell_needs_a_probe_of_its_own() -> None:
    checks = acceptance.probe_checks([ALL_PROBED], [("t", "fp32"), ("t", "fp16")], device="cuda", device_name=CARD)
    assert [check.passed for check in checks] == [True, False]


def test_a_probe_tells_whom_it_left_out() -> None:
    left = Omitted(optimizer=OptimizerSpec(name="kfac", hyperparameters={}), message="no memory")
    values = acceptance.probe_values(msgspec.structs.replace(ALL_PROBED, omitted=(left,)))
    assert values["omitted"] == {"kfac": "no memory"}
    assert set(values["competitors"]) == set(acceptance.OPTIMIZERS)


def readings(part: str = "", **changed: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "driver": "570.1",
        "idle": {"clock_mhz": 300},
        "busy": {"mean_watts": 250.0, "clock_mhz": (1700, 1700), "process_memory_bytes": 900},
        "allocator": {"peak_bytes": 200, "reserved_bytes": 400},
    }
    if part:
        values[part] |= changed
    return values | ({} if part else changed)


@pytest.mark.parametrize(
    ("values", "check"),
    [
        (readings(), None),
        (readings("busy", process_memory_bytes=None), None),  # hidden, as in a container
        (readings(driver=None), "the driver says its version"),
        (readings("busy", mean_watts=None), "work uses energy, at 1 W to 5 kW"),
        (readings("busy", mean_watts=0.1), "work uses energy, at 1 W to 5 kW"),
        (readings("busy", mean_watts=250_000.0), "work uses energy, at 1 W to 5 kW"),
        (readings("idle", clock_mhz=None), "the idle card has a clock"),
        (readings("busy", clock_mhz=None), "the busy card has a clock"),
        (readings("allocator", peak_bytes=500), "the allocator reserves what it gives"),
        (
            readings("busy", process_memory_bytes=399),
            "the driver counts at least what the allocator reserved, or hides the process",
        ),
    ],
)
def test_each_check_of_the_card_can_fail(values: dict[str, Any], check: str | None) -> None:
    found = [found.name for found in acceptance.card_checks(values) if not found.passed]
    assert found == ([] if check is None else [check])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_script_passes_on_a_cpu_without_wandb(tmp_path: Path) -> None:
    """An interpreter whose `wandb` cannot be imported, in every process, stands for an installation without it."""
    stub = tmp_path / "stub"
    stub.mkdir()
    (stub / "sitecustomize.py").write_text("import sys\nsys.modules['wandb'] = None\n", encoding="utf-8")
    output = tmp_path / "output"
    kept = {key: value for key, value in os.environ.items() if not key.startswith("APO_BENCH")}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--cpu", "--output", str(output), "--seconds", "800"],
        env=kept | {"PYTHONPATH": str(stub)},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    text = (output / "acceptance.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    document = json.loads(text)
    assert document["verdict"] == "passed"
    assert document["environment"]["torch"]
    parts = {part["name"]: part for part in document["parts"]}
    assert list(parts) == list(PARTS)
    assert any(line.startswith("absent   wandb") for line in parts["doctor"]["last_lines"])
    assert parts["tests"]["reason"] == "all tests of a card are skipped, as expected without one"
    assert len(parts["records"]["values"]["runs"]) == 8
    assert {run["backend"] for run in parts["records"]["values"]["runs"]} == {"native", "emulated"}
    (probe,) = parts["records"]["values"]["probes"]
    assert set(probe["competitors"]) == set(acceptance.OPTIMIZERS)
    assert parts["card"]["values"]["busy"]["energy_joules"] is None
