"""The Transformer is torch's own layers, decodes step by step as it trains, and trains in every format."""

from typing import Any

import pytest
import torch
from support.devices import CPU
from torch import Tensor, nn

from apo_bench.data.examples import Batch
from apo_bench.models.transformer import (
    PAD,
    Attention,
    DecoderLayer,
    EncoderLayer,
    LayerNorm,
    Transformer,
    sinusoids,
    transformer,
)
from apo_bench.optim.competitors import apo_p
from apo_bench.optim.layers import find_layers
from apo_bench.problem.objectives import TokenCrossEntropy
from apo_bench.problem.precision import PrecisionPolicy
from apo_bench.problem.problem import Problem
from apo_bench.problem.rule import TorchRule
from apo_bench.records.spec import Precision
from baselines.kfac import kfac

EXACT: dict[str, Any] = {"rtol": 0.0, "atol": 1e-10}
LENGTHS = (5, 3, 1)


def _tiny(norm: str = "pre", dtype: torch.dtype = torch.float64) -> Transformer:
    """With biases and gains that are no zeros and ones, in evaluation mode."""
    model = transformer(11, layers=2, width=8, heads=2, hidden=12, dropout=0.0, norm=norm).to(dtype).eval()
    return _perturbed(model)  # type: ignore[no-any-return] # torch leaves it untyped


def _perturbed(module: Any) -> Any:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def _sources(positions: int = 5) -> Tensor:
    """Pieces 4 to 10, padded at the end."""
    pieces = torch.randint(4, 11, (len(LENGTHS), positions))
    return pieces.masked_fill(torch.arange(positions) >= torch.tensor(LENGTHS)[:, None], PAD)


def _batch() -> Batch:
    """As examples have it: int32, sources and targets padded, the decoder's input one place behind the targets."""
    targets = _sources(6)
    inputs = torch.cat([torch.ones(len(LENGTHS), 1, dtype=torch.long), targets[:, :-1]], dim=1)
    return Batch((_sources().int(), inputs.int()), targets.int())


def _problem(model: nn.Module, precision: Precision) -> Problem:
    policy = PrecisionPolicy(precision, CPU)
    policy.prepare(model)
    return Problem(model, TokenCrossEntropy(), policy, _batch)


@torch.no_grad()
def _copy_attention(own: Attention, theirs: nn.MultiheadAttention) -> None:
    parts = [own.query, own.key, own.value]
    theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
    theirs.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
    theirs.out_proj.load_state_dict(own.output.state_dict())


def _copy_rest(own: Any, theirs: Any) -> None:
    for number, norm in enumerate(own.norms, start=1):
        getattr(theirs, f"norm{number}").load_state_dict(norm.state_dict())
    theirs.linear1.load_state_dict(own.hidden.state_dict())
    theirs.linear2.load_state_dict(own.narrow.state_dict())


@pytest.mark.parametrize("prenorm", [True, False])
def test_an_encoder_layer_is_that_of_torch(prenorm: bool) -> None:  # noqa: FBT001 - a parameter of the test
    own = _perturbed(EncoderLayer(8, 2, 12, 0.0, prenorm=prenorm).double())
    theirs = nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True, norm_first=prenorm, dtype=torch.float64)
    _copy_attention(own.attention, theirs.self_attn)
    _copy_rest(own, theirs)
    x, seen = torch.randn(3, 5, 8, dtype=torch.float64), _sources() != PAD
    expected = theirs(x, src_key_padding_mask=~seen)
    torch.testing.assert_close(own(x, seen[:, None, None, :])[seen], expected[seen], **EXACT)


@pytest.mark.parametrize("prenorm", [True, False])
def test_a_decoder_layer_is_that_of_torch(prenorm: bool) -> None:  # noqa: FBT001 - a parameter of the test
    own = _perturbed(DecoderLayer(8, 2, 12, 0.0, prenorm=prenorm).double())
    theirs = nn.TransformerDecoderLayer(8, 2, 12, 0.0, batch_first=True, norm_first=prenorm, dtype=torch.float64)
    _copy_attention(own.attention, theirs.self_attn)
    _copy_attention(own.cross, theirs.multihead_attn)
    _copy_rest(own, theirs)
    x, memory = torch.randn(3, 4, 8, dtype=torch.float64), torch.randn(3, 5, 8, dtype=torch.float64)
    seen = _sources() != PAD
    later = torch.ones(4, 4, dtype=torch.bool).triu(1)
    expected = theirs(x, memory, tgt_mask=later, memory_key_padding_mask=~seen)
    torch.testing.assert_close(own(x, own.cross.remember(memory), seen[:, None, None, :]), expected, **EXACT)


@pytest.mark.parametrize(("norm", "expected"), [("post", 36_663_296), ("pre", 36_663_296 + 2 * 2 * 512)])
def test_parameters_are_as_many_as_the_formula_says(norm: str, expected: int) -> None:
    pieces, layers, width, hidden = 10_000, 6, 512, 1024
    attention = 4 * (width**2 + width)
    feed_forward = 2 * width * hidden + hidden + width
    each = 3 * attention + 2 * feed_forward + (2 + 3) * 2 * width
    final = 2 * 2 * width if norm == "pre" else 0
    with torch.device("meta"):
        model = transformer(pieces, layers, width, heads=4, hidden=hidden, norm=norm)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected
    assert pieces * width + layers * each + final == expected


