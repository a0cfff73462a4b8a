"""A plugin that ends the process that imports it is named, and the others are run."""

import dataclasses
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from support.commands import TINY, records_in
from support.kills import Commands, commands_in
from support.shell import TINY_TASK, Shell, optimizer_plugin

from apo_bench.plugins.trial import fatal, telling_ctrl_c_apart

ENDINGS = {
    "exits": ("raise SystemExit(0)", "fails to import (SystemExit: 0)"),
    "interrupts": ("raise KeyboardInterrupt", "fails to import (KeyboardInterrupt)"),
    "base": ("raise BaseException('odd')", "fails to import (BaseException: odd)"),
    "leaves": ("import os; print('bye', flush=True); os._exit(0)",
               "ends the process that imports it (exit status 0, after it printed 'bye')"),
    "kills": ("import os; os.kill(os.getpid(), 9)", "ends the process that imports it (SIGKILL)"),
    "raises": ("raise RuntimeError('boom')", "fails to import (RuntimeError: boom)"),
}  # fmt: skip


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    shell = Shell(tmp_path_factory.mktemp("endings"))
    shell.install("tiny_task", TINY_TASK, "[apo_bench.tasks]\ntiny = tiny_task:tiny\n")
    shell.install("good", optimizer_plugin(["pass"]), "[apo_bench.optimizers]\ngood = good:plug\n")
    for name, (source, _) in ENDINGS.items():
        shell.install(name, f"{source}\n", f"[apo_bench.optimizers]\n{name} = {name}:plug\n")
    task = f"{TINY_TASK}\n\ndef ending():\n    import os\n    os._exit(0)\n"
    shell.install("task", task, "[apo_bench.tasks]\nending = task:ending\n")
    with commands_in(shell) as made:
        yield made


@pytest.mark.slow
def test_each_is_named_and_the_others_are_run(commands: Commands) -> None:
    names = ",".join(["good", *ENDINGS])
    command = ["--tasks", "tiny,ending", "--optimizers", names, "--precisions", "fp32", "--seeds", "0"]
    done = commands(*TINY, *command)
    output = done.output()
    assert done.status == 1, output
    for name, (_, message) in ENDINGS.items():
        assert f"apo-bench: {name!r} from {name} 1.0 {message}; fix or uninstall that distribution\n" in output
    assert "apo-bench: 'ending' from task 1.0 ends the process that imports it (exit status 0); fix" in output
    assert [record["outcome"]["type"] for record in records_in(commands.shell)] == ["exhausted"]


@pytest.mark.parametrize(("name", "status"), [("exits", 1), ("leaves", 1), ("interrupts", 1), ("raises", 2)])
def test_alone_it_is_named_too(commands: Commands, name: str, status: int) -> None:
    done = commands(*TINY, "--optimizers", name)
    assert done.output() == (
        f"apo-bench: {name!r} from {name} 1.0 {ENDINGS[name][1]}; fix or uninstall that distribution\n"
    )
    assert done.status == status


def test_reading_commands_name_it(commands: Commands) -> None:
    told = commands("doctor")
    assert told.status == 1
    assert "'leaves' from leaves 1.0 ends the process that imports it" in told.output()
    assert commands("list", "leaves").status == 1


@dataclasses.dataclass(frozen=True)
class _Ends:
    """Something that may end a process, each time it is asked another."""

    number: int
    how: Callable[[], object]

    def __call__(self) -> object:
        return self.how()


def _raise() -> None:
    raise ValueError("no matter")


def test_what_is_raised_is_survived() -> None:
    assert fatal(_Ends(1, _raise)) is None
    assert fatal(_Ends(2, lambda: signal.raise_signal(signal.SIGKILL))) == "SIGKILL"


def test_what_a_plugin_forks_neither_ends_the_trial_nor_keeps_it_waiting() -> None:
    def forks() -> None:
        if os.fork() == 0:
            time.sleep(20.0)

    def becomes_a_daemon() -> None:
        if os.fork():
            os._exit(0)

    began = time.monotonic()
    assert fatal(_Ends(3, forks)) is None
    assert time.monotonic() - began < 10.0
    assert fatal(_Ends(4, becomes_a_daemon)) == "exit status 0"


def test_ctrl_c_is_no_plugin_s_doing() -> None:
    with telling_ctrl_c_apart() as pressed:
        assert not pressed()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert pressed()
