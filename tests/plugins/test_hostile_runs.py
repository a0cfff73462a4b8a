"""A hostile plugin in a run of the installed command: it is named, nothing else changes, and no traceback is shown."""

from typing import Any

import pytest
from support.commands import PLUG, records_in, store_of
from support.hostile import RULES, TASKS_IN_RUNS, UNUSABLE_OPTIMIZERS, UNUSABLE_TASKS
from support.shell import Shell, optimizer_plugin

RUN = ("run", "--suite", "classification", "--scale", "smoke", "--precisions", "fp32", "--seeds", "0", "--epochs", "1")
ONE_OF_EACH = {"property-that-raises", "no-data", "starts-a-thread"}
"""What CI tries of them; the others are soak."""


def _marked(names: Any) -> list[Any]:
    kinds = (pytest.mark.soak, pytest.mark.slow)
    return [pytest.param(name, marks=kinds[name in ONE_OF_EACH]) for name in names]


def _outcomes(shell: Shell) -> dict[str, str]:
    return {
        record["intent"]["spec"]["optimizer"]["name"]: record["outcome"]["type"].lower() for record in records_in(shell)
    }


def _is_quiet(text: str) -> None:
    assert "Traceback" not in text
    assert all(line.isprintable() for line in text.splitlines())
    assert all(len(line) < 1500 for line in text.splitlines())


@pytest.mark.parametrize("name", _marked(UNUSABLE_OPTIMIZERS))
def test_an_optimizer_that_cannot_be_used_costs_its_own_runs_only(tiny_shell: Shell, name: str) -> None:
    source, _ = UNUSABLE_OPTIMIZERS[name]
    tiny_shell.install("plug", source, PLUG)
    done = tiny_shell(*RUN, "--tasks", "tiny", "--optimizers", "plug,sgdm", status=1)
    (line,) = (line for line in done.stderr.splitlines() if "'plug' from plug 1.0" in line)
    assert line.startswith("apo-bench: ")
    _is_quiet(done.stdout + done.stderr)
    assert _outcomes(tiny_shell) == {"sgdm": "exhausted"}


@pytest.mark.parametrize("name", _marked(UNUSABLE_TASKS))
def test_a_task_that_cannot_be_used_costs_its_own_runs_only(tiny_shell: Shell, name: str) -> None:
    source, _ = UNUSABLE_TASKS[name]
    tiny_shell.install("plug", source, "[apo_bench.tasks]\nplug = plug:plug\n")
    done = tiny_shell(*RUN, "--tasks", "plug,tiny", "--optimizers", "sgdm", status=1)
    (line,) = (line for line in done.stderr.splitlines() if "'plug' from plug 1.0" in line)
    assert line.startswith("apo-bench: ")
    _is_quiet(done.stdout + done.stderr)
    assert _outcomes(tiny_shell) == {"sgdm": "exhausted"}


@pytest.mark.parametrize("name", _marked(RULES))
def test_what_an_optimizer_does_at_its_steps_is_its_own_outcome(tiny_shell: Shell, name: str) -> None:
    body, outcome = RULES[name]
    tiny_shell.install("plug", "import sys\n" + optimizer_plugin(body), PLUG)
    done = tiny_shell(
        *RUN, "--tasks", "tiny", "--optimizers", "plug,sgdm", status=int(outcome != "exhausted"), timeout=120
    )
    _is_quiet(done.stdout + done.stderr)
    outcomes = _outcomes(tiny_shell)
    assert outcomes["sgdm"] == "exhausted"
    assert len(records_in(tiny_shell)) <= 2  # none is double
    if name == "removes-its-folder":
        assert "tiny plug fp32 seed 0" in done.stderr
    else:
        assert outcomes["plug"].replace("outofmemory", "out-of-memory") == outcome
    assert list(store_of(tiny_shell).glob("active/*")) == []


@pytest.mark.parametrize("name", _marked(TASKS_IN_RUNS))
def test_what_a_task_does_in_a_run_is_its_own_outcome(tiny_shell: Shell, name: str) -> None:
    tiny_shell.install("plug", TASKS_IN_RUNS[name], "[apo_bench.tasks]\nplug = plug:plug\n")
    done = tiny_shell(*RUN, "--tasks", "plug,tiny", "--optimizers", "sgdm", status=1)
    _is_quiet(done.stdout + done.stderr)
    assert "plug" in done.stderr
    outcomes = {
        record["intent"]["spec"]["task"]: record["outcome"]["type"].lower() for record in records_in(tiny_shell)
    }
    assert outcomes.pop("tiny") == "exhausted"
    assert outcomes in [{}, {"plug": "crashed"}, {"plug": "undefined"}]
    assert list(store_of(tiny_shell).glob("active/*")) == []


@pytest.mark.slow
def test_a_thread_that_is_left_behind_keeps_no_command_from_ending(shell: Shell) -> None:
    thread = "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()"
    shell.install("plug", f"{thread}\n{optimizer_plugin(['pass'])}", PLUG)
    assert "A plugin." in shell("list", "plug", timeout=60).stdout
