"""Kills at random moments: the same command, given again, comes to what it would have come to undisturbed."""

import collections
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.commands import PLUG
from support.kills import (
    Commands,
    Started,
    commands_in,
    is_continuable,
    kill,
    records_of,
    run_of,
    server_of,
    values_of,
    workers_of,
)
from support.shell import Shell, optimizer_plugin

KINDS = ("group", "parent", "server", "worker")
COMMAND = ("run", "--suite", "classification", "--scale", "smoke", "--tasks", "tiny", "--epochs", "6", "--optimizers",
           "plug,apo-p", "--precisions", "fp32", "--seeds", "0-1", "--threads", "1", "--device", "cpu",
           "--checkpoint-every", "0")  # fmt: skip


class Trials:
    """Trials against a store that nobody disturbed."""

    def __init__(self, commands: Commands) -> None:
        self.commands = commands
        self.folder = commands.shell.folder
        self.seconds = float("inf")
        for store in ("cold", "undisturbed"):  # what the first one reads from the disk would make every kill too late
            begin = time.monotonic()
            started = commands(*COMMAND, "--store", store)
            assert started.status == 0, started.output()
            self.seconds = min(self.seconds, time.monotonic() - begin)
        undisturbed = records_of(self.folder / "undisturbed")
        self.expected = {run: values_of(record) for run, (record,) in undisturbed.items()}
        self.counts: collections.Counter[str] = collections.Counter()

    def __call__(self, kind: str, number: int) -> None:
        """Kill once at a random moment, then run to the end, and compare."""
        source = random.Random(f"{kind} {number}")
        store = self.folder / f"{kind}-{number}"
        command = (*COMMAND, "--workers", source.choice(["1", "1", "2"]), "--store", str(store))
        started = self.commands.start(*command)
        self._wait(started, store, source)
        continued = self._kill(kind, started, store, source)
        started.wait()
        again = self.commands(*command)
        self.counts["trials"] += 1
        said = f"{kind} {number}: {again.output()}\n--- before ---\n{started.output()}"
        assert "Traceback" not in said, said
        assert again.status == 0, said
        self._compare(store, said, continued)

    def _wait(self, started: Started, store: Path, source: random.Random) -> None:
        """Until a random moment: mostly while runs are made, sometimes before."""
        while_runs_are_made = source.random() < 0.8
        while while_runs_are_made and started.status is None and not any(store.glob("active/*/events.jsonl")):
            time.sleep(0.005)
        time.sleep(source.random() * (0.6 if while_runs_are_made else 1.0) * self.seconds)

    def _kill(self, kind: str, started: Started, store: Path, source: random.Random) -> str | None:
        """Kill; returns the run that has to be continued from its checkpoint, where there is one."""
        target = started.pid
        if kind in {"server", "worker"}:
            server = server_of(started.pid)
            workers = workers_of(started.pid)
            end = time.monotonic() + 5.0
            while kind == "worker" and not workers and started.status is None and time.monotonic() < end:
                workers = workers_of(started.pid)
            target = source.choice(workers or [0]) if kind == "worker" else server or 0
        if started.status is not None or not target:
            self.counts[f"{kind}: came too late"] += 1
            return None
        run = run_of(store, target) if kind == "worker" else None
        could = run is not None and is_continuable(store, run)
        if kind == "group":
            os.killpg(target, signal.SIGKILL)
        else:
            kill(target)
        self.counts[kind] += 1
        if run is None or not could or not is_continuable(store, run):
            return None
        self.counts["worker: had a checkpoint"] += 1
        return run

    def _compare(self, store: Path, said: str, continued: str | None) -> None:
        records = records_of(store)
        results: dict[str, list[dict[str, Any]]] = {}
        for run, found in records.items():
            results[run] = [record for record in found if record["outcome"]["type"] in {"exhausted", "reached"}]
        self.counts["records of failures"] += sum(len(found) - len(results[run]) for run, found in records.items())
        assert results.keys() == self.expected.keys(), said
        assert {len(found) for found in results.values()} == {1}, said
        for run, (record,) in results.items():
            assert values_of(record) == self.expected[run], said
            self.counts["runs that were continued"] += record["continued"] > 0
        assert list((store / "active").iterdir()) == [], said
        assert not list(store.rglob(".*")), said
        if continued is not None:
            assert results[continued][0]["continued"] >= 1, said


@pytest.fixture
def trials(tiny_shell: Shell) -> Iterator[Trials]:
    tiny_shell.install("plug", optimizer_plugin(["time.sleep(0.004)"]), PLUG)
    with commands_in(tiny_shell) as commands:
        yield Trials(commands)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_kill_changes_nothing(trials: Trials) -> None:
    for kind in KINDS:
        trials(kind, 0)
    assert trials.counts["trials"] == len(KINDS)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_two_hundred_kills_change_nothing(trials: Trials) -> None:
    wrong = []
    for number in range(50):
        for kind in KINDS:
            try:
                trials(kind, number)
            except AssertionError as error:
                wrong.append(str(error))
            counts = json.dumps({"counts": trials.counts, "wrong": wrong}, indent=2)
            (trials.folder / "kills.json").write_text(counts, encoding="utf-8")
    assert wrong == []
    assert trials.counts["worker: had a checkpoint"] > 0
