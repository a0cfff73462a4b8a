"""Draws are those of torch, and a network that has diverged gets some."""

import re
from pathlib import Path

import pytest
import torch

import apo_bench
import baselines
from apo_bench.data.examples import Batch
from apo_bench.problem.draws import bernoulli, categorical
from apo_bench.problem.objectives import BernoulliCrossEntropy, CrossEntropy, Objective, TokenCrossEntropy

NAN = float("nan")
DTYPES = [torch.float32, torch.float64]


def sizes(source: torch.Generator) -> tuple[int, int]:
    rows, columns = torch.randint(1, 200, (2,), generator=source).tolist()
    return rows, columns


@pytest.mark.parametrize("dtype", DTYPES)
def test_classes_are_those_of_multinomial_and_leave_its_generator(dtype: torch.dtype) -> None:
    """From flat rows to rows in which all but one probability are rounded to 0."""
    ours, theirs, source = (torch.Generator().manual_seed(seed) for seed in (1, 1, 2))
    for number in range(200):
        logits = torch.randn(sizes(source), generator=source, dtype=dtype) * (number % 40)
        p = logits.softmax(dim=-1)
        assert torch.equal(categorical(p, ours), torch.multinomial(p, 1, generator=theirs).squeeze(1))
        assert torch.equal(ours.get_state(), theirs.get_state())


@pytest.mark.parametrize("dtype", DTYPES)
def test_coins_are_those_of_bernoulli_and_leave_its_generator(dtype: torch.dtype) -> None:
    """Also where the probabilities are not laid out row by row."""
    ours, theirs, source = (torch.Generator().manual_seed(seed) for seed in (1, 1, 2))
    for number in range(200):
        p = torch.sigmoid(torch.randn(sizes(source), generator=source, dtype=dtype) * (number % 40))
        p = p.T if number % 3 == 0 else p
        drawn = bernoulli(p, ours)
        assert drawn.dtype is dtype
        assert torch.equal(drawn, torch.bernoulli(p, generator=theirs))
        assert torch.equal(ours.get_state(), theirs.get_state())


@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf")])
@pytest.mark.parametrize("objective", [CrossEntropy(), BernoulliCrossEntropy()])
def test_outputs_that_are_not_finite_give_valid_targets(objective: Objective, value: float) -> None:
    """One such output, a row of them, and all; the other rows are drawn as if it were not there."""
    outputs = torch.randn(4, 5)
    targets = torch.zeros(4, dtype=torch.int64) if isinstance(objective, CrossEntropy) else outputs
    clean = objective.sample_targets(outputs, Batch((), targets), torch.Generator().manual_seed(0))
    for bad in ((slice(0, 1), slice(2, 3)), (slice(0, 1), slice(None)), (slice(None), slice(None))):
        broken = outputs.clone()
        broken[bad] = value
        drawn = objective.sample_targets(broken, Batch((), targets), torch.Generator().manual_seed(0))
        assert drawn.shape == clean.shape
        assert 0 <= int(drawn.min()) <= int(drawn.max()) < 5
        if bad[0].stop == 1:
            assert torch.equal(drawn[1:], clean[1:])


@pytest.mark.parametrize("padding", [0, 2, 4])
def test_the_padding_is_not_drawn_from_a_nan_either(padding: int) -> None:
    """As a target it would be none, and the mean over the tokens would be over fewer, without the NaN."""
    outputs = torch.randn(6, 3, 5)
    outputs[1:3] = NAN
    targets = torch.full((6, 3), 1)
    targets[:, 2] = padding
    objective, batch = TokenCrossEntropy(padding), Batch((), targets)
    drawn = batch._replace(targets=objective.sample_targets(outputs, batch, torch.Generator().manual_seed(0)))
    assert objective.normalizer(drawn) == objective.normalizer(batch) == 12
    assert bool(objective.loss(outputs, drawn).isnan())


@pytest.mark.parametrize("package", [apo_bench, baselines])
def test_nothing_asserts_on_the_device_that_a_network_is_sound(package: object) -> None:
    """These end a process's use of a card where a number is NaN, and no test of a CPU would tell."""
    asserting = r"\b(multinomial|bernoulli_?|poisson|binomial|binary_cross_entropy|one_hot|Categorical|Bernoulli)\("
    (folder,) = package.__path__  # type: ignore[attr-defined] # a package has one
    found = [
        f"{path.name}: {line.strip()}"
        for path in Path(folder).rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(asserting, line) and not re.search(r"def bernoulli|draws\.bernoulli", line)
    ]
    assert found == []
