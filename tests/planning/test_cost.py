"""What the cells of a plan cost, counted by hand."""

import dataclasses
import itertools

import msgspec
import pytest
import torch
from support.devices import CPU
from torch import Tensor, nn

from apo_bench import (
    Accuracy,
    Batch,
    CrossEntropy,
    Dataset,
    PrecisionPolicy,
    Problem,
    Splits,
    Task,
    TorchRule,
)
from apo_bench.cli.plan import cost_table
from apo_bench.measure.flops import exact_cost
from apo_bench.planning.cost import cell_costs, make_model, passes_cost, step_flops
from apo_bench.planning.plan import Plan
from apo_bench.records.spec import Precision, Scale
from apo_bench.records.suite import OptimizerEntry, Suite, TaskEntry

WIDTHS = (8, 16, 12, 2)
BATCH = 32


def _no_data() -> Splits:
    raise AssertionError("counting needs no data")


def _blank(count: int) -> Batch:
    return Batch((torch.zeros(count, WIDTHS[0]),), torch.zeros(count, dtype=torch.int64))


class _LooksAtNumbers(nn.Linear):
    """A network that the meta device cannot run."""

    def forward(self, inputs: Tensor) -> Tensor:
        assert float(inputs.sum()) == 0.0
        return super().forward(inputs)


def _mlp() -> nn.Module:
    first, second, third, out = WIDTHS
    return nn.Sequential(
        nn.Linear(first, second), nn.ReLU(), nn.Linear(second, third), nn.ReLU(), nn.Linear(third, out)
    )


def _task(model: object = _mlp, **dataset: object) -> Task:
    chosen = {"sizes": (1000, 100, 100), "blank": _blank} | dataset
    return Task(
        dataset=Dataset("d", _no_data, lambda: "1", **chosen),  # type: ignore[arg-type] # fields by name
        model_name="mlp",
        model=model,  # type: ignore[arg-type] # every one makes a module
        objective=CrossEntropy(),
        metric=Accuracy(),
        batch_size=BATCH,
    )


def test_an_mlp_costs_what_a_hand_count_says() -> None:
    layers = [2 * BATCH * before * after for before, after in itertools.pairwise(WIDTHS)]
    # the gradient by the weights costs a forward pass; so does the gradient by the inputs, which layer 1 does not need
    assert step_flops(_task()) == sum(layers) + 2 * sum(layers) - layers[0]


def test_a_convolution_costs_what_a_hand_count_says() -> None:
    task = _task(lambda: nn.Conv2d(3, 6, 5), blank=lambda n: Batch((torch.zeros(n, 3, 32, 32),), torch.zeros(n)))
    forward = 2 * BATCH * 6 * 28 * 28 * 3 * 5 * 5
    assert step_flops(task) == 2 * forward


def test_a_network_that_needs_numbers_is_counted_on_the_cpu() -> None:
    assert step_flops(_task(lambda: _LooksAtNumbers(8, 2))) == 2 * (2 * BATCH * 8 * 2)


def test_what_is_not_known_is_not_guessed() -> None:
    assert step_flops(_task(blank=None)) is None
    assert step_flops(_task(lambda: nn.Linear(9, 2))) is None  # takes no such batch


class _Recurrent(nn.Module):
    """The example of the report: 2,089,984 FLOPs a step, by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(6, 32, batch_first=True)
        self.head = nn.Linear(32, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs, _ = self.recurrent(inputs)
        logits: Tensor = self.head(outputs[:, -1])
        return logits


class _Attention(nn.Module):
    """Attention by the operator that torch chooses for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(6, 3 * 8)
        self.head = nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        queries, keys, values = self.into(inputs).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        heads = nn.functional.scaled_dot_product_attention(queries, keys, values)
        logits: Tensor = self.head(heads.transpose(1, 2).flatten(2).mean(1))
        return logits


