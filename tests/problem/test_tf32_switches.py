"""The switches of TF32 have two names each; after ours are set, both can be read, and say the same."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.devices import CPU

from apo_bench.measure.environment import environment
from apo_bench.problem.precision import PrecisionPolicy
from apo_bench.records.spec import Precision

ROOT = Path(__file__).parents[2]
CUDA = torch.device("cuda")
"""A policy and its switches need no card."""


@pytest.fixture(autouse=True)
def _as_for_the_other_tests() -> Iterator[None]:
    yield
    PrecisionPolicy(Precision.FP32, CUDA).apply_flags()


@pytest.mark.parametrize("before", [Precision.FP32, Precision.TF32])
@pytest.mark.parametrize("precision", list(Precision))
def test_older_and_newer_names_say_the_same(precision: Precision, before: Precision) -> None:
    for one in (before, precision):
        PrecisionPolicy(one, CUDA).apply_flags()
    on = precision is Precision.TF32
    backends = torch.backends
    newer = {
        backends.cuda.matmul.fp32_precision,
        backends.cudnn.conv.fp32_precision,  # type: ignore[attr-defined] # its stubs lack it
        backends.cudnn.rnn.fp32_precision,  # type: ignore[attr-defined] # its stubs lack it
    }
    assert newer == {"tf32" if on else "ieee"}
    assert backends.cuda.matmul.allow_tf32 is on
    assert backends.cudnn.allow_tf32 is on
    assert torch.get_float32_matmul_precision() == ("high" if on else "highest")
    assert environment(CPU).flags["backends.cuda.matmul.fp32_precision"] == ("tf32" if on else "ieee")


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.TF32])
def test_a_network_may_switch_cudnn_off_for_a_while(precision: Precision) -> None:
    """A second derivative of an LSTM needs it; leaving this context reads the older name."""
    PrecisionPolicy(precision, CUDA).apply_flags()
    cell, x = torch.nn.LSTM(2, 3), torch.randn(4, 1, 2, requires_grad=True)
    with torch.backends.cudnn.flags(enabled=False):
        (gradient,) = torch.autograd.grad(cell(x)[0].square().sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert not torch.backends.cudnn.allow_tf32 or precision is Precision.TF32


@pytest.mark.parametrize("chosen", ["high", "medium"])
@pytest.mark.parametrize("device", [CPU, CUDA])
def test_what_was_set_by_the_older_names_is_overruled(device: torch.device, chosen: str) -> None:
    """By a plugin's module while it was imported, say; with "medium" a CPU may multiply float32 in bfloat16."""
    torch.set_float32_matmul_precision(chosen)
    PrecisionPolicy(Precision.FP32, device).apply_flags()
    assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"  # type: ignore[attr-defined] # its stubs lack it
    assert torch.get_float32_matmul_precision() == "highest"


def test_nobody_here_reads_the_older_names() -> None:
    """A user's code may have set the newer alone."""
    older, reads_nothing = r"allow_tf32|get_float32_matmul_precision", r"allow_tf32 = |^\"\"\"Attributes of torch"
    found = [
        f"{path.name}: {line.strip()}"
        for folder in ("apo_bench", "baselines", "benchmarks", "reports", "examples")
        for path in (ROOT / folder).rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(older, line) and not re.search(reads_nothing, line)
    ]
    assert found == []
