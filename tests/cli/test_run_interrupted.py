"""`apo-bench run`, stopped: killed, interrupted, or two at a time."""

import json
import os
import signal
import time
from typing import Any

import pytest
from support.commands import PLUG, TINY, active_in, records_in, store_of, wait_for
from support.shell import Shell, optimizer_plugin

SLOW_STEPS = ["time.sleep(0.05)"]


@pytest.mark.slow
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_command_loses_only_the_run_in_flight(tiny_shell: Shell, kill: signal.Signals) -> None:
    tiny_shell.install("plug", optimizer_plugin(SLOW_STEPS), PLUG)
    command = (*TINY, "--optimizers", "plug", "--precisions", "fp32", "--seeds", "0-2")
    process = tiny_shell.start(*command)
    wait_for(lambda: len(records_in(tiny_shell)) == 1 and active_in(tiny_shell))
    process.send_signal(kill)
    process.communicate(timeout=30)
    assert len(records_in(tiny_shell)) == 1
    done = tiny_shell(*command)
    assert "2 of 3 runs to be made" in done.stdout
    assert len(records_in(tiny_shell)) == 3
    assert not list((store_of(tiny_shell) / "active").iterdir())


@pytest.mark.slow
def test_a_long_run_killed_in_the_middle_continues_and_its_curve_is_the_undisturbed_one(tiny_shell: Shell) -> None:
    tiny_shell.install("plug", optimizer_plugin(["time.sleep(0.02)"]), PLUG)
    command = (*TINY, "--optimizers", "plug", "--precisions", "fp32", "--epochs", "6", "--checkpoint-every", "0")
    tiny_shell(*command, "--store", "undisturbed")
    process = tiny_shell.start(*command)
    wait_for(lambda: any(b'"step":48' in path.read_bytes() for path in active_in(tiny_shell)))
    process.kill()
    process.communicate(timeout=30)
    time.sleep(0.5)  # the run's process notices
    waiting = json.loads(tiny_shell("status", "--json").stdout)["active"]
    assert [run["running"] for run in waiting] == [False]
    assert waiting[0]["step"] >= 48
    tiny_shell(*command)
    (continued,) = records_in(tiny_shell)
    (undisturbed,) = (
        json.loads(path.read_bytes()) for path in tiny_shell.folder.glob("undisturbed/runs/*/record.json")
    )
    assert continued["continued"] == 1

    def numbers(record: dict[str, Any]) -> list[tuple[float, ...]]:
        return [(point["step"], point["train_loss"], point["validation"]) for point in record["curve"]]

    assert numbers(continued) == numbers(undisturbed)
    assert continued["scores"] == undisturbed["scores"]
    assert not list((store_of(tiny_shell) / "active").iterdir())


def test_ctrl_c_drains(tiny_shell: Shell) -> None:
    tiny_shell.install("plug", optimizer_plugin(SLOW_STEPS), PLUG)
    command = (*TINY, "--optimizers", "plug", "--precisions", "fp32", "--seeds", "0-2")
    process = tiny_shell.start(*command)
    wait_for(lambda: active_in(tiny_shell))
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole group
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "stopping after the 1 runs in flight" in output
    assert "1 of 3 runs have a result" in output
    assert [record["outcome"]["type"] for record in records_in(tiny_shell)] == ["exhausted"]


def test_ctrl_c_twice_saves_the_run_and_stops(tiny_shell: Shell) -> None:
    tiny_shell.install("plug", optimizer_plugin(["time.sleep(1.0)"]), PLUG)
    command = (*TINY, "--optimizers", "plug", "--precisions", "fp32", "--seeds", "0-2")
    process = tiny_shell.start(*command)
    wait_for(lambda: active_in(tiny_shell))
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.5)
    start = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert time.monotonic() - start < 10.0
    assert process.returncode == 1
    assert records_in(tiny_shell) == []
    assert "the same command continues" in output
    assert len(list(store_of(tiny_shell).glob("active/*/checkpoint.safetensors"))) == 1
    assert "3 of 3 runs to be made" in tiny_shell(*command, "--plan").stdout


@pytest.mark.slow
def test_two_commands_share_one_store(tiny_shell: Shell) -> None:
    tiny_shell.install("plug", optimizer_plugin(["time.sleep(0.02)"]), PLUG)
    command = (*TINY, "--optimizers", "plug", "--precisions", "fp32", "--seeds", "0-3")
    processes = [tiny_shell.start(*command) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert all("4 of 4 runs have a result" in output for output in outputs)
    assert len(records_in(tiny_shell)) == 4
