"""Every precision computes in the format it names, and the emulation is held to the native kernels."""

import copy
from collections.abc import Callable

import pytest
import torch
from support.devices import CPU
from torch import Tensor, nn

from apo_bench.data.examples import Batch
from apo_bench.errors import UsageError
from apo_bench.plugins.registry import tasks
from apo_bench.problem.emulation import EmulatedProducts
from apo_bench.problem.objectives import CrossEntropy
from apo_bench.problem.precision import LossScale, PrecisionPolicy
from apo_bench.problem.problem import Problem
from apo_bench.problem.rule import TorchRule
from apo_bench.records.facts import PrecisionBackend
from apo_bench.records.spec import Precision, Scale
from apo_bench.suites import suite

COMPUTES = {
    Precision.FP32: torch.float32,
    Precision.BF16: torch.bfloat16,
    Precision.FP16: torch.float16,
    Precision.PURE_BF16: torch.bfloat16,
    Precision.PURE_FP16: torch.float16,
}
MODELS: dict[str, Callable[[], nn.Module]] = {
    entry.task.partition(".")[2]: tasks()[entry.task].load()().model
    for entry in suite("classification", Scale.LOCAL).tasks
}


def _batch(n: int = 4) -> Batch:
    source = torch.Generator().manual_seed(0)
    return Batch((torch.randn(n, 1, 28, 28, generator=source),), torch.randint(0, 10, (n,), generator=source))


def _problem(precision: Precision, model: nn.Module, backend: PrecisionBackend | None = None) -> Problem:
    policy = PrecisionPolicy(precision, CPU, backend)
    policy.prepare(model)
    return Problem(model, CrossEntropy(), policy, _batch)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("precision", COMPUTES)
def test_convolutions_put_out_the_format_of_the_precision(precision: Precision, model: str) -> None:
    seen: set[torch.dtype] = set()

    def look(module: nn.Module, inputs: object, output: Tensor) -> None:
        seen.add(output.dtype)

    network = MODELS[model]()
    problem = _problem(precision, network)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(look)
    rule = TorchRule(problem, torch.optim.SGD(problem.parameters, lr=0.1, momentum=0.9))
    results = [rule.step(_batch()) for _ in range(4)]
    assert seen == {COMPUTES[precision]}
    assert {result.loss.dtype for result in results} == {torch.float32}
    assert results[-1].applied  # the first loss scales may overflow


@pytest.mark.parametrize("precision", [Precision.PURE_FP16, Precision.PURE_BF16])
def test_pure_formats_store_all_but_normalization_in_16_bit(precision: Precision) -> None:
    network = MODELS["resnet18-w8"]()
    policy = PrecisionPolicy(precision, CPU)
    facts = policy.prepare(network)
    norms = {name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert set(facts.kept_fp32) == norms | {"loss"}
    for name, parameter in network.named_parameters():
        expected = torch.float32 if name.rpartition(".")[0] in norms else COMPUTES[precision]
        assert parameter.dtype == expected, name


def test_autocast_keeps_master_weights() -> None:
    network = MODELS["lenet"]()
    facts = PrecisionPolicy(Precision.FP16, CPU).prepare(network)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert facts.backend is PrecisionBackend.EMULATED
    assert "parameters" in facts.kept_fp32


def test_tf32_needs_cuda() -> None:
    with pytest.raises(UsageError, match="'tf32' needs a CUDA device"):
        PrecisionPolicy(Precision.TF32, CPU)


class _Watched(EmulatedProducts):
    """Counts the products that were emulated."""

    products = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN204 - torch's own signature
        from apo_bench.problem import emulation

        self.products += func in emulation._PRODUCTS
        return super().__torch_dispatch__(func, types, args, kwargs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(4, 8, 3, stride=2, groups=2, bias=False),
        nn.Linear(6, 5),
        nn.Linear(6, 5, bias=False),
    ],
    ids=["conv", "grouped conv", "linear", "linear without bias"],
)
def test_emulation_agrees_with_native_kernels(layer: nn.Module, dtype: torch.dtype) -> None:
    """Forward and all gradients, up to a rounding in 16 bit: native kernels may add in another order."""
    torch.manual_seed(0)
    shape = (2, layer.in_channels, 6, 6) if isinstance(layer, nn.Conv2d) else (7, 6)
    inputs = torch.randn(shape)
    mode = _Watched()  # type: ignore[no-untyped-call] # a mode of torch has no annotations
    results = []
    for context in (torch.no_grad, None):
        module = copy.deepcopy(layer).to(dtype)
        x = inputs.to(dtype).requires_grad_()
        if context is None:
            with mode:
                out = module(x)
                out.backward(torch.ones_like(out))
        else:
            out = module(x)
            out.backward(torch.ones_like(out))
        results.append([out.detach(), x.grad, *(parameter.grad for parameter in module.parameters())])
    assert mode.products >= 2
    epsilon = torch.finfo(dtype).eps
    for native, emulated in zip(*results, strict=True):
        assert native is not None
        assert emulated is not None
        assert native.dtype == emulated.dtype == dtype
        scale = float(native.float().abs().max())
        torch.testing.assert_close(emulated, native, rtol=2 * epsilon, atol=2 * epsilon * scale)


