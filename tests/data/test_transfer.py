"""Nothing that is sent to a card in a step waits for it."""

import pytest
import torch
from support.devices import CPU
from support.pretended_card import CUDA, Copy, PretendedCard
from support.runs import tiny_examples

from apo_bench.data.batches import Augmentation, BatchStream, crop_and_flip
from apo_bench.data.examples import Batch, Examples
from apo_bench.data.transfer import send

QUEUED = Copy(pinned=True, blocking=False)


def sequences() -> Examples:
    lengths_NP = torch.randint(1, 9, (330, 2), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(9)
    source, target = ((positions < lengths_NP[:, part, None]).long() for part in (0, 1))
    return Examples((source,), target, lengths_NP)


def stream(examples: Examples, augmentation: Augmentation | None) -> BatchStream:
    order, source = (torch.Generator().manual_seed(seed) for seed in (1, 2))
    return BatchStream(examples, 32, order, augmentation, source)


@pytest.mark.parametrize(
    ("examples", "augmentation"),
    [(tiny_examples(0, 330), None), (tiny_examples(0, 330), crop_and_flip(2)), (sequences(), None)],
    ids=["images", "augmented", "sequences"],
)
def test_batches_are_queued_and_those_of_a_cpu(examples: Examples, augmentation: Augmentation | None) -> None:
    """Over three passes, and continued in the middle of one."""
    expected = stream(examples, augmentation)
    with PretendedCard() as card:
        there = examples.to(CUDA)
        got = stream(there, augmentation)
        card.copies.clear()  # the examples themselves go once
        for number in range(30):
            if number == 15:
                state, got = got.state_dict(), stream(there, augmentation)
                got.load_state_dict(state)
            _same(got.draw(), expected.draw())
    assert card.copies == [QUEUED] * 30 * (1 if augmentation is None else 3)


def _same(one: Batch, other: Batch) -> None:
    assert one.targets.device == CUDA
    assert torch.equal(one.targets, other.targets)
    assert torch.equal(one.inputs[0], other.inputs[0])


def test_any_index_is_queued() -> None:
    """Also one that is not part of a permutation, as a corpus metric takes it; twice the same is pinned twice."""
    examples, index = tiny_examples(0, 330), torch.tensor([3, 1, 2])
    with PretendedCard() as card:
        there = examples.to(CUDA)
        card.copies.clear()
        for _ in range(2):
            _same(there.take(index), examples.take(index))
    assert card.copies == [QUEUED] * 2


def test_what_is_there_already_is_not_sent() -> None:
    with PretendedCard() as card:
        assert send(torch.arange(3, device=CUDA), CUDA).tolist() == [0, 1, 2]
    assert card.copies == []
    here = torch.arange(3)
    assert send(here, CPU) is here
