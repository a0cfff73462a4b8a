"""Every operator has the right formula, is left out by name, or is named as the reason why there is no count."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import flop_registry, register_flop_formula

from apo_bench.measure import formulas
from apo_bench.measure.counter import FlopCounter
from apo_bench.planning.cost import passes_cost
from apo_bench.plugins.registry import tasks

BATCH, LENGTH, INPUTS, HIDDEN = 4, 5, 6, 8


def _flops(work: Callable[[], object]) -> int:
    counter = FlopCounter()
    with counter:
        work()
    assert counter.reason is None
    return counter.counted


def _reason(work: Callable[[], object]) -> str:
    counter = FlopCounter()
    with counter:
        work()
    assert counter.flops is None
    return str(counter.reason)


def _both(model: Callable[..., Tensor], *inputs: Tensor) -> int:
    return _flops(lambda: model(*inputs).sum().backward())


def _recurrent(
    kind: str, dtype: torch.dtype, *, needs: bool, layers: int, both_ways: bool, first: bool, state: bool
) -> int:
    torch.manual_seed(0)
    module = getattr(nn, kind)(
        INPUTS, HIDDEN, num_layers=layers, bidirectional=both_ways, batch_first=first, dtype=dtype
    )
    inputs = torch.randn(*((BATCH, LENGTH) if first else (LENGTH, BATCH)), INPUTS, dtype=dtype, requires_grad=needs)
    start = torch.zeros(layers * (1 + both_ways), BATCH, HIDDEN, dtype=dtype, requires_grad=state)
    return _both(lambda x: module(x, (start, start.detach()) if kind == "LSTM" else start)[0], inputs)


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_a_recurrent_layer_costs_what_a_hand_count_says(kind: str, gates: int) -> None:
    rows, by_inputs, by_state = BATCH * LENGTH, gates * HIDDEN * INPUTS, gates * HIDDEN * HIDDEN
    # forward and by the weights; by the state at every step but the first, whose state is given
    expected = 2 * 2 * rows * (by_inputs + by_state) + 2 * (rows - BATCH) * by_state
    found = _recurrent(kind, torch.float32, needs=False, layers=1, both_ways=False, first=True, state=False)
    assert found == expected


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("needs", [False, True])
@pytest.mark.parametrize(
    ("layers", "both_ways", "first", "state"),
    [(1, False, False, False), (3, False, True, False), (2, True, True, False), (1, True, False, True)],
)
def test_a_fused_recurrent_layer_counts_like_its_products(
    kind: str,
    needs: bool,  # noqa: FBT001
    layers: int,
    both_ways: bool,  # noqa: FBT001
    first: bool,  # noqa: FBT001
    state: bool,  # noqa: FBT001
) -> None:
    """In float64 torch has no fused kernel on a CPU."""
    fused, apart = (
        _recurrent(kind, dtype, needs=needs, layers=layers, both_ways=both_ways, first=first, state=state)
        for dtype in (torch.float32, torch.float64)
    )
    assert fused == apart > 0


def test_frozen_weights_of_a_recurrent_layer_get_no_gradient() -> None:
    counts = []
    for dtype in (torch.float32, torch.float64):
        module = nn.LSTM(INPUTS, HIDDEN, dtype=dtype)
        module.weight_ih_l0.requires_grad_(False)
        inputs = torch.randn(LENGTH, BATCH, INPUTS, dtype=dtype)
        counts.append(_both(lambda x, module=module: module(x)[0], inputs))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("lengths", [None, (5, 4, 4, 1)])
@pytest.mark.parametrize("projection", [0, 3])
@pytest.mark.parametrize(("layers", "both_ways"), [(1, False), (2, True)])
@pytest.mark.parametrize("needs", [False, True])
def test_the_kernel_of_cudnn_counts_like_the_products(
    lengths: tuple[int, ...] | None,
    projection: int,
    layers: int,
    both_ways: bool,  # noqa: FBT001
    needs: bool,  # noqa: FBT001
) -> None:
    """By its formula alone, as the operator would be called on a card."""
    directions = 1 + both_ways
    module = nn.LSTM(INPUTS, HIDDEN, layers, bidirectional=both_ways, proj_size=projection, dtype=torch.float64)
    inputs = torch.randn(LENGTH, BATCH, INPUTS, dtype=torch.float64, requires_grad=needs)
    packed = None if lengths is None else nn.utils.rnn.pack_padded_sequence(inputs, torch.tensor(lengths))
    if packed is None:
        apart = _both(lambda x: module(x)[0], inputs)
        rows: tuple[int, ...] = (LENGTH, BATCH)
        sizes: list[int] = []
    else:
        apart = _flops(lambda: module(packed)[0].data.sum().backward())
        rows, sizes = (sum(lengths or ()),), packed.batch_sizes.tolist()
    weights = [tuple(weight.shape) for weight in module.parameters()]
    shape, state = (*rows, INPUTS), (layers * directions, BATCH, projection or HIDDEN)
    fused = formulas._cudnn_rnn(shape, weights)
    others = ((), (), (), (), (), 2, HIDDEN, projection, layers, False, 0.0, True, both_ways, sizes, None, ())
    fused += formulas._cudnn_rnn_backward(
        shape, weights, len(weights) // (layers * directions), (), state, *others, [needs, False, False, True]
    )
    assert fused == apart > 0


def test_bilinear_costs_what_torch_multiplies() -> None:
    module = nn.Bilinear(3, 4, 5)
    one, two = torch.randn(2, 3), torch.randn(2, 4)
    forward = 2 * 2 * 5 * 3 * 4 + 2 * 2 * 5 * 4  # by the weights, then by the second input
    assert _flops(lambda: module(one, two)) == forward
    assert _both(module, one, two) == forward + 2 * 2 * 5 * 3 + 2 * 2 * 5 * 3 * 4


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("needs", [False, True])
def test_a_grouped_convolution_costs_its_groups(groups: int, needs: bool) -> None:  # noqa: FBT001
    inputs = torch.randn(2, 6, 8, 8, requires_grad=needs)
    forward = 2 * 2 * 6 * 6 * 12 * (6 // groups) * 3 * 3
    assert _both(nn.Conv2d(6, 12, 3, groups=groups), inputs) == forward * (3 if needs else 2)


@pytest.mark.parametrize("groups", [1, 3])
def test_a_transposed_convolution_costs_its_inputs_places(groups: int) -> None:
    inputs = torch.randn(2, 6, 5, requires_grad=True)
    forward = 2 * 2 * 5 * 6 * (9 // groups) * 4
    assert _both(nn.ConvTranspose1d(6, 9, 4, stride=2, groups=groups), inputs) == 3 * forward


def test_a_solution_for_a_batch_of_matrices_is_one_for_each() -> None:
    definite = torch.eye(6).expand(4, 6, 6)
    right = torch.ones(6, 5)
    assert _flops(lambda: torch.linalg.solve(definite, right)) == 4 * (2 * 6**3 / 3 + 2 * 6**2 * 5)
    assert _flops(lambda: torch.linalg.solve_triangular(definite, right, upper=True)) == 4 * 6**2 * 5
    assert _flops(lambda: torch.cholesky_solve(right, definite)) == 4 * 2 * 6**2 * 5


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda: torch.linalg.det(torch.eye(6)), 2 * 6**3 / 3),
        (lambda: torch.linalg.slogdet(torch.eye(6).expand(4, 6, 6)), 4 * 2 * 6**3 / 3),
        (lambda: torch.linalg.lu_factor(torch.eye(6)), 2 * 6**3 / 3),
        (lambda: torch.linalg.ldl_factor(torch.eye(6)), 6**3 / 3),
        (lambda: torch.linalg.matrix_power(torch.eye(6), 4), 2 * 2 * 6**3),
        (lambda: torch.einsum("bik,bkj->bij", torch.ones(2, 3, 4), torch.ones(2, 4, 5)), 2 * 2 * 3 * 4 * 5),
        (lambda: torch.baddbmm(torch.ones(2, 3, 5), torch.ones(2, 3, 4), torch.ones(2, 4, 5)), 2 * 2 * 3 * 4 * 5),
        (lambda: torch.ones(3, 5).addmm_(torch.ones(3, 4), torch.ones(4, 5)), 2 * 3 * 4 * 5),
        (lambda: torch.conv_tbc(torch.ones(5, 2, 3), torch.ones(3, 3, 4), torch.ones(4)), 2 * 3 * 2 * 36),
        (lambda: functional.embedding(torch.zeros(3, dtype=torch.int64), torch.ones(4, 5)), 0),
        (lambda: torch.ones(9).cumsum(0).sort().values.softmax(0).norm(), 0),
    ],
)
def test_by_hand(work: Callable[[], object], expected: float) -> None:
    assert _flops(work) == expected


def test_attention_and_a_layer_without_gradients_count_as_with_them() -> None:
    """Where torch takes its fast path: one operator for a whole layer."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    tokens = torch.randn(3, 5, 8)
    slow = _flops(lambda: layer.train()(tokens))
    with torch.no_grad():
        assert _flops(lambda: layer.eval()(tokens)) == slow > 0
        attention = layer.self_attn
        fast = _flops(lambda: attention.eval()(tokens, tokens, tokens, need_weights=False))
        assert fast == _flops(lambda: attention.train()(tokens, tokens, tokens, need_weights=False)) > 0


