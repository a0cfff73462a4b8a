"""KFAC and EKFAC see the same examples wherever a network puts them, or refuse the layer by its name."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.kfac import F64, curvature_of, dense_ggn, estimated, image_batch, problem_of
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from apo_bench import Batch, Precision, SquaredError
from apo_bench.errors import UsageError
from baselines.kfac.curvature import CorrectedCurvature, KroneckerCurvature
from baselines.kfac.damping import Eigenbasis
from baselines.kfac.factors import Sharing
from baselines.kfac.optimizer import KFAC
from baselines.kfac.settings import Fisher, Settings

Core = Callable[[Tensor], Tensor]


def _scattered(core: Core, x_BTD: Tensor) -> Tensor:
    """Rows in an order that nothing but the data knows, as behind a router."""
    order = torch.randperm(x_BTD.shape[0] * x_BTD.shape[1], generator=torch.Generator().manual_seed(5))
    z = core(x_BTD.flatten(0, 1)[order])
    return torch.empty_like(z).index_copy(0, order, z).reshape(*x_BTD.shape[:2], -1)


def _two_calls(core: Core, x_BTD: Tensor) -> Tensor:
    head, tail = core(x_BTD[:, :1]), core(x_BTD[:, 1:].transpose(0, 1)).transpose(0, 1)
    return torch.cat([head, tail], dim=1)


LAYOUTS: dict[str, Callable[[Core, Tensor], Tensor]] = {
    "examples first": lambda core, x: core(x),
    "flattened": lambda core, x: core(x.flatten(0, 1)).unflatten(0, x.shape[:2]),
    "positions first": lambda core, x: core(x.transpose(0, 1)).transpose(0, 1),
    "positions first, flattened": lambda core, x: torch.stack(core(torch.cat(x.unbind(1))).split(len(x)), 1),
    "a call a position": lambda core, x: torch.stack([core(part) for part in x.unbind(1)], 1),
    "a call an example": lambda core, x: torch.stack([core(part) for part in x]),
    "vectors": lambda core, x: torch.stack([torch.stack([core(row) for row in part]) for part in x]),
    "calls of different layouts": _two_calls,
}


class _Tokens(nn.Module):
    def __init__(self, layout: Callable[[Core, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)
        self.layout = layout

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.layout(lambda x: self.second(self.first(x).tanh()), x_BTD).mean(1)


def _token_batch(examples: int = 6, positions: int = 3) -> Batch:
    source = torch.Generator().manual_seed(1)
    inputs = torch.randn(examples, positions, 4, generator=source, dtype=F64)
    return Batch((inputs,), torch.randint(0, 3, (examples,), generator=source))


def _by_hand(model: "_Tokens", batch: Batch, count: int, sharing: Sharing) -> list[tuple[Tensor, Tensor]]:
    """Inputs with their 1 and the Fisher's gradients, by example and class, as (example, position, feature)."""
    x_NTI: list[list[Tensor]] = [[], []]
    g_MTO: list[list[Tensor]] = [[], []]
    for x_TD in batch.inputs[0][:count]:
        z = model.first(x_TD)
        hidden = z.tanh()
        scores = model.second(hidden)
        p = scores.mean(0).softmax(0).detach()
        inputs = [torch.cat([part.detach(), torch.ones(len(part), 1, dtype=F64)], 1) for part in (x_TD, hidden)]
        for c in range(3):
            v = p[c].sqrt() * (F.one_hot(torch.tensor(c), 3) - p)
            gradients = torch.autograd.grad(scores.mean(0) @ v, [z, scores], retain_graph=True)
            for place, gradient in enumerate(gradients):
                reduce = sharing is Sharing.REDUCE
                x_NTI[place].append(inputs[place].mean(0, keepdim=True) if reduce else inputs[place])
                g_MTO[place].append(gradient.sum(0, keepdim=True) if reduce else gradient)
    return [(torch.stack(x), torch.stack(g)) for x, g in zip(x_NTI, g_MTO, strict=True)]


