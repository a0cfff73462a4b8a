"""Everything that may be told of a run reaches everyone who watches, the terminal among them."""

import inspect
import io
from typing import Any

import pytest
from rich.console import Console

from apo_bench.execution.watcher import Watcher, Watchers
from apo_bench.records.events import CurvePoint, Evaluated
from apo_bench.records.outcome import Exhausted
from apo_bench.records.spec import Budget, Device, OptimizerSpec, Precision, RunSpec
from apo_bench.session.progress import Display

RUN = RunSpec(
    task="t",
    optimizer=OptimizerSpec(name="o", hyperparameters={}),
    precision=Precision.FP32,
    seed=0,
    budget=Budget(epochs=1),
    device=Device.CPU,
)
POINT = CurvePoint(
    step=1,
    epoch=1.0,
    seconds=1.0,
    train_loss=1.0,
    validation_loss=1.0,
    validation=80.0,
    learning_rate_factor=1.0,
)
TOLD: dict[str, tuple[Any, ...]] = {
    "started": (RUN,),
    "event": (RUN, Evaluated(point=POINT)),
    "finished": (RUN, Exhausted()),
    "elsewhere": (2, "process 7 on host", 30.0),
    "warn": ("a probe is measuring; the next run waits for it",),
    "draining": (1,),
}
METHODS = [name for name, _ in inspect.getmembers(Watcher, inspect.isfunction) if not name.startswith("_")]


class Spy(Watcher):
    """Writes down what it is told."""

    def __init__(self, name: str, told: list[tuple[Any, ...]]) -> None:
        def spy(method: str) -> Any:
            return lambda *arguments: told.append((name, method, *arguments))

        for method in METHODS:
            setattr(self, method, spy(method))


@pytest.mark.parametrize("method", METHODS)
def test_everyone_is_told_of_everything_in_their_order(method: str) -> None:
    told: list[tuple[Any, ...]] = []
    both = Watchers([Spy("first", told), Spy("second", told)])
    getattr(both, method)(*TOLD[method])
    assert told == [(name, method, *TOLD[method]) for name in ("first", "second")]


def test_the_display_says_all_that_a_reader_waits_for() -> None:
    written = io.StringIO()
    watchers = Watchers([Watcher(), Display(Console(file=written, width=200), runs=1, expected={})])
    for method in METHODS:
        getattr(watchers, method)(*TOLD[method])
    lines = written.getvalue().splitlines()
    assert "apo-bench: a probe is measuring; the next run waits for it" in lines
    assert (
        "another process is running the remaining 2 runs; waiting for it, 30 s so far; Ctrl-C stops (process 7 on host)"
        in lines
    )
    assert "stopping after the 1 runs in flight; Ctrl-C again saves them and stops now" in lines
    assert "[1/1] t o fp32 seed 0: validation 80 after 1 epoch, 1.0 s" in lines
