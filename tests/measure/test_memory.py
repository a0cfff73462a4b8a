"""What of the peak of memory was there before."""

import pytest
import torch
from support.devices import CPU

from apo_bench.measure import memory
from apo_bench.measure.memory import loaded_above_baseline

CUDA = torch.device("cuda", 0)


@pytest.fixture
def grown(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of what was loaded; 1000 bytes are resident before, and the allocator of a card has given out nothing."""
    sizes: list[int] = []
    monkeypatch.setattr(memory, "resident_bytes", lambda: 1000 + sum(sizes))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: {CUDA: sum(sizes)}[device])
    return sizes


@pytest.mark.parametrize(("device", "baseline"), [(CUDA, 300), (CPU, 1000), (torch.device("meta"), None)])
def test_the_data_are_below_the_baseline_on_a_card_and_above_it_on_a_cpu(
    device: torch.device, baseline: int | None, grown: list[int]
) -> None:
    def load() -> str:
        grown.append(300)
        return "data"

    assert loaded_above_baseline(load, device) == ("data", baseline)


def test_data_that_are_there_already_are_below_it_too(grown: list[int]) -> None:
    """As those of a probe, which all competitors share."""
    grown.append(300)
    assert loaded_above_baseline(lambda: None, CUDA)[1] == 300
