"""Padding and examples without a label: a padded batch has the factors of its examples by themselves, without padding.

The factors to agree with are made from each example alone, cut to its own length, by hooks of these tests.
"""

import copy
import itertools
from typing import Any

import pytest
import torch
from support.kfac import F64, curvature_of, dense_ggn, estimated, problem_of
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from apo_bench import Batch, CrossEntropy, Precision, Problem, SquaredError, TokenCrossEntropy
from apo_bench.models.transformer import PAD, transformer
from baselines.kfac.curvature import CorrectedCurvature, KroneckerCurvature
from baselines.kfac.damping import Eigenbasis
from baselines.kfac.factors import Sharing
from baselines.kfac.optimizer import KFAC
from baselines.kfac.reach import counted_outputs
from baselines.kfac.settings import Fisher, Settings

PIECES = 7
SOURCES, TARGETS = (5, 2, 4, 3), (2, 4, 1, 3)
TOKENS = TokenCrossEntropy(padding=PAD, label_smoothing=0.0)


def _translator(norm: str = "pre") -> nn.Module:
    torch.manual_seed(2)
    return transformer(PIECES, layers=1, width=8, heads=2, hidden=6, dropout=0.0, norm=norm).double()


def _sentences() -> list[Batch]:
    """Pairs of sentences, each as a batch of its own without padding."""
    source = torch.Generator().manual_seed(1)

    def pieces(length: int) -> Tensor:
        return torch.randint(1, PIECES, (1, length), generator=source)

    return [Batch((pieces(s), pieces(t)), pieces(t)) for s, t in zip(SOURCES, TARGETS, strict=True)]


def _padded(sentences: list[Batch]) -> Batch:
    def together(parts: list[Tensor]) -> Tensor:
        return nn.utils.rnn.pad_sequence([part[0] for part in parts], batch_first=True, padding_value=PAD)

    return Batch(
        (together([own.inputs[0] for own in sentences]), together([own.inputs[1] for own in sentences])),
        together([own.targets for own in sentences]),
    )


def _apart(problem: Problem, examples: list[Batch], sharing: Sharing) -> dict[nn.Module, tuple[Tensor, Tensor]]:
    """A and G of every linear layer, from the examples one at a time, with the data's own targets."""
    model = problem.model
    total = sum(problem.normalizer(example) for example in examples)
    x: dict[nn.Module, list[Tensor]] = {}
    g: dict[nn.Module, list[Tensor]] = {}
    for example in examples:
        seen: list[tuple[nn.Module, Tensor, Tensor]] = []

        def note(module: nn.Module, args: Any, output: Tensor, seen: list[Any] = seen) -> None:
            seen.append((module, args[0].detach(), output))

        handles = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, nn.Linear)]
        loss = problem.loss(model(*example.inputs), example) * problem.normalizer(example) / total
        for handle in handles:
            handle.remove()
        gradients = torch.autograd.grad(loss, [output for _, _, output in seen])
        for module in dict.fromkeys(module for module, _, _ in seen):
            calls = [place for place, (caller, _, _) in enumerate(seen) if caller is module]
            inputs = torch.cat([seen[place][1].flatten(0, -2) for place in calls])
            rows = torch.cat([inputs, torch.ones(len(inputs), 1, dtype=F64)], 1)
            own = torch.cat([gradients[place].flatten(0, -2) for place in calls])
            reduce = sharing is Sharing.REDUCE
            x.setdefault(module, []).append(rows.mean(0, keepdim=True) if reduce else rows)
            g.setdefault(module, []).append(own.sum(0, keepdim=True) if reduce else own)
    found = {}
    for module, rows_of_examples in x.items():
        x_MI, g_MO = torch.cat(rows_of_examples), torch.cat(g[module])
        found[module] = (x_MI.mT @ x_MI / len(x_MI), total * g_MO.mT @ g_MO)
    return found