def test_emulation_rounds_once_at_the_output() -> None:
    """1 + 2⁻¹² + ... is lost when each partial sum is rounded to fp16, and kept when they are summed in float32."""
    a = torch.full((1, 4097), 2.0**-12, dtype=torch.float16)
    a[0, 0] = 1.0
    ones = torch.ones(4097, 1, dtype=torch.float16)
    with EmulatedProducts():  # type: ignore[no-untyped-call] # a mode of torch has no annotations
        assert (a @ ones).item() == 2.0


def test_a_whole_step_emulated_is_near_the_native_one() -> None:
    torch.manual_seed(0)
    network = MODELS["lenet"]()
    gradients = []
    for backend in PrecisionBackend:
        problem = _problem(Precision.FP16, copy.deepcopy(network), backend)
        batch = _batch(2)
        gradients.append(problem.gradients(problem.loss(problem.outputs(batch), batch)).values)
    for native, emulated in zip(*gradients, strict=True):
        assert native is not None
        assert emulated is not None
        assert float((native - emulated).norm() / native.norm()) < 5e-3


def test_gradients_are_those_of_autograd() -> None:
    network = MODELS["lenet"]()
    problem = _problem(Precision.FP32, network)
    batch = _batch()
    got = problem.gradients(problem.loss(problem.outputs(batch), batch))
    nn.functional.cross_entropy(network(*batch.inputs), batch.targets).backward()
    assert got.finite
    for gradient, parameter in zip(got.values, problem.parameters, strict=True):
        assert gradient is not None
        assert parameter.grad is not None
        assert torch.equal(gradient, parameter.grad)


def test_scaled_gradients_come_back_unscaled() -> None:
    problem = _problem(Precision.FP16, MODELS["lenet"]())
    batch = _batch()
    gradients = {}
    for scale in (2.0**16, 2.0**8):
        problem._scale("base").value = scale
        gradients[scale] = problem.gradients(problem.loss(problem.outputs(batch), batch)).values
    for large, small in zip(*gradients.values(), strict=True):
        assert large is not None
        assert small is not None
        assert 0.01 < float(large.norm()) < 10.0
        assert float((large - small).norm() / large.norm()) < 1e-2  # the smaller scale loses small terms


def test_an_overflow_skips_the_step_and_touches_nothing_but_the_scale() -> None:
    network = MODELS["lenet"]()
    problem = _problem(Precision.FP16, network)
    rule = TorchRule(problem, torch.optim.SGD(problem.parameters, lr=0.1, momentum=0.9))
    rule.step(_batch())
    problem._scale("base").value = 2.0**40
    before = copy.deepcopy((network.state_dict(), rule.state_dict()["state"]))
    result = rule.step(_batch())
    assert not result.applied
    assert problem.scale() == 2.0**39
    after = (network.state_dict(), rule.state_dict()["state"])
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_streams_keep_scales_of_their_own() -> None:
    network = MODELS["lenet"]()
    problem = _problem(Precision.FP16, network)
    batch = _batch()
    problem._scale("meta").value = 2.0**40
    assert not problem.gradients(problem.loss(problem.outputs(batch), batch), "meta").finite
    assert problem.gradients(problem.loss(problem.outputs(batch), batch)).finite
    assert (problem.scale("meta"), problem.scale()) == (2.0**39, 2.0**16)


def test_loss_scale_grows_after_an_interval_and_its_state_is_restored() -> None:
    scale = LossScale(initial=8.0, growth_interval=3)
    for finite in (True, True, False, True, True):
        scale.update(finite=finite)
    assert scale.value == 4.0
    continued = LossScale(growth_interval=3)
    continued.load_state_dict(scale.state_dict())
    continued.update(finite=True)
    assert continued.value == 8.0


def test_an_unused_parameter_has_no_gradient() -> None:
    network = MODELS["lenet"]()
    network.register_parameter("unused", nn.Parameter(torch.ones(3)))
    problem = _problem(Precision.FP16, network)
    batch = _batch()
    gradients = problem.gradients(problem.loss(problem.outputs(batch), batch))
    by_name = dict(zip([name for name, _ in network.named_parameters()], gradients.values, strict=True))
    assert by_name["unused"] is None
    assert gradients.finite


@pytest.mark.parametrize("model", MODELS)
def test_discrepancy_vanishes_with_its_gradient_where_outputs_agree(model: str) -> None:
    network = MODELS[model]()
    problem = _problem(Precision.FP32, network)
    network.eval()
    batch = _batch()
    outputs = problem.outputs(batch)
    discrepancy = problem.discrepancy(outputs, outputs.detach(), batch)
    assert discrepancy.item() == pytest.approx(0.0, abs=1e-7)
    for gradient in problem.gradients(discrepancy).values:
        assert gradient is not None
        assert float(gradient.abs().max()) < 1e-6


def test_discrepancy_is_the_kl_divergence() -> None:
    new, old = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    p, q = torch.distributions.Categorical(logits=old), torch.distributions.Categorical(logits=new)
    expected = torch.distributions.kl_divergence(p, q).mean()
    assert CrossEntropy().discrepancy(new, old, _batch()).item() == pytest.approx(expected.item(), rel=1e-5)


def test_sampled_targets_follow_the_model() -> None:
    outputs = torch.log(torch.tensor([[0.2, 0.8]])).expand(20_000, 2)
    sampled = CrossEntropy().sample_targets(outputs, _batch(), torch.Generator().manual_seed(0))
    assert sampled.float().mean().item() == pytest.approx(0.8, abs=0.02)