_LABELS = torch.ones(2, 3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("name", "work"),
    [
        (
            "aten._ctc_loss",
            lambda: functional.ctc_loss(
                torch.randn(8, 2, 5).log_softmax(-1), _LABELS, _LABELS[0, :2] * 8, _LABELS[0, :2] * 3
            ),
        ),
        ("aten._embedding_bag", lambda: nn.EmbeddingBag(4, 3)(_LABELS)),
        ("aten._fft_r2c", lambda: torch.fft.rfft(torch.ones(8))),
        ("aten._cdist_forward", lambda: torch.cdist(torch.ones(3, 4), torch.ones(3, 4))),
        ("aten._euclidean_dist", lambda: torch.cdist(torch.ones(30, 4), torch.ones(30, 4))),
        ("aten._pdist_forward", lambda: functional.pdist(torch.ones(3, 4))),
        ("aten._linalg_svd", lambda: torch.linalg.svd(torch.eye(4))),
        ("aten.linalg_pinv", lambda: torch.linalg.pinv(torch.eye(4))),
        ("aten.linalg_eig", lambda: torch.linalg.eigvals(torch.eye(4))),
        ("aten.linalg_lstsq", lambda: torch.linalg.lstsq(torch.eye(4), torch.ones(4, 1))),
        ("aten.linalg_matrix_exp", lambda: torch.linalg.matrix_exp(torch.eye(4))),
        ("aten.mm (sparse or nested tensors)", lambda: torch.eye(4).to_sparse() @ torch.eye(4)),
        (
            "aten.mm (complex numbers)",
            lambda: torch.eye(4, dtype=torch.complex64) @ torch.eye(4, dtype=torch.complex64),
        ),
    ],
)
def test_what_has_no_formula_is_named(name: str, work: Callable[[], object]) -> None:
    assert name in _reason(work)


