"""In which format each kind of parameter, buffer and input is, in every precision: the whole table."""

import pytest
import torch
from support.devices import CPU
from torch import Tensor, nn

from apo_bench.data.examples import Batch
from apo_bench.errors import UsageError
from apo_bench.problem.objectives import CrossEntropy
from apo_bench.problem.precision import PrecisionPolicy
from apo_bench.problem.problem import Problem
from apo_bench.problem.rule import TorchRule
from apo_bench.records.facts import PrecisionBackend
from apo_bench.records.spec import Precision

REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COMPLEX = (torch.complex64, torch.complex128)
OTHERS = (torch.int64, torch.int32, torch.uint8, torch.bool)
STORED = {
    Precision.FP64: (torch.float64, torch.complex128),
    Precision.FP32: (torch.float32, torch.complex64),
    Precision.BF16: (torch.float32, torch.complex64),
    Precision.FP16: (torch.float32, torch.complex64),
    Precision.PURE_BF16: (torch.bfloat16, None),
    Precision.PURE_FP16: (torch.float16, None),
}


class Holder(nn.Module):
    buffer: Tensor

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        value = torch.tensor([1.5 + 0.5j]).to(dtype) if dtype.is_complex else torch.ones(1).to(dtype)
        self.parameter = nn.Parameter(value.clone(), requires_grad=dtype.is_complex or dtype.is_floating_point)
        self.register_buffer("buffer", value.clone())
        self.shared = nn.Module()
        self.shared.register_buffer("same", self.buffer)


@pytest.mark.parametrize("precision", STORED)
@pytest.mark.parametrize("dtype", [*REAL, *COMPLEX, *OTHERS])
def test_parameters_buffers_and_inputs_have_the_format_of_the_precision(
    precision: Precision, dtype: torch.dtype
) -> None:
    real, imaginary = STORED[precision]
    expected = real if dtype in REAL else imaginary if dtype in COMPLEX else dtype
    policy, model = PrecisionPolicy(precision, CPU), Holder(dtype)
    inputs = (torch.ones(2).to(dtype),)
    if expected is None:
        for refused in (lambda: policy.prepare(model), lambda: policy.cast(inputs)):
            with pytest.raises(UsageError, match="has no complex numbers; use fp32 or fp64"):
                refused()
        return
    policy.prepare(model)
    assert model.parameter.dtype == expected
    assert model.buffer.dtype == expected
    assert model.shared.same is model.buffer
    assert policy.cast(inputs)[0].dtype == expected
    if dtype in COMPLEX:
        assert complex(model.parameter.detach()[0]) == 1.5 + 0.5j
        assert complex(model.buffer[0]) == 1.5 + 0.5j


@pytest.mark.parametrize("precision", [Precision.PURE_BF16, Precision.PURE_FP16])
def test_normalization_stays_in_32_bit(precision: Precision) -> None:
    norm = nn.BatchNorm1d(3).double()
    PrecisionPolicy(precision, CPU).prepare(nn.Sequential(norm))
    assert norm.weight.dtype == torch.float32
    assert norm.running_mean is not None
    assert norm.running_mean.dtype == torch.float32
    assert norm.num_batches_tracked is not None
    assert norm.num_batches_tracked.dtype == torch.int64


def test_inputs_of_the_right_format_are_passed_on_as_they_are() -> None:
    inputs = (torch.ones(2), torch.ones(2, dtype=torch.int64))
    cast = PrecisionPolicy(Precision.FP32, CPU).cast(inputs)
    assert all(one is other for one, other in zip(cast, inputs, strict=True))


class Reader(nn.Module):
    """A recurrent layer, or attention, and an output layer."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        if kind == "attention":
            self.inner: nn.Module = nn.MultiheadAttention(8, 2, batch_first=True)
        else:
            self.inner = getattr(nn, kind)(8, 8, batch_first=True, num_layers=2)
        self.last = nn.Linear(8, 3)

    def forward(self, sequence: Tensor) -> Tensor:
        found = self.inner(sequence, sequence, sequence) if self.kind == "attention" else self.inner(sequence)
        out: Tensor = self.last(found[0][:, -1])
        return out


@pytest.mark.parametrize("precision", STORED)
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN", "attention"])
def test_sequence_layers_train_in_every_precision(kind: str, precision: Precision) -> None:
    """Emulated where the processor has no such products, with float64 data; the loss is near that of float64."""
    source = torch.Generator().manual_seed(1)
    sequence = torch.randn(6, 5, 8, generator=source, dtype=torch.float64)
    batch = Batch((sequence,), torch.randint(0, 3, (6,), generator=source))
    losses = []
    for tried in (Precision.FP64, precision):
        is_emulated = tried in {Precision.BF16, Precision.PURE_BF16}
        policy = PrecisionPolicy(tried, CPU, PrecisionBackend.EMULATED if is_emulated else None)
        model = Reader(kind)
        policy.prepare(model)
        problem = Problem(model, CrossEntropy(), policy, lambda: batch)
        rule = TorchRule(problem, torch.optim.SGD(problem.parameters, lr=0.5))
        losses.append([float(rule.step(batch).loss) for _ in range(3)])
    assert losses[1] == pytest.approx(losses[0], rel=3e-2)
    assert losses[1][2] < losses[1][0]