def _agree(rule: KFAC, expected: dict[nn.Module, tuple[Tensor, Tensor]]) -> None:
    weights = {id(module.weight): factors for module, factors in expected.items()}
    assert len(rule.layers) == len(weights)
    for layer, curvature in zip(rule.layers, rule.curvatures, strict=True):
        factors = weights[id(rule.problem.parameters[layer.weight])]
        torch.testing.assert_close((curvature.A_II, curvature.G_OO), factors, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.parametrize("sharing", Sharing)
def test_a_padded_batch_has_the_factors_of_its_sentences(sharing: Sharing, share: float, norm: str) -> None:
    problem = problem_of(_translator(norm), TOKENS)
    sentences = _sentences()
    rule = estimated(problem, _padded(sentences), fisher=Fisher.EMPIRICAL, sharing=sharing, factor_share=share)
    _agree(rule, _apart(problem, sentences[: round(4 * share)], sharing))


def test_positions_whose_units_are_all_off_still_count() -> None:
    """Their gradients are zero as those of padding are, and they are no padding."""
    model = _translator()
    hidden: Any = model.encoder[0].hidden  # type: ignore[index, union-attr] # torch types submodules loosely
    with torch.no_grad():
        hidden.bias.fill_(-100.0)
    problem, sentences = problem_of(model, TOKENS), _sentences()
    rule = estimated(problem, _padded(sentences), fisher=Fisher.EMPIRICAL)
    expected = _apart(problem, sentences, Sharing.EXPAND)
    assert not expected[hidden][1].any()
    assert float(expected[hidden][0][-1, -1]) == 1.0
    _agree(rule, expected)


def test_second_moments_of_ekfac_are_those_of_the_sentences() -> None:
    problem, sentences = problem_of(_translator(), TOKENS), _sentences()
    rule = KFAC(problem, Settings(lr=1e-12, momentum=0.0, fisher=Fisher.EMPIRICAL), CorrectedCurvature)
    start = copy.deepcopy(problem.model.state_dict())
    rule.step(_padded(sentences))
    problem.model.load_state_dict(start)
    total = sum(problem.normalizer(own) for own in sentences)
    for layer, curvature in zip(rule.layers, rule.curvatures, strict=True):
        assert isinstance(curvature, CorrectedCurvature)
        assert isinstance(curvature.inverse, Eigenbasis)
        expected = torch.zeros_like(curvature.S_OI)  # type: ignore[arg-type] # there after a step
        for own in sentences:
            parameters = [problem.parameters[place] for place in layer.places]
            loss = problem.loss(problem.model(*own.inputs), own) * problem.normalizer(own) / total
            weight, bias = torch.autograd.grad(loss, parameters)
            gradient = torch.cat([weight, bias.unsqueeze(1)], 1)
            expected += total * (curvature.inverse.U_G.mT @ gradient @ curvature.inverse.U_A).square()
        torch.testing.assert_close(curvature.S_OI, expected, rtol=1e-9, atol=1e-14)


def test_more_padding_changes_no_step() -> None:
    """With the declared defaults, and targets drawn from the model at the same places."""
    ends = []
    for more in (0, 3):
        model = _translator()
        rule = KFAC(problem_of(model, TOKENS), Settings(lr=0.1, factor_interval=2, inverse_interval=2))
        batch = _padded(_sentences())
        source, decoder = (F.pad(part, (0, more), value=PAD) for part in batch.inputs)
        for _ in range(4):
            rule.step(Batch((source, decoder), F.pad(batch.targets, (0, more), value=PAD)))
        ends.append(model.state_dict())
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16, Precision.PURE_FP16, Precision.PURE_BF16])
def test_padding_is_seen_in_16_bit(precision: Precision) -> None:
    found = []
    for more in (0, 4):
        problem = problem_of(_translator().float(), TOKENS, precision=precision)
        batch = _padded(_sentences())
        inputs = (F.pad(batch.inputs[0], (0, more), value=PAD), batch.inputs[1])
        rule = estimated(problem, Batch(inputs, batch.targets), fisher=Fisher.EMPIRICAL)
        found.append([curvature.A_II for curvature in rule.curvatures])
    torch.testing.assert_close(found[0], found[1], rtol=2e-2, atol=2e-2)


