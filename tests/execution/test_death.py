"""A run whose process was killed goes on; whoever is asked to stop stops; nobody outlives the command."""

import contextlib
import functools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.commands import wait_for
from support.kills import (
    Commands,
    Started,
    commands_in,
    is_alive,
    is_continuable,
    kill,
    records_of,
    run_of,
    server_of,
    values_of,
    workers_of,
)
from support.shell import TINY_TASK, Shell, optimizer_plugin

from apo_bench.store.store import Store

PLUGINS = {
    "slow": ["time.sleep(0.02)"],
    "mortal": ["dies = self.steps == (10 if os.path.exists('mortal') else 25)", "if dies: open('mortal', 'w').close()",
               "if dies: os.kill(os.getpid(), signal.SIGKILL)"],
    "stubborn": ["signal.signal(signal.SIGTERM, signal.SIG_IGN)", "time.sleep(0.02)"],
    "stuck": ["if self.steps == 22: print('stuck', flush=True)",
              "if self.steps == 22: __import__('re').match(r'(a+)+$', 'a' * 60 + 'b')"],
    "parent": ["if self.steps == 5 and not os.fork(): time.sleep(60)", "time.sleep(0.02)"],
    "loud": ["if self.steps < 20: [print('x' * 99_999) for _ in range(20)]", "if self.steps == 20: time.sleep(0.3)",
             "if self.steps == 25: raise ValueError('the last words')"],
}  # fmt: skip


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    shell = Shell(tmp_path_factory.mktemp("deaths"))
    shell.install("tiny_task", TINY_TASK, "[apo_bench.tasks]\ntiny = tiny_task:tiny\n")
    for name, body in PLUGINS.items():
        shell.install(name, optimizer_plugin(body), f"[apo_bench.optimizers]\n{name} = {name}:plug\n")
    with commands_in(shell) as made:
        yield made


class Suite:
    """One suite in a store of its own."""

    def __init__(self, commands: Commands, store: Path, optimizers: str, *options: str) -> None:
        self.store = store
        self.commands = commands
        self.command = (
            "run", "--suite", "classification", "--scale", "smoke", "--tasks", "tiny", "--epochs", "6", "--precisions",
            "fp32", "--threads", "1", "--device", "cpu", "--checkpoint-every", "0", "--optimizers", optimizers,
            "--seeds", "0", "--store", str(store), *options,
        )  # fmt: skip

    def start(self) -> Started:
        return self.commands.start(*self.command)

    def __call__(self) -> Started:
        return self.commands(*self.command)

    @property
    def outcomes(self) -> list[str]:
        return [record["outcome"]["type"] for found in records_of(self.store).values() for record in found]

    @property
    def continued(self) -> list[int]:
        return [record["continued"] for found in records_of(self.store).values() for record in found]

    def worker(self, started: Started) -> int:
        """The process of a run with a checkpoint."""
        wait_for(lambda: any(self.store.glob("active/*/checkpoint.safetensors")) or started.status is not None)
        return next(pid for pid in workers_of(started.pid) if run_of(self.store, pid))

    def is_free(self) -> bool:
        store = Store(self.store)
        return not any(store.is_claimed(path.stem) for path in self.store.glob("locks/*.lock"))


@pytest.fixture
def suite(commands: Commands, tmp_path: Path) -> Callable[..., Suite]:
    return functools.partial(Suite, commands, tmp_path / "store")


pytestmark = pytest.mark.slow
"""All of them start commands."""


def test_a_run_whose_process_is_killed_is_continued_from_its_checkpoint(suite: Callable[..., Suite]) -> None:
    one = suite("slow")
    started = one.start()
    kill(one.worker(started))
    assert started.wait() == 0
    assert "was killed by SIGKILL (often the kernel, out of memory); it is continued from its checkpoint" in (
        " ".join(started.output().split())
    )
    assert (one.outcomes, one.continued) == (["exhausted"], [1])


