"""A session tells the terminal whatever the executor tells of its runs."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from apo_bench.execution.job import Job
from apo_bench.execution.watcher import Watcher
from apo_bench.planning.plan import Plan, PlannedRun
from apo_bench.records.run import Fingerprint, Intent, Role
from apo_bench.records.spec import Budget, Device, OptimizerSpec, Precision, RunSpec, Scale
from apo_bench.records.suite import Suite
from apo_bench.session import run as module
from apo_bench.session.live import LiveLeaderboard
from apo_bench.session.progress import Display
from apo_bench.session.run import RunSession, RunSettings
from apo_bench.store.store import Store

RUN = RunSpec(
    task="t",
    optimizer=OptimizerSpec(name="o", hyperparameters={}),
    precision=Precision.FP32,
    seed=0,
    budget=Budget(epochs=1),
    device=Device.CPU,
)
PRINT = Fingerprint(harness="h", task="t", optimizer="o", torch="2", data="d")
SUITE = Suite(name="s", scale=Scale.SMOKE, title="S", tasks=(), optimizers=(), precisions=())


def session(store: Store, *, role: Role = Role.REPORTED) -> tuple[RunSession, Plan]:
    planned = PlannedRun(RUN, PRINT, reused=None, changed=(), expected_seconds=None, role=role)
    plan = Plan(suite=SUITE, runs=(planned,), unavailable=(), by_entry=(), asked=SUITE, tasks={})
    live = LiveLeaderboard(store, plan)
    return RunSession(RunSettings(workers=1, threads=1), store, live, lambda: plan), plan


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", create=True)


def test_a_warning_of_the_executor_is_printed(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def execute(jobs: Sequence[Job], store: Store, *, workers: int, watchers: Sequence[Watcher]) -> bool:
        for watcher in watchers:
            watcher.warn("a probe of this store is measuring; the next run waits for it")
        return True

    monkeypatch.setattr(module, "execute", execute)
    made, plan = session(store)
    made.carry_out(plan)
    assert "apo-bench: a probe of this store is measuring; the next run waits for it" in capsys.readouterr().out


def test_what_goes_wrong_with_the_leaderboard_is_said_on_the_display_while_there_is_one(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []

    class Shown(Display):
        def __init__(self) -> None: ...

        def warn(self, message: str) -> None:
            said.append(message)

    @contextlib.contextmanager
    def display(*_: Any, **__: Any) -> Iterator[Display]:
        yield Shown()

    def execute(jobs: Sequence[Job], store: Store, *, workers: int, watchers: Sequence[Watcher]) -> bool:
        made.live._warn("first")
        return True

    monkeypatch.setattr(module, "display", display)
    monkeypatch.setattr(module, "execute", execute)
    made, plan = session(store)
    made.carry_out(plan)
    made.live._warn("second")
    assert said == ["first"]
    assert capsys.readouterr().err.splitlines()[-1] == "apo-bench: second"


@pytest.mark.parametrize("role", Role)
def test_a_job_says_what_its_run_is_made_for(store: Store, monkeypatch: pytest.MonkeyPatch, role: Role) -> None:
    intents: list[Intent] = []

    def execute(jobs: Sequence[Job], store: Store, *, workers: int, watchers: Sequence[Watcher]) -> bool:
        intents.extend(job.intent for job in jobs)
        return True

    monkeypatch.setattr(module, "execute", execute)
    made, plan = session(store, role=role)
    made.carry_out(plan)
    assert [(intent.spec, intent.suite, intent.scale, intent.role) for intent in intents] == [
        (RUN, "s", Scale.SMOKE, role)
    ]


def test_ctrl_c_is_remembered(store: Store) -> None:
    made, _ = session(store)
    assert not made.interrupted
    made.draining(1)
    assert made.interrupted