class _Pooled(nn.Module):
    """Positions through two layers with a gate, then a mean over those that are no padding."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 3)
        self.layout = layout

    def forward(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        match self.layout:
            case "flattened":
                z = self._core(x_BTD.flatten(0, 1)).unflatten(0, x_BTD.shape[:2])
            case "positions first":
                z = self._core(x_BTD.transpose(0, 1)).transpose(0, 1)
            case "a call an example":
                z = torch.stack([self._core(own) for own in x_BTD])
            case "a call a position":
                z = torch.stack([self._core(own) for own in x_BTD.unbind(1)], 1)
            case _:
                z = self._core(x_BTD)
        kept = torch.arange(x_BTD.shape[1]) < lengths_B.unsqueeze(1)
        out: Tensor = self.head((z * kept.unsqueeze(2)).sum(1) / lengths_B.unsqueeze(1))
        return out

    def _core(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x).relu())
        return out


LAYOUTS = ["examples first", "flattened", "positions first", "a call an example", "a call a position"]


def _ragged(labels: tuple[int, ...] = (0, 2, 1, 1, 0)) -> tuple[Batch, list[Batch]]:
    """A padded batch, and its labelled examples by themselves."""
    source = torch.Generator().manual_seed(3)
    lengths = torch.tensor([3, 1, 4, 2, 2])
    x = torch.randn(5, 4, 4, generator=source, dtype=F64) * 9.0
    batch = Batch((x, lengths), torch.tensor(labels))
    alone = [
        Batch((x[n : n + 1, : int(lengths[n])], lengths[n : n + 1]), batch.targets[n : n + 1])
        for n, label in enumerate(labels)
        if label >= 0
    ]
    return batch, alone


@pytest.mark.parametrize("labels", [(0, 2, 1, 1, 0), (0, -100, 1, -100, 2)])
@pytest.mark.parametrize("sharing", Sharing)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_padding_and_missing_labels_in_every_layout(layout: str, sharing: Sharing, labels: tuple[int, ...]) -> None:
    problem = problem_of(_Pooled(layout).double())
    batch, alone = _ragged(labels)
    rule = estimated(problem, batch, fisher=Fisher.EMPIRICAL, sharing=sharing)
    _agree(rule, _apart(problem, alone, sharing))


@pytest.mark.parametrize("curvature", [KroneckerCurvature, CorrectedCurvature])
@pytest.mark.parametrize("fisher", Fisher)
def test_unlabelled_images_are_left_out(fisher: Fisher, curvature: type[KroneckerCurvature]) -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 3)).double()

    inputs = torch.randn(6, 1, 5, 5, generator=torch.Generator().manual_seed(0), dtype=F64)
    labels = torch.tensor([0, -100, 1, 2, -100, 1])
    kept = labels >= 0
    found = []
    for batch in (Batch((inputs,), labels), Batch((inputs[kept],), labels[kept])):
        rule = KFAC(problem_of(network()), Settings(lr=1e-12, momentum=0.0, fisher=fisher), curvature)
        rule._generator.manual_seed(0)
        if fisher is Fisher.TRUE:  # draws by place: the same targets for the same examples
            fixed = torch.tensor([1, -100, 0, 2, -100, 2])
            drawn = fixed if batch.size == 6 else fixed[kept]
            rule.problem.sample_targets = lambda *_, drawn=drawn: drawn  # type: ignore[method-assign] # draws on purpose
        rule.step(batch)
        found.append([own.tensors() for own in rule.curvatures])
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-13)


def test_examples_without_a_label_are_left_out_behind_batch_normalization_too() -> None:
    """They move its statistics, and so have gradients; yet they are no terms of the loss."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()
    inputs = torch.randn(6, 4, dtype=F64)
    labels = torch.tensor([0, -100, 1, 2, -100, 1])
    rule = estimated(problem_of(model), Batch((inputs,), labels), fisher=Fisher.EMPIRICAL)
    rows = torch.cat([inputs[labels >= 0], torch.ones(4, 1, dtype=F64)], 1)
    torch.testing.assert_close(rule.curvatures[0].A_II, rows.mT @ rows / 4, rtol=1e-12, atol=0)
    z = model[0](inputs)
    (gradient,) = torch.autograd.grad(F.cross_entropy(model[1:](z), labels), z)
    assert bool(gradient[labels < 0].any())
    own = gradient[labels >= 0]
    torch.testing.assert_close(rule.curvatures[0].G_OO, 4 * own.mT @ own, rtol=1e-9, atol=1e-14)