@pytest.mark.parametrize("sharing", Sharing)
@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("positions", [3, 6])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_factors_agree_with_a_fisher_by_hand(layout: str, positions: int, share: float, sharing: Sharing) -> None:
    """With as many positions as examples too, where shapes say nothing."""
    model, batch = _Tokens(LAYOUTS[layout]).double(), _token_batch(positions=positions)
    count = -(-6 * share // 1)
    by_hand = _by_hand(model, batch, int(count), sharing)
    settings = Settings(lr=1e-12, momentum=0.0, fisher=Fisher.EXACT, sharing=sharing, factor_share=share)
    for kind in (KroneckerCurvature, CorrectedCurvature):
        rule = KFAC(problem_of(copy.deepcopy(model)), settings, kind)
        rule.step(batch)
        for curvature, (x, g) in zip(rule.curvatures, by_hand, strict=True):
            A = torch.einsum("nri,nrj->ij", x, x) / x[..., 0].numel()
            G = torch.einsum("nro,nrp->op", g, g) / count
            torch.testing.assert_close((curvature.A_II, curvature.G_OO), (A, G), rtol=1e-9, atol=1e-13)
            if isinstance(curvature, CorrectedCurvature):
                assert isinstance(curvature.inverse, Eigenbasis)
                in_basis = curvature.inverse.U_G.mT @ torch.einsum("nro,nri->noi", g, x) @ curvature.inverse.U_A
                torch.testing.assert_close(curvature.S_OI, in_basis.square().sum(0) / count, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_with_the_declared_defaults_all_layouts_train_alike(layout: str) -> None:
    trained = []
    for own in ("examples first", layout):
        model = _Tokens(LAYOUTS[own]).double()
        rule = KFAC(problem_of(model), Settings(lr=0.1, factor_share=0.25, factor_interval=2, inverse_interval=2))
        for _ in range(5):
            rule.step(_token_batch())
        trained.append(model.state_dict())
    torch.testing.assert_close(trained[0], trained[1], rtol=1e-9, atol=1e-12)


def test_the_positions_of_a_batch_may_differ_from_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of other lengths: a layer with a dimension for the examples is not asked again."""
    passes: list[int] = []
    for name in ("examples first", "positions first", "positions first, flattened"):
        model = _Tokens(LAYOUTS[name]).double()
        problem = problem_of(model)
        rule = KFAC(problem, Settings(lr=1e-12, momentum=0.0, factor_interval=1, factor_share=0.5, decay=0.0))
        whole = rule._examples._trace
        monkeypatch.setattr(rule._examples, "_trace", lambda *args, whole=whole: (passes.append(1), whole(*args))[1])  # type: ignore[func-returns-value] # counts, and passes on
        for positions in (2, 3, 6, 3):
            rule.step(_token_batch(positions=positions))
            (x, _), _ = _by_hand(model, _token_batch(positions=positions), 3, Sharing.EXPAND)
            expected = torch.einsum("nri,nrj->ij", x, x) / x[..., 0].numel()
            torch.testing.assert_close(rule.curvatures[0].A_II, expected, rtol=1e-9, atol=1e-13)
    assert len(passes) == 1 + 1 + 3


class _Frames(nn.Module):
    """A convolution over the frames of short films, which lie behind one another or are taken one by one."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kernel, self.head = nn.Conv2d(2, 3, 3), nn.Linear(3, 2)
        self.layout = layout

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        size = x_BTCHW.shape[:2]
        if self.layout == "films":
            maps = self.kernel(x_BTCHW.flatten(0, 1)).unflatten(0, size)
        elif self.layout == "frames":
            maps = self.kernel(x_BTCHW.transpose(0, 1).flatten(0, 1)).unflatten(0, size[::-1]).transpose(0, 1)
        else:
            maps = torch.stack([torch.stack([self.kernel(frame) for frame in film]) for film in x_BTCHW])
        out: Tensor = self.head(maps.tanh().mean((1, 3, 4)))
        return out


@pytest.mark.parametrize("sharing", Sharing)
@pytest.mark.parametrize("layout", ["films", "frames", "without a batch"])
def test_convolutions_over_frames_agree(layout: str, sharing: Sharing) -> None:
    batch = Batch((torch.randn(4, 4, 2, 5, 4, dtype=F64),), torch.randint(0, 2, (4,)))
    for kind in (KroneckerCurvature, CorrectedCurvature):
        found = []
        for own, share in (("films", 1.0), (layout, 0.5)):
            part = Batch((batch.inputs[0][:2],), batch.targets[:2]) if share == 1.0 else batch
            settings = Settings(lr=1e-12, momentum=0.0, fisher=Fisher.EMPIRICAL, sharing=sharing, factor_share=share)
            rule = KFAC(problem_of(_Frames(own).double()), settings, kind)
            rule.step(part)
            found.append([curvature.tensors() for curvature in rule.curvatures])
        torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_rows_in_no_order_agree_where_the_order_does_not_matter_and_are_refused_by_name_elsewhere(share: float) -> None:
    model, batch = _Tokens(_scattered).double(), _token_batch()
    got = estimated(problem_of(copy.deepcopy(model)), batch, fisher=Fisher.EXACT, factor_share=share)
    by_hand = _by_hand(model, batch, int(6 * share), Sharing.EXPAND)
    for curvature, (x, g) in zip(got.curvatures, by_hand, strict=True):
        A = torch.einsum("nri,nrj->ij", x, x) / x[..., 0].numel()
        G = torch.einsum("nro,nrp->op", g, g) / (6 * share)
        torch.testing.assert_close((curvature.A_II, curvature.G_OO), (A, G), rtol=1e-9, atol=1e-13)
    reduce = Settings(lr=0.1, sharing=Sharing.REDUCE, factor_share=share)
    for settings, kind in ((reduce, KroneckerCurvature), (Settings(lr=0.1), CorrectedCurvature)):
        with pytest.raises(UsageError, match=r"layer 'first' .*use kfac with sharing 'expand'") as caught:
            KFAC(problem_of(copy.deepcopy(model)), settings, kind).step(batch)
        assert "\n" not in str(caught.value)


class _Grid(nn.Module):
    """A network whose second input is a table that all examples share, with as many rows as there are examples."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.branch, self.trunk = nn.Linear(4, 5), nn.Linear(2, 5)
        self.register_buffer("grid", torch.randn(6, 2))

    def forward(self, x_BD: Tensor) -> Tensor:
        out: Tensor = self.branch(x_BD) @ self.trunk(self.grid).mT
        return out


def test_a_layer_whose_rows_all_examples_share_is_refused_by_name() -> None:
    batch = Batch((torch.randn(6, 4, dtype=F64),), torch.randn(6, 6, dtype=F64))
    with pytest.raises(UsageError, match="several examples share what layer 'trunk' is called with") as caught:
        KFAC(problem_of(_Grid().double(), SquaredError()), Settings(lr=0.1)).step(batch)
    assert "\n" not in str(caught.value)


class _Normalized(nn.Module):
    """Tokens behind a normalization over the batch, which lets every example depend on all."""

    def __init__(self, norm: nn.Module, *, flat: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.second = nn.Linear(4, 5), norm, nn.Linear(5, 3)
        self.flat = flat

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_MD = x_BTD.flatten(0, 1) if self.flat else x_BTD.transpose(0, 1).flatten(0, 1)
        z_MO = self.second(self.norm(self.first(x_MD)).tanh())
        z = z_MO.unflatten(0, x_BTD.shape[:2]) if self.flat else torch.stack(z_MO.split(len(x_BTD)), 1)
        return z.mean(1)


class _ByHand(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)) / (x.var(0) + 1e-5).sqrt()


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm1d(5), nn.BatchNorm1d(5, affine=False, track_running_stats=False), _ByHand()], ids=str
)
@pytest.mark.parametrize("sharing", Sharing)
def test_batch_normalization_does_not_hide_the_layout(norm: nn.Module, sharing: Sharing) -> None:
    batch = _token_batch(examples=48, positions=4)
    found = []
    for flat in (True, False):
        model = _Normalized(copy.deepcopy(norm), flat=flat).double()
        before = copy.deepcopy(model.state_dict())
        rule = estimated(problem_of(model), batch, fisher=Fisher.EMPIRICAL, sharing=sharing, factor_share=0.5)
        found.append([(curvature.A_II, curvature.G_OO) for curvature in rule.curvatures])
        assert model.state_dict().keys() == before.keys()
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-13)
    first = torch.cat([batch.inputs[0][:24], torch.ones(24, 4, 1, dtype=F64)], 2)
    rows = first.mean(1) if sharing is Sharing.REDUCE else first.flatten(0, 1)
    torch.testing.assert_close(found[0][0][0], rows.mT @ rows / len(rows), rtol=1e-9, atol=1e-13)


def test_looking_for_the_layout_leaves_no_trace() -> None:
    """Running statistics, dropout masks and parameters are those of a rule that need not look."""
    states = []
    for looks in (True, False):
        torch.manual_seed(7)
        model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3))
        for parameter in model[3].parameters():
            nn.init.zeros_(parameter)
        problem = problem_of(model)
        rule = KFAC(problem, Settings(lr=0.1, factor_share=0.5))
        if not looks:
            rule._examples._axes = {0: (0,), 1: (0,)}
        inputs = torch.randn(8, 4)
        for _ in range(3):
            rule.step(Batch((inputs,), torch.arange(8) % 3))
        states.append((model.state_dict(), rule.state_dict()["curvatures"], torch.get_rng_state()))
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)


def test_layers_behind_weights_that_start_at_zero_are_seen() -> None:
    model = _Tokens(LAYOUTS["positions first"]).double()
    nn.init.zeros_(model.second.weight)
    batch = _token_batch(positions=6)
    rule = estimated(problem_of(model), batch, fisher=Fisher.EXACT, factor_share=0.5)
    (x, _), _ = _by_hand(model, batch, 3, Sharing.EXPAND)
    torch.testing.assert_close(
        rule.curvatures[0].A_II, torch.einsum("nri,nrj->ij", x, x) / x[..., 0].numel(), rtol=1e-9, atol=1e-13
    )
    assert not model.second.weight.any()


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16, Precision.PURE_FP16, Precision.PURE_BF16])
def test_layouts_are_seen_in_16_bit(precision: Precision) -> None:
    found = []
    for layout in ("examples first", "positions first"):
        batch = _token_batch(positions=6)
        batch = Batch((batch.inputs[0].float(),), batch.targets)
        problem = problem_of(_Tokens(LAYOUTS[layout]), precision=precision)
        found.append(estimated(problem, batch, fisher=Fisher.EMPIRICAL, factor_share=0.5).curvatures[0].A_II)
    torch.testing.assert_close(found[0], found[1], rtol=1e-2, atol=1e-3)


class _Experts(nn.Module):
    """Every token goes to one of three experts; the last one gets none."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.experts = nn.ModuleList(nn.Linear(4, 3) for _ in range(3))

    def forward(self, x_BTD: Tensor) -> Tensor:
        tokens = x_BTD.flatten(0, 1)
        which = (tokens[:, 0] > 0).long()
        out = tokens.new_zeros(len(tokens), 3)
        for place, expert in enumerate(self.experts):
            here = (which == place).nonzero().squeeze(1)
            out = out.index_add(0, here, expert(tokens[here]))
        return out.reshape(*x_BTD.shape[:2], -1).mean(1)


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_a_router_may_leave_an_expert_without_tokens(share: float) -> None:
    model, batch = _Experts().double(), _token_batch()
    problem = problem_of(model)
    start = copy.deepcopy(model.state_dict())
    rule = KFAC(problem, Settings(lr=0.1, factor_interval=1, factor_share=share))
    for _ in range(3):
        assert rule.step(batch).applied
    assert [curvature.estimates for curvature in rule.curvatures] == [3, 3, 0]
    assert all(bool(parameter.isfinite().all()) for parameter in problem.parameters)
    assert torch.equal(model.state_dict()["experts.2.weight"], start["experts.2.weight"])
    count = 2 if share < 1 else 6
    tokens = batch.inputs[0][:count].flatten(0, 1)
    own = tokens[tokens[:, 0] > 0]
    own = torch.cat([own, torch.ones(len(own), 1, dtype=F64)], 1)
    torch.testing.assert_close(rule.curvatures[1].A_II, own.mT @ own / len(own), rtol=1e-9, atol=1e-13)


class _Packed(nn.Module):
    """A single linear layer over the tokens of all examples without the padding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 3, bias=False)

    def forward(self, x_BTD: Tensor, kept_BT: Tensor) -> Tensor:
        tokens: Tensor = self.layer(x_BTD[kept_BT])
        return tokens.new_zeros(len(x_BTD), 3).index_add(0, kept_BT.nonzero()[:, 0], tokens)


def test_packed_tokens_are_exact_on_a_linear_network() -> None:
    """As many tokens in each example; A ⊗ G is the Hessian where all inputs are alike."""
    kept = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]).bool()
    x = torch.randn(4, dtype=F64).expand(4, 3, 4).clone()
    problem = problem_of(_Packed().double(), SquaredError())
    batch = Batch((x, kept), torch.randn(4, 3, dtype=F64))
    rule = estimated(problem, batch, fisher=Fisher.EXACT)
    # expand leaves products of different positions out: T of T² are there
    torch.testing.assert_close(2 * curvature_of(rule, 0), dense_ggn(problem, batch, "layer.weight"), rtol=1e-9, atol=0)


def test_a_layer_that_the_outputs_do_not_depend_on_is_looked_for_once() -> None:
    model: Any = nn.ModuleDict({"used": nn.Linear(4, 3), "aside": nn.Linear(4, 3)}).double()

    def forward(x: Tensor) -> Tensor:
        model["aside"](x)
        out: Tensor = model["used"](x)
        return out

    model.forward = forward
    rule = KFAC(problem_of(model), Settings(lr=0.1, factor_interval=1))
    passes = []
    whole = rule._examples._trace
    rule._examples._trace = lambda *args: (passes.append(1), whole(*args))[1]  # type: ignore[method-assign, func-returns-value] # counts, and passes on
    for seed in range(4):
        inputs = image_batch(seed).inputs[0].flatten(1)[:, :4]
        rule.step(Batch((inputs,), torch.arange(8) % 3))
    assert len(passes) == 1
