"""Clock, ledger and memory: what counts as training and what does not."""

import dataclasses
import sys
import time

import pytest
import torch
from support.devices import CPU
from support.runs import TASK, run_spec

from apo_bench.data.examples import Splits
from apo_bench.measure import environment as environment_module
from apo_bench.measure.clock import Clock
from apo_bench.measure.memory import PeakMemory, resident_bytes
from apo_bench.plugins.registry import optimizers
from apo_bench.problem.ledger import Ledger
from apo_bench.training.trainer import train

MEBIBYTE = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="the peak resident set can be reset only on Linux")
def test_peak_memory_sees_what_came_after_its_start_and_nothing_before() -> None:
    before = PeakMemory(CPU)
    torch.ones(50 * MEBIBYTE)  # 200 MiB, freed at once
    peak = before.bytes()
    after = PeakMemory(CPU)
    torch.ones(10 * MEBIBYTE)
    later = after.bytes()
    if peak is None or later is None:
        pytest.skip("this system does not let a process reset its peak")
    assert 100 * MEBIBYTE < peak - later < 300 * MEBIBYTE


def test_the_clock_stands_still_outside_and_tells_training_from_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 3.0, 10.0, 10.5, 11.5, 12.0, 20.0, 21.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    clock = Clock(CPU)
    with clock.train():
        pass
    with clock.evaluate():  # looks at the time twice more, to keep the phases of evaluation apart
        pass
    with clock.train():
        pass
    assert (clock.training, clock.evaluating) == (4.0, 2.0)


def test_drawing_a_batch_is_not_training(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 1.5, 2.0, 4.0, 5.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    clock = Clock(CPU)
    with clock.train():
        with clock.ledger.phase("data"):
            pass
        with clock.ledger.phase("forward"):
            pass
    assert (clock.training, clock.data) == (4.5, 0.5)
    assert clock.ledger.seconds == {"data": 0.5, "forward": 2.0}


def test_the_outermost_phase_counts_and_an_error_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 2.0, 10.0, 11.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    ledger = Ledger(CPU)
    with pytest.raises(ZeroDivisionError), ledger.phase("meta"), ledger.phase("forward"):
        raise ZeroDivisionError
    with ledger.phase("forward"):
        pass
    assert ledger.seconds == {"meta": 2.0, "forward": 1.0}


def test_no_time_of_evaluation_counts_as_a_phase_of_training() -> None:
    clock = Clock(CPU)
    with clock.evaluate(), clock.ledger.phase("forward"):
        pass
    assert set(clock.ledger.seconds) == {"evaluation"}


@pytest.mark.skipif(sys.platform != "linux", reason="the resident set is read from /proc")
def test_the_resident_set_grows_by_what_is_held() -> None:
    before = resident_bytes()
    held = torch.ones(50 * MEBIBYTE)  # 200 MiB
    after = resident_bytes()
    assert before is not None
    assert after is not None
    assert 150 * MEBIBYTE < after - before < 250 * MEBIBYTE
    assert held.numel() == 50 * MEBIBYTE


@pytest.mark.skipif(sys.platform != "linux", reason="the resident set is read from /proc")
def test_a_runs_baseline_lies_below_its_peak_and_holds_no_data() -> None:
    held = []

    def load() -> Splits:
        held.append(torch.ones(50 * MEBIBYTE))  # 200 MiB
        return TASK.dataset.load()

    task = dataclasses.replace(TASK, dataset=dataclasses.replace(TASK.dataset, load=load))
    cost = train(run_spec(epochs=1), task, optimizers()["sgdm"].load(), CPU).cost
    assert cost.baseline_memory_bytes is not None
    if cost.peak_memory_bytes is None:
        pytest.skip("this system does not let a process reset its peak")
    assert cost.peak_memory_bytes - cost.baseline_memory_bytes > 150 * MEBIBYTE
    assert cost.peak_reserved_bytes is None


@pytest.mark.parametrize("name", ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"])
def test_the_allocator_is_named_with_its_settings(name: str) -> None:
    settings = "expandable_segments:True"
    assert environment_module._allocator({}) == "native"
    assert environment_module._allocator({name: settings}) == "native, expandable_segments:True"


@pytest.mark.timing
def test_the_phases_of_a_step_cost_less_than_a_hundredth_of_a_small_networks_step() -> None:
    """KFAC's step on LeNet has about 14 phases and takes 7 ms on two cores; the shortest of several tries counts."""
    ledger = Ledger(CPU)
    names = ("data", "forward", "forward", "curvature", "backward", *("curvature", "inverse") * 4, "update")
    times = []
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(100):
            for name in names:
                with ledger.phase(name):
                    pass
        times.append((time.perf_counter() - start) / 100)
    assert min(times) < 0.01 * 0.007


class _FakeEvent:
    """A CUDA event whose time is that of the host's clock."""

    made = 0

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        type(self).made += 1
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, other: "_FakeEvent") -> float:
        return 1000.0 * (other.at - self.at)


def test_on_cuda_what_a_reset_forgets_is_not_read_later_and_events_are_used_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "Event", _FakeEvent)
    monkeypatch.setattr(_FakeEvent, "made", 0)
    ledger = Ledger(torch.device("cuda"))
    with ledger.phase("forward"):  # the warm-up
        time.sleep(0.05)
    ledger.reset()
    for _ in range(10):
        with ledger.phase("forward"):
            pass
        ledger.settle()
    assert 0.0 < ledger.seconds["forward"] < 0.04
    assert _FakeEvent.made == 2


@pytest.mark.skipif(sys.platform != "linux", reason="the peak resident set can be reset only on Linux")
def test_what_is_done_aside_is_not_in_the_peak() -> None:
    memory = PeakMemory(CPU)
    torch.ones(20 * MEBIBYTE)  # 80 MiB
    before = memory.bytes()
    with memory.aside():
        torch.ones(100 * MEBIBYTE)
    after = memory.bytes()
    if before is None or after is None:
        pytest.skip("this system does not let a process reset its peak")
    assert before <= after < before + 40 * MEBIBYTE
    torch.ones(100 * MEBIBYTE)
    later = memory.bytes()
    assert later is not None
    assert later > before + 200 * MEBIBYTE
