"""Instruments measure what they say."""

import sys

import pytest
import torch

from apo_bench.measure.clock import Clock
from apo_bench.measure.environment import environment
from apo_bench.measure.ledger import Ledger
from apo_bench.measure.memory import PeakMemory

CPU = torch.device("cpu")
MEBIBYTE = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="the peak resident set can be reset on Linux alone")
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


def test_the_environment_names_versions_and_threads() -> None:
    made = environment(CPU)
    assert made.torch == torch.__version__
    assert made.threads == torch.get_num_threads()
    assert made.device_name
    assert made.cuda is None
