"""The command line as a user meets it: every error is one line with its mend, and nothing is lost."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from shell import Shell, optimizer_plugin

TINY = ("run", "--suite", "classification", "--scale", "smoke", "--tasks", "tiny", "--epochs", "2")
PLUG = "[apo_bench.optimizers]\nplug = plug:plug\n"


def _store(shell: Shell) -> Path:
    return shell.folder / "apo-bench-results"


def _records(shell: Shell) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in sorted(_store(shell).glob("runs/*/record.json"))]


def test_a_run_ends_with_a_leaderboard_and_the_same_command_reuses_it(tiny_shell: Shell) -> None:
    first = tiny_shell(*TINY)
    assert "8 of 8 runs to be made" in first.stdout
    assert "8 of 8 runs have a result" in first.stdout
    assert first.stdout.count(" after 2 epochs, ") == 8  # the last point of each curve was seen
    assert len(_records(tiny_shell)) == 8
    page = (_store(tiny_shell) / "leaderboards" / "classification-smoke.md").read_text(encoding="utf-8")
    assert "| sgdm" in page
    assert "fp16 (emulated)" in page

    second = tiny_shell(*TINY)
    assert "0 of 8 runs to be made" in second.stdout
    assert len(_records(tiny_shell)) == 8
    report = tiny_shell("report", "--suite", "classification").stdout
    assert report.strip() == page.replace("8 of 8 runs", "8 runs").strip()


def test_more_seeds_run_only_what_is_missing(tiny_shell: Shell) -> None:
    tiny_shell(*TINY, "--optimizers", "sgdm", "--precisions", "fp32")
    more = tiny_shell(*TINY, "--optimizers", "sgdm", "--precisions", "fp32", "--seeds", "0-2")
    assert "2 of 3 runs to be made" in more.stdout
    assert "±" in more.stdout


def test_settings_from_the_command_line_are_rows_of_their_own(tiny_shell: Shell) -> None:
    one = (*TINY, "--optimizers", "sgdm", "--precisions", "fp32")
    tiny_shell(*one, "--set", "sgdm.lr=0.1")
    tiny_shell(*one, "--set", "sgdm.lr=1", "--set", "sgdm.weight_decay=0.001")
    assert [record["intent"]["spec"]["optimizer"]["hyperparameters"]["lr"] for record in _records(tiny_shell)].count(
        1.0
    ) == 1
    page = tiny_shell("report", "--suite", "classification").stdout
    assert "sgdm (lr=0.1, weight\\_decay=0.0005)" in page
    assert "sgdm (lr=1.0, weight\\_decay=0.001)" in page


def test_a_plan_runs_nothing_and_makes_no_store(tiny_shell: Shell) -> None:
    done = tiny_shell(*TINY, "--plan")
    assert "8 of 8 runs to be made" in done.stdout
    assert not _store(tiny_shell).exists()


def test_an_edited_plugin_runs_anew_and_says_why(tiny_shell: Shell) -> None:
    module = tiny_shell.install("plug", optimizer_plugin(["pass"]), PLUG)
    command = (*TINY, "--optimizers", "plug,sgdm", "--precisions", "fp32")
    tiny_shell(*command)
    module.write_text(module.read_text(encoding="utf-8") + "EDITED = 1\n", encoding="utf-8")
    again = tiny_shell(*command)
    assert "1 of 2 runs to be made" in again.stdout
    assert "running plug on tiny anew, for these changed: optimizer" in again.stdout
    assert len(_records(tiny_shell)) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--suite", "clasification"], "unknown suite 'clasification'; did you mean 'classification'?"),
        (["run", "--suite", "classification", "--optimizers", "adamm"], "unknown optimizer 'adamm'; did you mean 'adam'?"),
        (
            ["run", "--suite", "classification", "--tasks", "fashion-mnist-20k.lnet"],
            "unknown task 'fashion-mnist-20k.lnet'; did you mean 'fashion-mnist-20k.lenet'?",
        ),
        (["run", "--suite", "classification", "--precisions", "pf16"], "unknown precision 'pf16'; did you mean 'fp16'?"),
        (["run", "--suite", "classification", "--device", "cudda"], "unknown device 'cudda'; did you mean 'cuda'?"),
        (["run", "--suite", "classification", "--scale", "locl"], "unknown scale 'locl'; did you mean 'local'?"),
        (["run", "--suite", "classification", "--seeds", "0,x"], "--seeds '0,x' is not a list of seeds; write for example 0,1,2 or 0-4"),
        (["run", "--suite", "classification", "--seeds", "3-1"], "--seeds '3-1' is not a list of seeds"),
        (["run", "--suite", "classification", "--set", "sgdm.lr"], "invalid --set 'sgdm.lr'; expected OPTIMIZER.FIELD=VALUE, for example sgdm.lr=0.1"),
        (["run", "--suite", "classification", "--set", "sdgm.lr=1"], "unknown optimizer in --set 'sdgm'; did you mean 'sgdm'?"),
        (["run", "--suite", "classification", "--epochs", "0"], "--epochs 0 is not possible; give a number above 0"),
        (["run", "--suite", "classification", "--epochs", "nan"], "--epochs nan is not possible"),
        (["run", "--suite", "classification", "--workers", "0"], "--workers 0 is not possible; give 1 or more"),
        (["run", "--suite", "classification", "--tasks", "tiny"], "task 'tiny' is not part of suite 'classification'; give it a budget with --epochs"),
        (["run", "--suite", "classification", "--store", "file/x"], "cannot write to file/x (Not a directory); name another folder with --store"),
        (["report", "--suite", "classification"], "no results at apo-bench-results; run a suite first"),
        (["list", "task"], "cannot list 'task'; did you mean 'tasks'?"),
        (["lst"], "invalid choice: 'lst'"),
        (["run"], "the following arguments are required: --suite; see apo-bench run --help"),
        (["run", "--suite", "classification", "--workers", "two"], "invalid int value: 'two'"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_line_with_the_mend(tiny_shell: Shell, arguments: list[str], message: str) -> None:
    (tiny_shell.folder / "file").write_text("", encoding="utf-8")
    done = tiny_shell(*arguments, status=2)
    assert done.stdout == ""
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_cuda_that_is_not_there_is_one_line(tiny_shell: Shell) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    done = tiny_shell(*TINY, "--device", "cuda", status=2)
    assert done.stderr == ("apo-bench: device 'cuda' is not available: torch finds no CUDA device; use --device cpu\n")


def test_a_plugin_that_fails_to_import_is_one_line_and_hurts_no_other(tiny_shell: Shell) -> None:
    tiny_shell.install("plug", "raise RuntimeError('boom')\n", PLUG)
    assert "plug" in tiny_shell("list", "optimizers").stdout
    done = tiny_shell(*TINY, "--optimizers", "plug", status=2)
    assert done.stderr == (
        "apo-bench: 'plug' from plug 1.0 fails to import (RuntimeError: boom); mend or uninstall that distribution\n"
    )
    tiny_shell(*TINY, "--optimizers", "sgd", "--precisions", "fp32")


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (["raise ValueError('no such luck')"], "crashed", "ValueError: no such luck"),
        (["os.kill(os.getpid(), signal.SIGSEGV)"], "crashed", "the run's process was killed by SIGSEGV"),
        (["os._exit(3)"], "crashed", "the run's process ended with exit status 3"),
        (["raise torch.OutOfMemoryError('CUDA out of memory')"], "out-of-memory", "CUDA out of memory"),
        (["torch.empty(2**50)"], "out-of-memory", "can't allocate memory"),
    ],
)
def test_a_run_that_dies_gets_a_typed_outcome_and_the_rest_goes_on(
    tiny_shell: Shell, body: list[str], kind: str, message: str
) -> None:
    tiny_shell.install("plug", optimizer_plugin([f"if self.steps == 20: {line}" for line in body]), PLUG)
    done = tiny_shell(*TINY, "--optimizers", "plug,sgd", "--precisions", "fp32", status=1)
    outcomes = {record["intent"]["spec"]["optimizer"]["name"]: record["outcome"] for record in _records(tiny_shell)}
    assert outcomes["plug"]["type"] == kind
    assert message in outcomes["plug"]["message"]
    assert outcomes["sgd"]["type"] == "exhausted"
    assert "1 of 2 runs have a result; 1 failed." in done.stdout
    assert "the same command tries them again" in done.stderr
    assert (
        "1 of 2 runs to be made"
        in tiny_shell(*TINY, "--optimizers", "plug,sgd", "--precisions", "fp32", "--plan").stdout
    )


def test_divergence_is_a_result(tiny_shell: Shell) -> None:
    tiny_shell.install("plug", optimizer_plugin(["if self.steps == 20: self.scale_learning_rate(1e30)"]), PLUG)
    done = tiny_shell(*TINY, "--optimizers", "plug,sgdm", "--precisions", "fp32")
    assert "diverged 1 of 1" in done.stdout
    assert "0 of 2 runs to be made" in tiny_shell(*TINY, "--optimizers", "plug,sgdm", "--precisions", "fp32").stdout


def test_a_damaged_record_is_reported_and_made_anew(tiny_shell: Shell) -> None:
    command = (*TINY, "--optimizers", "sgd", "--precisions", "fp32")
    tiny_shell(*command)
    (path,) = _store(tiny_shell).glob("runs/*/record.json")
    path.write_bytes(path.read_bytes()[:50])
    done = tiny_shell(*command)
    assert "damaged record set aside" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "1 of 1 runs to be made" in done.stdout
    assert len(_records(tiny_shell)) == 1


def _wait_for(condition: object, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():  # type: ignore[operator]
            return
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def _active(shell: Shell) -> list[Path]:
    return list(_store(shell).glob("active/*/events.jsonl"))


SLOW_STEPS = ["time.sleep(0.05)"]


@pytest.mark.slow
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_command_loses_only_the_run_in_flight(tiny_shell: Shell, kill: signal.Signals) -> None:
    tiny_shell.install("plug", optimizer_plugin(SLOW_STEPS), PLUG)
    command = (*TINY, "--optimizers", "plug", "--precisions", "fp32", "--seeds", "0-2")
    process = tiny_shell.start(*command)
    _wait_for(lambda: len(_records(tiny_shell)) == 1 and _active(tiny_shell))
    process.send_signal(kill)
    process.communicate(timeout=30)
    assert len(_records(tiny_shell)) == 1
    done = tiny_shell(*command)
    assert "2 of 3 runs to be made" in done.stdout
    assert len(_records(tiny_shell)) == 3
    assert not list((_store(tiny_shell) / "active").iterdir())


@pytest.mark.slow
def test_a_long_run_killed_in_the_middle_continues_and_its_curve_is_the_undisturbed_one(tiny_shell: Shell) -> None:
    tiny_shell.install("plug", optimizer_plugin(["time.sleep(0.02)"]), PLUG)
    command = (*TINY, "--optimizers", "plug", "--precisions", "fp32", "--epochs", "6", "--checkpoint-every", "0")
    tiny_shell(*command, "--store", "undisturbed")
    process = tiny_shell.start(*command)
    _wait_for(lambda: any(b'"step":48' in path.read_bytes() for path in _active(tiny_shell)))
    process.kill()
    process.communicate(timeout=30)
    time.sleep(0.5)  # the run's process notices
    waiting = json.loads(tiny_shell("status", "--json").stdout)["active"]
    assert [run["running"] for run in waiting] == [False]
    assert waiting[0]["step"] >= 48
    tiny_shell(*command)
    (continued,) = _records(tiny_shell)
    (undisturbed,) = (
        json.loads(path.read_bytes()) for path in tiny_shell.folder.glob("undisturbed/runs/*/record.json")
    )
    assert continued["continued"] == 1

    def numbers(record: dict[str, Any]) -> list[tuple[float, ...]]:
        return [(point["step"], point["train_loss"], point["validation"]) for point in record["curve"]]

    assert numbers(continued) == numbers(undisturbed)
    assert continued["scores"] == undisturbed["scores"]
    assert not list((_store(tiny_shell) / "active").iterdir())


def test_ctrl_c_drains(tiny_shell: Shell) -> None:
    tiny_shell.install("plug", optimizer_plugin(SLOW_STEPS), PLUG)
    command = (*TINY, "--optimizers", "plug", "--precisions", "fp32", "--seeds", "0-2")
    process = tiny_shell.start(*command)
    _wait_for(lambda: _active(tiny_shell))
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole group
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "stopping after the 1 runs in flight" in output
    assert "1 of 3 runs have a result" in output
    assert [record["outcome"]["type"] for record in _records(tiny_shell)] == ["exhausted"]


def test_ctrl_c_twice_stops_and_leaves_a_clean_store(tiny_shell: Shell) -> None:
    tiny_shell.install("plug", optimizer_plugin(["time.sleep(1.0)"]), PLUG)
    command = (*TINY, "--optimizers", "plug", "--precisions", "fp32", "--seeds", "0-2")
    process = tiny_shell.start(*command)
    _wait_for(lambda: _active(tiny_shell))
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.5)
    start = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert time.monotonic() - start < 10.0
    assert process.returncode == 1
    assert [record["outcome"]["type"] for record in _records(tiny_shell)] == ["interrupted"]
    assert "the same command continues" in output
    assert not list((_store(tiny_shell) / "active").iterdir())
    assert "3 of 3 runs to be made" in tiny_shell(*command, "--plan").stdout


@pytest.mark.slow
def test_two_commands_share_one_store(tiny_shell: Shell) -> None:
    tiny_shell.install("plug", optimizer_plugin(["time.sleep(0.02)"]), PLUG)
    command = (*TINY, "--optimizers", "plug", "--precisions", "fp32", "--seeds", "0-3")
    processes = [tiny_shell.start(*command) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert all("4 of 4 runs have a result" in output for output in outputs)
    assert len(_records(tiny_shell)) == 4


def test_workers_run_side_by_side(tiny_shell: Shell) -> None:
    tiny_shell.install("plug", optimizer_plugin(["time.sleep(0.1)"]), PLUG)
    done = tiny_shell(
        *TINY, "--optimizers", "plug", "--precisions", "fp32", "--seeds", "0-3", "--workers", "4", "--threads", "1"
    )
    assert "4 of 4 runs have a result" in done.stdout
    records = _records(tiny_shell)
    assert max(str(record["started_at"]) for record in records) < min(str(record["finished_at"]) for record in records)
    assert {record["environment"]["co_scheduled"] for record in records} == {3}
    assert {record["environment"]["packages"]["plug"] for record in records} == {"1.0"}


def test_more_workers_than_runs_count_as_no_company(tiny_shell: Shell) -> None:
    tiny_shell(*TINY, "--optimizers", "sgdm", "--precisions", "fp32", "--workers", "4", "--threads", "1")
    (record,) = _records(tiny_shell)
    assert record["environment"]["co_scheduled"] == 0


def test_output_of_a_run_goes_to_its_own_file(tiny_shell: Shell) -> None:
    tiny_shell.install("plug", optimizer_plugin(["if self.steps == 1: os.system('echo from below')"]), PLUG)
    done = tiny_shell(*TINY, "--optimizers", "plug", "--precisions", "fp32")
    assert "from below" not in done.stdout + done.stderr
    (log,) = _store(tiny_shell).glob("runs/*/output.log")
    assert log.read_text(encoding="utf-8") == "from below\n"


def test_list_json_and_long(tiny_shell: Shell) -> None:
    listed = json.loads(tiny_shell("list", "--json").stdout)
    assert set(listed) == {"suites", "tasks", "optimizers", "precisions"}
    assert {"name": "tiny", "from": "tiny_task 1.0"} in listed["tasks"]
    long = tiny_shell("list", "--long").stdout
    assert "parameters: 61,706" in long
    assert "lr=0.0401 [0.0001..0.3 log]" in long


def test_report_to_a_file(tiny_shell: Shell) -> None:
    tiny_shell(*TINY, "--optimizers", "sgd", "--precisions", "fp32")
    tiny_shell("report", "--suite", "classification", "--output", "page.md")
    assert (tiny_shell.folder / "page.md").read_text(encoding="utf-8").startswith("# Leaderboard")
    done = tiny_shell("report", "--suite", "classification", "--output", "none/page.md", status=2)
    assert "cannot write none/page.md" in done.stderr
    wrong = tiny_shell("report", "--suite", "classification", "--scale", "local", status=2)
    assert "there are: smoke" in wrong.stderr


def test_status_counts_what_there_is(tiny_shell: Shell) -> None:
    assert "no results at" in tiny_shell("status", status=2).stderr
    tiny_shell.install("plug", optimizer_plugin(["raise ValueError('no')"]), PLUG)
    tiny_shell(*TINY, "--optimizers", "sgd,plug", "--precisions", "fp32", status=1)
    status = json.loads(tiny_shell("status", "--json").stdout)
    assert status == {
        "suites": [
            {"suite": "classification", "scale": "smoke", "results": 1, "diverged": 0, "failed": 1, "interrupted": 0}
        ],
        "active": [],
    }
    assert "classification" in tiny_shell("status").stdout


def test_export_has_one_row_a_run_in_every_format(tiny_shell: Shell) -> None:
    import pandas as pd

    tiny_shell(*TINY, "--optimizers", "sgd,sgdm")
    for name in ("runs.csv", "runs.jsonl", "runs.parquet"):
        assert tiny_shell("export", "--output", name).stdout == f"{name}: 4 runs\n"
    frames = [
        pd.read_csv(tiny_shell.folder / "runs.csv"),
        pd.read_json(tiny_shell.folder / "runs.jsonl", lines=True),
        pd.read_parquet(tiny_shell.folder / "runs.parquet"),
    ]
    by_id = {record["intent"]["spec"]["seed"]: record for record in _records(tiny_shell)}
    assert len(by_id) == 1
    scores = sorted(record["scores"]["test"] for record in _records(tiny_shell))
    for frame in frames:
        assert list(frame.columns) == list(frames[0].columns)
        assert sorted(frame["value"]) == scores
        assert set(frame["precision_backend"]) == {"native", "emulated"}
        assert frame["step_ratio"].isna().all()  # not measured, so missing
    assert tiny_shell("export").stdout == (tiny_shell.folder / "runs.csv").read_text(encoding="utf-8")
    assert "name a file with --output" in tiny_shell("export", "--format", "parquet", status=2).stderr
    assert "did you mean 'parquet'" in tiny_shell("export", "--format", "parket", status=2).stderr
    assert "cannot tell the format of runs.txt" in tiny_shell("export", "--output", "runs.txt", status=2).stderr


@pytest.mark.slow
def test_data_list_fetch_and_verify(tiny_shell: Shell) -> None:
    rows = {row["name"]: row for row in json.loads(tiny_shell("data", "list", "--json").stdout)}
    assert rows["fashion-mnist-20k"]["state"] == rows["tiny"]["state"] == "ok"
    assert "apo-bench data fetch cifar10" in rows["cifar10"]["message"]
    tiny_shell("data", "verify", "fashion-mnist-20k")
    tiny_shell("data", "verify", "cifar10", status=1)
    assert "nothing to fetch" in tiny_shell("data", "fetch", "fashion-mnist-20k").stdout
    assert "fetch what? cifar10, cifar100" in tiny_shell("data", "fetch", status=2).stderr
    assert "did you mean 'cifar10'" in tiny_shell("data", "verify", "cifar1", status=2).stderr
    assert "did you mean 'fetch'" in tiny_shell("data", "fetsh", status=2).stderr


def test_missing_data_stop_only_their_own_cells(tiny_shell: Shell) -> None:
    command = (*TINY, "--tasks", "cifar10.lenet,cifar10.vgg16,tiny", "--optimizers", "sgd", "--precisions", "fp32")
    done = tiny_shell(*command, status=1)
    assert "1 of 1 runs have a result" in done.stdout
    (line,) = done.stderr.splitlines()
    assert "apo-bench data fetch cifar10" in line


def test_doctor_finds_what_is_wrong(tiny_shell: Shell) -> None:
    checks = json.loads(tiny_shell("doctor", "--json").stdout)
    found = {check["name"]: check["state"] for check in checks}
    assert found["torch"] == found["plugins"] == "ok"
    tiny_shell.install("plug", "raise RuntimeError('boom')\n", PLUG)
    broken = tiny_shell("doctor", status=1)
    assert "broken   plugins    'plug' from plug 1.0 fails to import" in broken.stdout


def test_a_plan_as_json(tiny_shell: Shell) -> None:
    tiny_shell(*TINY, "--optimizers", "sgd", "--precisions", "fp32")
    plan = json.loads(tiny_shell(*TINY, "--optimizers", "sgd,adam", "--precisions", "fp32", "--plan", "--json").stdout)
    assert [(run["optimizer"], run["done"]) for run in plan["runs"]] == [("sgd", True), ("adam", False)]


def test_hours_of_work_need_consent(tiny_shell: Shell) -> None:
    done = tiny_shell("run", "--suite", "classification", "--scale", "local", "--epochs", "5000", status=2)
    assert "give --yes to start it" in done.stderr
    assert not _records(tiny_shell)


@pytest.mark.slow
def test_the_smoke_suite_trains_within_five_minutes(shell: Shell) -> None:
    start = time.monotonic()
    done = shell("run", "--suite", "classification", "--scale", "smoke")
    assert time.monotonic() - start < 300.0
    assert "32 of 32 runs have a result" in done.stdout


def test_a_result_of_earlier_code_does_not_stand_in_for_a_failure(tiny_shell: Shell) -> None:
    command = (*TINY, "--optimizers", "plug", "--precisions", "fp32")
    tiny_shell.install("plug", optimizer_plugin(["pass"]), PLUG)
    tiny_shell(*command)
    tiny_shell.install("plug", optimizer_plugin(["raise ValueError('edited')"]), PLUG)
    done = tiny_shell(*command, status=1)
    assert "1 runs failed, the first: tiny plug fp32 seed 0: ValueError: edited" in done.stderr
    assert "0 of 1 runs have a result" in done.stdout


def test_runs_that_two_suites_share_are_in_the_pages_of_both(tiny_shell: Shell) -> None:
    selection = ("--scale", "smoke", "--tasks", "tiny", "--epochs", "2", "--optimizers", "sgdm", "--precisions", "fp32")
    tiny_shell("run", "--suite", "classification", *selection)
    assert "0 of 1 runs to be made" in tiny_shell("run", "--suite", "low-precision", *selection).stdout
    pages = [tiny_shell("report", "--suite", name).stdout for name in ("classification", "low-precision")]
    assert pages[1] == pages[0].replace("classification", "low-precision")
    exported = tiny_shell("export", "--suite", "low-precision").stdout.splitlines()
    assert len(exported) == 2
    assert exported[1].split(",")[1] == "low-precision"