_SEQUENCES = {"blank": lambda count: Batch((torch.zeros(count, 5, 6),), torch.zeros(count, dtype=torch.int64))}


@pytest.mark.parametrize("model", [_Recurrent, _Attention])
def test_a_plan_counts_what_a_record_does(model: type[nn.Module]) -> None:
    task = dataclasses.replace(_task(model, **_SEQUENCES), batch_size=16)
    policy = PrecisionPolicy(Precision.FP32, CPU)
    problem = Problem(model(), task.objective, policy, lambda: _blank(1))
    rule = TorchRule(problem, torch.optim.SGD(problem.parameters, lr=0.1))
    assert task.dataset.blank is not None
    blank = task.dataset.blank(16)
    cost = exact_cost(rule, problem, lambda: blank)
    assert cost is not None
    assert cost.flops_per_step == step_flops(task)
    if model is _Recurrent:
        assert step_flops(task) == 2_089_984


class _Spectral(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(torch.fft.rfft(inputs).abs())


def test_a_plan_names_the_operator_that_it_cannot_count() -> None:
    task = _task(lambda: _Spectral(WIDTHS[0] // 2 + 1, 2))
    cost = passes_cost(task)
    assert cost.flops is None
    assert cost.reason is not None
    assert "aten._fft_r2c" in cost.reason
    assert f"FLOPs of t are not known: {cost.reason}." in " ".join(cost_table(cell_costs(_plan(task)), 2.0).split())


def test_a_plan_says_why_it_has_no_count() -> None:
    assert "does not say how its batches look" in str(passes_cost(_task(blank=None)).reason)
    assert "takes no blank batch (RuntimeError" in str(passes_cost(_task(lambda: nn.Linear(9, 2))).reason)


def test_a_network_of_any_width_is_made_without_its_memory() -> None:
    wide = _task(lambda: nn.Linear(10**7, 10**7))
    assert sum(parameter.numel() for parameter in make_model(wide).parameters()) == 10**14 + 10**7


def _plan(task: Task) -> Plan:
    asked = Suite(
        name="s",
        scale=Scale.PAPER,
        title="S",
        tasks=(TaskEntry(task="t", epochs=10, seeds=(0, 1, 2)),),
        optimizers=(
            OptimizerEntry(optimizer="adam"),
            OptimizerEntry(optimizer="sgdm"),
            OptimizerEntry(optimizer="sgdm", overrides={"lr": 0.2}),
        ),
        precisions=(Precision.FP32, Precision.FP16),
    )
    return Plan(msgspec.structs.replace(asked, tasks=()), (), ("no data",), (), asked, {"t": task})


def test_a_cell_without_data_still_has_its_cost() -> None:
    cells = cell_costs(_plan(_task()))
    assert [(cell.optimizer, str(cell.precision), cell.runs) for cell in cells] == [
        ("adam", "fp32", 3),
        ("sgdm", "fp32", 6),
        ("adam", "fp16", 3),
        ("sgdm", "fp16", 6),
    ]
    per_step = step_flops(_task())
    assert per_step is not None
    assert {cell.steps for cell in cells} == {10 * (1000 // BATCH)}
    assert {cell.total_flops for cell in cells} == {310 * per_step}
    assert cells[1].gpu_hours(2.0) == pytest.approx(6 * 310 * per_step / 2e12 / 3600)
    table = cost_table(cells, 2.0)
    assert table.count("data missing") == 1  # cells that cost the same have one row
    assert "adam sgdm" in table
    assert "fp32 fp16" in table
    words = " ".join(table.split())
    assert "2 TFLOP/s sustained is assumed (--gpu-tflops), not measured" in words
    assert "what an optimizer adds to them is not in it" in words
    assert "All 18 runs: " in table


def test_a_cost_that_is_not_known_is_a_question_mark() -> None:
    table = cost_table(cell_costs(_plan(_task(sizes=None))), 2.0)
    assert "GPU hours are not known." in table
    assert "0 GPU hours" not in table