def test_an_operator_of_somebody_elses_is_named_until_its_formula_is_registered() -> None:
    @torch.library.custom_op("apo_bench_test::product", mutates_args=())
    def product(one: Tensor, other: Tensor) -> Tensor:
        return one @ other

    def work() -> Tensor:
        result: Tensor = product(torch.ones(2, 3), torch.ones(3, 4))
        return result

    reason = _reason(work)
    assert "apo_bench_test.product" in reason
    assert "register_flop_formula" in reason
    operator = torch.ops.apo_bench_test.product
    try:
        register_flop_formula(operator)(lambda one, other, **_: 2 * one[0] * one[1] * other[1])
        assert _flops(work) == 2 * 2 * 3 * 4
    finally:
        flop_registry.pop(operator, None)


def test_a_gradient_of_a_gradient_is_counted() -> None:
    convolution = nn.Conv2d(3, 4, 3)
    images = torch.randn(2, 3, 8, 8, requires_grad=True)

    def penalty() -> None:
        (gradient,) = torch.autograd.grad(convolution(images).square().sum(), images, create_graph=True)
        gradient.square().sum().backward()

    assert _flops(penalty) > 0


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
def test_a_derivative_in_forward_mode_is_counted() -> None:
    """Of torch's primitives, which know no tags."""
    matrix = torch.ones(3, 3)
    hessian = torch.func.hessian(lambda point: functional.log_softmax(matrix @ point, 0)[0] + point.norm())
    assert _flops(lambda: hessian(torch.ones(3))) > 0


@pytest.mark.parametrize("name", tasks().names())
def test_every_registered_network_is_counted(name: str) -> None:
    cost = passes_cost(tasks()[name].load()())
    assert cost.reason is None
    assert cost.flops
