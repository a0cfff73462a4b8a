"""A plugin that cannot be used is one line with its distribution; one that meddles changes nothing for the others."""

import gc
import importlib
import json
import locale
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

import numpy as np
import pytest
import torch
from support.hostile import DIGESTS, GOOD_OPTIMIZER, MEDDLERS, UNUSABLE_OPTIMIZERS, UNUSABLE_TASKS
from support.shell import TINY_TASK, Shell

from apo_bench.cli.main import main
from apo_bench.data.examples import Dataset
from apo_bench.errors import UsageError, kind_of, last_line
from apo_bench.plugins.datasets import what_is_wrong
from apo_bench.plugins.registry import OPTIMIZERS, TASKS, Registered, Registry, optimizers, tasks

KINDS = {OPTIMIZERS: UNUSABLE_OPTIMIZERS, TASKS: UNUSABLE_TASKS}
EVERY = [(group, name) for group, sources in KINDS.items() for name in sources]


@pytest.fixture
def site(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """Where plugins are installed for this process, each under the name ``plug``."""
    monkeypatch.syspath_prepend(str(shell.plugins))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two of one size within a second would be taken for one
    monkeypatch.setattr("apo_bench.plugins.registry.is_to_be_tried", lambda *_, **__: False)  # test_trial.py tries
    importlib.invalidate_caches()
    sys.modules.pop("plug", None)
    yield shell
    sys.modules.pop("plug", None)


def _plug(site: Shell, source: str, group: str) -> Registered:
    site.install("plug", source, f"[{group}]\nplug = plug:plug\n")
    found = [one.entry_points.select(group=group) for one in distributions(path=[str(site.plugins)])]
    return Registry(group, [point for points in found for point in points])["plug"]


def test_there_are_as_many_hostile_plugins_as_the_documents_say() -> None:
    assert len(UNUSABLE_OPTIMIZERS) >= 50
    assert len(UNUSABLE_TASKS) >= 35
    assert len(MEDDLERS) + len(DIGESTS) >= 25


@pytest.mark.parametrize(("group", "name"), EVERY)
def test_what_cannot_be_used_is_one_line_with_its_distribution(site: Shell, group: str, name: str) -> None:
    source, words = KINDS[group][name]
    entry = _plug(site, source, group)
    with pytest.raises(UsageError) as caught:
        entry.load() if group == OPTIMIZERS else entry.task()
    line = str(caught.value)
    assert line.startswith("'plug' from plug 1.0")
    assert words in line
    assert "\n" not in line
    assert len(line) < 900


@pytest.mark.parametrize(("group", "name"), EVERY[::9])
def test_listing_names_it_and_shows_the_others(
    site: Shell, group: str, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    source, _ = KINDS[group][name]
    kind = "optimizers" if group == OPTIMIZERS else "tasks"
    site.install("plug", source, f"[{group}]\nplug = plug:plug\n")
    assert main(["list", kind]) == 0
    assert main(["list", "plug"]) in {1, 2}
    assert capfd.readouterr().err.count("\n") == 1
    if kind == "optimizers":
        assert main(["list", kind, "--long", "--json"]) == 1
        out, err = capfd.readouterr()
        rows = {row["name"]: row for row in json.loads(out)[kind]}
        assert rows["plug"]["broken"].startswith("'plug' from plug 1.0")
        assert rows["sgdm"]["hyperparameters"].startswith("lr=")
        (line,) = err.splitlines()
        assert line.startswith("apo-bench: 'plug' from plug 1.0")
        assert line.isprintable()


@pytest.mark.parametrize("name", DIGESTS)
def test_a_digest_that_cannot_be_had_is_one_line(name: str) -> None:
    expression, words = DIGESTS[name]
    dataset = Dataset("moon", lambda: pytest.fail("is not loaded"), lambda: eval(expression))  # noqa: S307 - our own
    line = what_is_wrong(dataset)
    assert line is not None
    assert line.startswith("dataset 'moon' ")
    assert words in line


def _state() -> dict[str, object]:
    """What a plugin may have changed in passing."""
    mask = os.umask(0o022)
    os.umask(mask)
    return {
        "folder": Path.cwd(),
        "streams": (sys.stdin, sys.stdout, sys.stderr, sys.__stdout__, sys.excepthook),
        "closed": (sys.stdout.closed, sys.stderr.closed),
        "descriptors": [os.fstat(number).st_ino for number in (0, 1, 2)],
        "signals": [signal.getsignal(number) for number in sorted(signal.valid_signals())],
        "alarm": 0.0 < signal.getitimer(signal.ITIMER_REAL)[0] < 10.0,  # a longer one is the test's own limit
        "mask": mask,
        "locale": locale.setlocale(locale.LC_ALL),
        "warnings": [one for one in warnings.filters if one[0] == "error"],
        "limits": (sys.getrecursionlimit(), gc.isenabled()),
        "seeds": (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()),  # type: ignore[index] # noqa: NPY002
        "torch": (torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled(), torch.get_num_threads()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }  # fmt: skip


SLOW = {"deterministic"}
"""For torch, which then imports its compiler."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in MEDDLERS])
def test_what_is_done_in_passing_is_undone(site: Shell, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    source = f"{MEDDLERS[name]}\n{GOOD_OPTIMIZER}"
    before = _state()
    assert _plug(site, source, OPTIMIZERS).load().title == "A plugin."
    assert _state() == before
    sys.modules.pop("plug")
    site.install("plug", source, f"[{OPTIMIZERS}]\nplug = plug:plug\n")
    assert main(["list", "plug", "--json"]) == 0
    (row,) = json.loads(capfd.readouterr().out)  # nothing is printed into it, and it is printed once
    assert row["hyperparameters"] == "lr=0.1"
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """Also where the tests are run in the background of a shell, which lets them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_ctrl_c_during_an_import_is_the_users(site: Shell) -> None:
    source = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(5)"
    with pytest.raises(KeyboardInterrupt):
        _plug(site, source, OPTIMIZERS).load()


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_ctrl_c_is_the_users_in_a_call_within_a_call(site: Shell) -> None:
    entry = _plug(site, "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(5)", OPTIMIZERS)
    with pytest.raises(KeyboardInterrupt):
        entry.held(entry.load)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"[apo_bench.optimizers]\nplug\n", "the entry points of plug 1.0 cannot be read (TypeError: "),
        (b"[apo_bench.optimizers]\nplug = plug:\xff\n", "the entry points of plug 1.0 cannot be read (UnicodeDecodeError: "),
        (b"[apo_bench.optimizers]\nplug =\n", "optimizer 'plug' of plug 1.0 names no object (AttributeError: "),
        (b"[apo_bench.optimizers]\nplug = a b c\n", "optimizer 'plug' of plug 1.0 names no object (AttributeError: "),
        (b"[apo_bench.optimizers]\nPl ug = plug:plug\n", "optimizer name 'Pl ug' of plug 1.0 is not usable; use up to 80 of"),
        (b"[apo_bench.optimizers]\n" + b"x" * 9000 + b" = plug:plug\n", "xxx…', 9000 characters of plug 1.0 is not usable; use"),
        (b"[apo_bench.optimizers]\nsgdm = plug:plug\n", "optimizer 'sgdm' is registered by both "),
    ],
)  # fmt: skip
def test_metadata_that_cannot_be_used_stop_nothing_else(
    site: Shell, text: bytes, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    site.install("plug", GOOD_OPTIMIZER, "")
    (site.plugins / "plug-1.0.dist-info" / "entry_points.txt").write_bytes(text)
    importlib.invalidate_caches()
    assert main(["list"]) == 1
    out, err = capfd.readouterr()
    (line,) = err.splitlines()
    assert words in line
    assert "kfac" in out
    assert "cifar10.lenet" in out


def test_a_list_of_entry_points_that_is_not_meant_for_us_is_passed_over(site: Shell) -> None:
    site.install("plug", "", "[console_scripts]\nplug\n")
    importlib.invalidate_caches()
    assert "kfac" in optimizers().names()
    assert "cifar10.lenet" in tasks().names()
    assert optimizers().refused == ()


def test_what_an_error_says_is_one_line_whatever_it_is() -> None:
    class OddText(str):
        __slots__ = ()

        def splitlines(self, keepends: bool = False) -> list[str]:  # noqa: FBT001, FBT002 - as of str
            raise SystemExit

    class OddError(Exception):
        def __str__(self) -> str:
            return OddText("text")

    assert last_line(OddError()) == "OddError: text"
    assert last_line(ValueError("a\x85b\x00c")) == "ValueError: a"
    assert last_line(UsageError("do this")) == "do this"
    assert len(last_line(type("N" * 10_000, (Exception,), {})("x"))) < 100
    assert kind_of(type("M", (type,), {"__name__": property(lambda self: 1 / 0)})("X", (), {})()) == "X"


def test_an_unusable_task_is_listed_among_the_datasets_as_nothing(
    site: Shell, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APO_BENCH_DATA", str(site.folder / "data"))
    source = TINY_TASK.replace('lambda: "tiny-1"', "lambda: 1 / 0").replace("def tiny", "def plug")
    site.install("plug", source, f"[{TASKS}]\nplug = plug:plug\n")
    assert main(["data", "verify", "tiny"]) == 1
    out, err = capfd.readouterr()
    assert out == "tiny  absent: dataset 'tiny' has no digest (ZeroDivisionError: division by zero); fix its plugin\n"
    assert err == ""