def test_position_codes_are_those_of_the_paper_in_another_order() -> None:
    code = sinusoids(7, 1, 8, CPU)[0]
    for i in range(4):
        angle = torch.tensor(7.0 / 10_000 ** (2 * i / 8), dtype=torch.float64)
        torch.testing.assert_close(code[[i, 4 + i]], torch.stack([angle.sin(), angle.cos()]), **EXACT)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_later_target_changes_no_earlier_logit(norm: str) -> None:
    model, source = _tiny(norm), _sources()
    target = torch.randint(1, 11, (3, 6))
    before = model(source, target)
    for t in range(6):
        changed = target.clone()
        changed[:, t] = target[:, t] % 10 + 1
        after = model(source, changed)
        assert torch.equal(after[:, :t], before[:, :t])
        assert bool((after[:, t] != before[:, t]).any(dim=1).all())


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_more_padding_of_the_source_changes_nothing(norm: str) -> None:
    model, source = _tiny(norm), _sources()
    target = torch.randint(1, 11, (3, 6))
    longer = torch.cat([source, torch.full((3, 4), PAD)], dim=1)
    torch.testing.assert_close(model(longer, target), model(source, target), **EXACT)
    for row, length in enumerate(LENGTHS):
        alone = model(source[row : row + 1, :length], target[row : row + 1])
        torch.testing.assert_close(alone[0], model(source, target)[row], **EXACT)
    before, after = model.encode(source)[0], model.encode(longer)[0]
    torch.testing.assert_close(after[:, :5][source != PAD], before[source != PAD], **EXACT)


@pytest.mark.parametrize("norm", ["pre", "post"])
@torch.no_grad()
def test_decoding_step_by_step_gives_the_logits_of_training(norm: str) -> None:
    """With two rows a sentence, which change places and continue from one another on the way, and a sentence less."""
    model, source = _tiny(norm), _sources()
    sentences, state = torch.arange(3), model.start(source)
    written = torch.empty(6, 0, dtype=torch.long)
    for t in range(6):
        pieces = torch.randint(1, 11, (2 * len(sentences),))
        written = torch.cat([written, pieces[:, None]], dim=1)
        full = model(source[sentences].repeat_interleave(2, dim=0), written)[:, -1]
        torch.testing.assert_close(model.step(pieces, state), full, **EXACT)
        rows = torch.tensor([1, 0, 3, 3, 4, 5])[: len(written)]
        if t == 2:
            rows, kept = torch.tensor([1, 1, 5, 4]), torch.tensor([0, 2])
            state.keep(kept)
            sentences = sentences[kept]
        state.follow(rows)
        written = written[rows]


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("precision", [precision for precision in Precision if precision is not Precision.TF32])
def test_it_trains_in_every_format(precision: Precision, norm: str) -> None:
    problem = _problem(_tiny(norm, torch.float32), precision)
    batch = _batch()
    outputs = problem.outputs(batch)
    assert outputs.dtype is problem.precision.compute_dtype
    assert outputs.shape == (3, 6, 11)
    rule = TorchRule(problem, torch.optim.SGD(problem.parameters, lr=0.05))
    results = [rule.step(batch) for _ in range(8)]
    assert results[-1].applied  # the first loss scales may overflow
    assert results[-1].loss < results[0].loss
    assert all(bool(parameter.isfinite().all()) for parameter in problem.parameters)


@pytest.mark.parametrize("precision", [Precision.PURE_FP16, Precision.PURE_BF16])
def test_pure_formats_keep_normalization_in_float32(precision: Precision) -> None:
    model = _tiny(dtype=torch.float32)
    _problem(model, precision)
    norms = [module for module in model.modules() if isinstance(module, LayerNorm)]
    assert len(norms) == 2 * (2 + 3) + 2
    assert {parameter.dtype for norm in norms for parameter in norm.parameters()} == {torch.float32}
    assert model.embedding.weight.dtype not in {torch.float32, torch.float64}


def test_every_linear_layer_is_found_and_the_embedding_is_left() -> None:
    model = _tiny()
    names, parameters = zip(*model.named_parameters(), strict=True)
    layers, rest = find_layers(model, parameters)
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert {names[layer.weight] for layer in layers} == linear
    assert len(layers) == 2 * (4 + 2) + 2 * (8 + 2)
    assert all(layer.bias is not None for layer in layers)
    left = {names[place] for place in rest}
    assert {name for name in left if "norm" not in name} == {"embedding.weight"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 8, "heads": 3}, "3 heads do not divide a width of 8"),
        ({"width": 9, "heads": 3}, "the width is even, not 9"),
        ({"width": 8, "heads": 2, "norm": "both"}, "norm is 'pre' or 'post', not 'both'"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transformer(11, layers=1, hidden=12, **fields)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
@pytest.mark.parametrize("competitor", [apo_p, kfac], ids=["apo-p", "kfac"])
def test_optimizers_that_look_into_layers_take_steps(competitor: Any, precision: Precision) -> None:
    problem = _problem(_tiny(dtype=torch.float32).train(), precision)
    before = [parameter.clone() for parameter in problem.parameters]
    rule = competitor.build(problem, competitor.hyperparameters())
    results = [rule.step(_batch()) for _ in range(2)]
    assert all(bool(result.loss.isfinite()) for result in results)
    assert all(bool(parameter.isfinite().all()) for parameter in problem.parameters)
    if precision is Precision.FP32:  # in fp16 the first loss scales may overflow
        names = [name for name, _ in problem.model.named_parameters()]
        triples = zip(names, before, problem.parameters, strict=True)
        still = [name for name, old, new in triples if torch.equal(old, new)]
        assert all(name.endswith("key.bias") for name in still)  # attention does not see it: its gradient is rounding