def test_a_run_that_dies_at_one_place_is_given_up(suite: Callable[..., Suite]) -> None:
    one = suite("mortal,sgd")
    first = one()
    assert first.status == 1
    assert "the same command continues from its checkpoint" in first.output()
    assert one.outcomes == ["exhausted"]
    assert len(list(one.store.glob("active/*/checkpoint.safetensors"))) == 1
    second = one()
    assert second.status == 1
    assert "3 times after one checkpoint, which is dropped" in second.output()
    assert sorted(one.outcomes) == ["crashed", "exhausted"]
    assert list((one.store / "active").iterdir()) == []


def test_a_killed_server_costs_nothing(suite: Callable[..., Suite]) -> None:
    one = suite("slow,sgd", "--workers", "2")
    started = one.start()
    one.worker(started)
    server = server_of(started.pid)
    assert server
    kill(server)
    assert started.wait() == 0, started.output()
    assert one.outcomes == ["exhausted"] * 2


def test_a_stopped_command_leaves_alone_what_another_continues(suite: Callable[..., Suite]) -> None:
    one = suite("slow", "--epochs", "10")
    first = one.start()
    worker = one.worker(first)
    kill(first.pid, signal.SIGSTOP)
    kill(worker)
    second = one.start()
    wait_for(lambda: any(run_of(one.store, pid) for pid in workers_of(second.pid)))
    (folder,) = (one.store / "active").iterdir()
    time.sleep(0.3)
    kill(first.pid, signal.SIGCONT)
    time.sleep(1.0)
    assert list((one.store / "active").iterdir()) == [folder]
    assert (first.wait(), second.wait()) == (0, 0), first.output() + second.output()
    assert (one.outcomes, one.continued) == (["exhausted"], [1])
    assert f"(process {second.pid} on {os.uname().nodename}, since" in first.output()


def test_a_command_without_the_file_of_its_claim_is_alone_all_the_same(suite: Callable[..., Suite]) -> None:
    one = suite("slow", "--epochs", "10")
    first = one.start()
    one.worker(first)
    for lock in one.store.glob("locks/*"):
        lock.unlink()
    second = one.start()
    assert (first.wait(), second.wait()) == (0, 0), first.output() + second.output()
    assert (one.outcomes, one.continued) == (["exhausted"], [0])


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_scheduler_s_signal_saves_what_is_in_flight(suite: Callable[..., Suite], signum: signal.Signals) -> None:
    one = suite("slow", "--checkpoint-every", "1e6", "--seeds", "0-1", "--workers", "2")
    started = one.start()
    wait_for(lambda: len(list(one.store.glob("active/*/events.jsonl"))) == 2)
    time.sleep(0.3)
    os.killpg(started.pid, signum)  # a scheduler sends it to every process
    begin = time.monotonic()
    assert started.wait() == 128 + signum
    assert time.monotonic() - begin < 6.0
    assert f"stopped by {signum.name}; run the same command again to continue" in started.output()
    assert len(list(one.store.glob("active/*/checkpoint.safetensors"))) == 2
    assert one.is_free()
    assert one().status == 0
    assert (one.outcomes, one.continued) == (["exhausted"] * 2, [1, 1])
    assert list((one.store / "active").iterdir()) == []


def test_a_run_that_is_stopped_between_blocks_comes_to_the_same(suite: Callable[..., Suite], tmp_path: Path) -> None:
    one = suite("slow")
    started = one.start()
    for steps in (7, 29, 61):
        _stop_at(steps, one.store, started)
        started = one.start()
    assert started.wait() == 0
    other = suite("slow", "--store", str(tmp_path / "undisturbed"))
    assert other().status == 0
    (found,), (expected,) = (next(iter(records_of(store).values())) for store in (one.store, tmp_path / "undisturbed"))
    assert values_of(found) == values_of(expected)
    assert found["continued"] >= 1


def _stop_at(steps: int, store: Path, started: Started) -> None:
    wait_for(lambda: _steps(store) >= steps or started.status is not None)
    kill(started.pid, signal.SIGTERM)
    started.wait()


def _steps(store: Path) -> int:
    steps = [0]
    for path in store.glob("active/*/events.jsonl"):
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                steps.append(event.get("step") or event.get("point", {}).get("step") or 0)
    return max(steps)