class _FirstPosition(nn.Module):
    """A linear network of which only the first position is read."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x_BTD))[:, 0]
        return out


def test_positions_that_are_never_read_are_left_out_and_the_factors_are_exact() -> None:
    """T8 on the positions that count: there A ⊗ G is the Fisher matrix, and with all of them it would not be."""
    batch = Batch((torch.randn(6, 3, 4, dtype=F64),), torch.randn(6, 2, dtype=F64))
    problem = problem_of(_FirstPosition().double(), SquaredError())
    rule = estimated(problem, batch, fisher=Fisher.EXACT)
    for place, name in enumerate(("first.weight", "second.weight")):
        torch.testing.assert_close(curvature_of(rule, place), dense_ggn(problem, batch, name), rtol=1e-9, atol=1e-14)


class _ByHand(nn.Module):
    """A gate that is a product with a mask, and so looks like one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head = nn.Linear(4, 1), nn.Linear(1, 3)

    def forward(self, x_BTD: Tensor) -> Tensor:
        z = self.first(x_BTD)
        out: Tensor = self.head((z * (z > 0)).mean(1))
        return out


def test_a_limitation_a_gate_by_hand_that_shuts_all_units_of_a_row_is_taken_for_a_mask() -> None:
    batch = Batch((torch.randn(6, 3, 4, dtype=F64),), torch.arange(6) % 3)
    model = _ByHand().double()
    rule = estimated(problem_of(model), batch, fisher=Fisher.EMPIRICAL)
    rows = batch.inputs[0].flatten(0, 1)
    open_ones = rows[model.first(rows).squeeze(1) > 0]
    assert 0 < len(open_ones) < len(rows)
    own = torch.cat([open_ones, torch.ones(len(open_ones), 1, dtype=F64)], 1)
    torch.testing.assert_close(rule.curvatures[0].A_II, own.mT @ own / len(own), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("objective", "outputs", "targets", "expected"),
    [
        (CrossEntropy(), (3, 4), torch.tensor([1, -100, 0]), [True, False, True]),
        (TOKENS, (2, 3, 4), torch.tensor([[1, 2, 0], [3, 0, 0]]), [True, True, False, True, False, False]),
        (SquaredError(), (2, 3), torch.zeros(2, 3), [True, True]),
    ],
    ids=["labels", "tokens", "numbers"],
)
def test_outputs_that_count_are_those_with_a_target(
    objective: Any, outputs: tuple[int, ...], targets: Tensor, expected: list[bool]
) -> None:
    """At saturated outputs too, where the loss has no gradient."""
    problem = problem_of(nn.Linear(2, 2), objective)
    got = counted_outputs(problem, torch.full(outputs, 1e4), Batch((), targets))
    assert got.flatten(0, -2).all(1).tolist() == got.flatten(0, -2).any(1).tolist() == expected


def test_looking_for_padding_leaves_no_trace() -> None:
    """The step is that of a rule which is told; generators, buffers and parameters are untouched."""
    model = _translator()
    problem, batch = problem_of(model, TOKENS), _padded(_sentences())
    rule = KFAC(problem, Settings(lr=0.1))
    with torch.no_grad():
        model.decoder[0].narrow.weight.zero_()  # type: ignore[index, union-attr] # torch types submodules loosely
    before = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    calls: list[Any] = []
    rule._update_curvature = lambda *_, **__: calls.append(1)  # type: ignore[method-assign] # nothing else changes
    rule._move = lambda gradients: None  # type: ignore[method-assign] # likewise
    rule.step(batch)
    torch.testing.assert_close((model.state_dict(), torch.get_rng_state()), before, rtol=0, atol=0)
    assert calls == [1]


def test_networks_without_positions_are_not_run_again() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)).double()
    rule = KFAC(problem_of(model), Settings(lr=0.1, factor_interval=1))
    passes = itertools.count()

    def count(*_: Any) -> None:
        next(passes)

    handle = model.register_forward_hook(count)
    batch = Batch((torch.randn(4, 1, 5, 5, dtype=F64),), torch.arange(4) % 3)
    for _ in range(3):
        rule.step(batch)
    handle.remove()
    assert next(passes) == 3 + 1  # one to see whose rows are whose