def test_sigterm_to_a_run_alone_saves_it_and_it_is_continued(suite: Callable[..., Suite]) -> None:
    one = suite("slow", "--checkpoint-every", "1e6")
    started = one.start()
    wait_for(lambda: any(one.store.glob("active/*/events.jsonl")))
    time.sleep(0.3)
    kill(next(pid for pid in workers_of(started.pid) if run_of(one.store, pid)), signal.SIGTERM)
    assert started.wait() == 0, started.output()
    assert (one.outcomes, one.continued) == (["exhausted"], [1])


@pytest.mark.parametrize("interrupts", [2, 3])
def test_ctrl_c_stops_a_run_that_ignores_sigterm(suite: Callable[..., Suite], interrupts: int) -> None:
    one = suite("stubborn,slow", "--epochs", "200")
    started = one.start()
    one.worker(started)
    begin = time.monotonic()
    for _ in range(interrupts):
        os.killpg(started.pid, signal.SIGINT)
        time.sleep(0.3)
    assert started.wait(20.0) == 1
    assert (time.monotonic() - begin < 5.0) == (interrupts == 3)
    assert "the same command continues" in started.output()
    assert len(list(one.store.glob("active/*/checkpoint.safetensors"))) == 1
    assert one.is_free()


@pytest.mark.parametrize("stopped", [False, True], ids=["server runs", "server stopped"])
def test_a_run_that_holds_the_interpreter_dies_with_the_command(suite: Callable[..., Suite], *, stopped: bool) -> None:
    one = suite("stuck")
    started = one.start()
    wait_for(lambda: any(path.read_text() == "stuck\n" for path in one.store.glob("active/*/output.log")))
    (worker,), server = workers_of(started.pid), server_of(started.pid)
    assert server
    if stopped:
        kill(server, signal.SIGSTOP)
    kill(started.pid)
    wait_for(one.is_free, 5.0)
    assert not is_alive(worker)
    assert not is_alive(server)


@pytest.mark.soak
def test_a_stopped_server_does_not_keep_the_command_from_ending(suite: Callable[..., Suite]) -> None:
    one = suite("slow", "--epochs", "200")
    started = one.start()
    one.worker(started)
    server = server_of(started.pid)
    assert server
    kill(server, signal.SIGSTOP)
    kill(started.pid, signal.SIGTERM)
    assert started.wait(20.0) == 128 + signal.SIGTERM
    wait_for(one.is_free, 5.0)
    assert not is_alive(server)


def test_what_a_plugin_forks_holds_no_claim(suite: Callable[..., Suite]) -> None:
    one = suite("parent", "--epochs", "20")
    started = one.start()
    worker = one.worker(started)
    (forked,) = (child for child in _all_children(worker))
    os.killpg(started.pid, signal.SIGSTOP)
    kill(started.pid)
    wait_for(one.is_free, 5.0)
    kill(forked)


def _all_children(pid: int) -> list[int]:
    wait_for(lambda: any(Path(f"/proc/{pid}/task").glob("*/children")))
    return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


def test_a_log_has_a_limit_and_keeps_its_last_words(suite: Callable[..., Suite]) -> None:
    one = suite("loud")
    started = one()
    assert started.status == 1
    (log,) = one.store.glob("runs/*/output.log")
    assert log.stat().st_size < 12 * 2**20
    text = log.read_text(encoding="utf-8")
    assert "bytes left out by apo-bench]" in text
    assert "Traceback" in text
    assert text.rstrip().endswith("ValueError: the last words")


def test_the_end_of_a_terminal_saves_what_is_in_flight(suite: Callable[..., Suite]) -> None:
    one = suite("slow", "--epochs", "10")
    terminal, end = os.openpty()
    os.set_blocking(terminal, False)
    started = one.commands.start(*one.command, terminal=os.ttyname(end))

    def is_saved() -> bool:
        with contextlib.suppress(BlockingIOError):
            os.read(terminal, 65536)
        return any(one.store.glob("active/*/checkpoint.safetensors"))

    wait_for(is_saved)
    os.close(end)
    os.close(terminal)
    assert started.wait() == 128 + signal.SIGHUP
    assert len(list(one.store.glob("active/*/checkpoint.safetensors"))) == 1
    assert one.is_free()
    assert is_continuable(one.store, next(one.store.glob("active/*")).name.partition("-")[0])
