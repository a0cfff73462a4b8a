"""What only a CUDA device can show: `pytest -m gpu`."""

import gc
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pynvml
import pytest
import torch
from support.devices import card_of_a_run
from support.runs import TASK, numbers_of, run_spec
from torch import Tensor

from apo_bench.data.examples import Batch
from apo_bench.errors import UsageError
from apo_bench.measure.card import CardUse
from apo_bench.measure.clock import Clock
from apo_bench.measure.environment import environment
from apo_bench.measure.memory import PeakMemory
from apo_bench.measure.nvml import NvmlCard, open_card
from apo_bench.plugins.registry import optimizers
from apo_bench.problem.objectives import BernoulliCrossEntropy, CrossEntropy, Objective, TokenCrossEntropy
from apo_bench.records.facts import PrecisionBackend
from apo_bench.records.outcome import Diverged
from apo_bench.records.spec import Precision
from apo_bench.training.checkpoint import Checkpoints
from apo_bench.training.trainer import initial_model, prepare, train

pytestmark = [
    pytest.mark.gpu,
    # a run warns too, and goes on: its numbers must repeat themselves all the same
    pytest.mark.filterwarnings("ignore:.*does not have a deterministic implementation:UserWarning"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]
CUDA = torch.device("cuda", 0)
TOO_FAST: list[tuple[str, dict[str, Any]]] = [
    ("sgdm", {"lr": 1e30}),
    ("kfac", {"lr": 1e30, "kl_clip": 0.0, "factor_interval": 1}),
    ("apo-p", {"lr": 1e30}),
]
"""Competitors whose second step sees logits that are not finite."""


@pytest.fixture(autouse=True, scope="module")
def _as_a_run() -> Iterator[None]:
    """Before any test starts cuBLAS, which reads its setting then."""
    with card_of_a_run():
        yield


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("optimizer", optimizers().names())
def test_every_cell_trains_natively_and_repeats_itself(optimizer: str, precision: Precision) -> None:
    competitor = optimizers()[optimizer].load()
    gc.collect()  # what earlier tests left on the card would be below the baseline, and not below the peak
    try:
        first, second = (train(run_spec(optimizer, precision=precision), TASK, competitor, CUDA) for _ in range(2))
    except UsageError as error:
        pytest.skip(f"refused with a clear line: {error}")
    assert first.precision.backend is PrecisionBackend.NATIVE
    assert first.curve
    assert numbers_of(first) == numbers_of(second)
    assert first.cost.peak_memory_bytes
    assert first.cost.peak_reserved_bytes
    assert first.cost.peak_reserved_bytes >= first.cost.peak_memory_bytes
    assert first.cost.baseline_memory_bytes is not None
    splits = TASK.dataset.load()
    data = sum(part.nbytes for split in (splits.train, splits.validation) for part in (*split.inputs, split.targets))
    assert data <= first.cost.baseline_memory_bytes < first.cost.peak_memory_bytes
    assert first.cost.step_ms


def test_a_product_repeats_itself_as_in_a_run() -> None:
    """The fixture is what makes it so; without it the tests above demand what nobody promises."""
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] in {":4096:8", ":16:8"}
    assert not torch.backends.cudnn.benchmark
    index = torch.randint(0, 8, (2**20,), device=CUDA)
    values = torch.randn(2**20, device=CUDA)
    first, second = (torch.zeros(8, device=CUDA).index_add_(0, index, values) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("objective", "outputs", "targets"),
    [
        (CrossEntropy(), (4, 5), torch.ones(4, dtype=torch.int64)),
        (TokenCrossEntropy(), (4, 3, 5), torch.ones(4, 3, dtype=torch.int64)),
        (BernoulliCrossEntropy(), (4, 5), torch.ones(4, 5)),
    ],
)
def test_targets_drawn_from_nan_leave_the_device_usable(
    objective: Objective, outputs: tuple[int, ...], targets: Tensor
) -> None:
    nan, batch = torch.full(outputs, torch.nan, device=CUDA), Batch((), targets.to(CUDA))
    drawn = objective.sample_targets(nan, batch, torch.Generator(CUDA).manual_seed(0))
    torch.cuda.synchronize(CUDA)
    assert 0 <= int(drawn.min()) <= int(drawn.max()) < 5


@pytest.mark.parametrize(("optimizer", "overrides"), TOO_FAST)
def test_a_divergence_is_an_outcome_and_the_next_run_is_fine(optimizer: str, overrides: dict[str, Any]) -> None:
    competitor = optimizers()[optimizer].load()
    diverged = train(run_spec(optimizer, **overrides), TASK, competitor, CUDA)
    assert isinstance(diverged.outcome, Diverged)
    assert train(run_spec(optimizer), TASK, competitor, CUDA).curve


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
def test_drawing_a_batch_does_not_wait_for_the_device() -> None:
    """Over some passes, with augmentation: torch raises where it would synchronize."""
    batches = prepare(run_spec(), TASK, optimizers()["sgdm"].load(), CUDA).setup.batches
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3 * batches.batches_per_pass):
            batches.draw()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.TF32])
def test_the_older_names_of_the_tf32_switches_can_be_read(precision: Precision) -> None:
    prepare(run_spec(precision=precision), TASK, optimizers()["sgdm"].load(), CUDA)
    assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is (precision is Precision.TF32)


def test_weights_and_batches_are_those_of_a_cpu() -> None:
    competitor = optimizers()["sgdm"].load()
    loops = [prepare(run_spec(), TASK, competitor, device) for device in (torch.device("cpu"), CUDA)]
    for one, other in zip(*(loop.setup.problem.model.state_dict().values() for loop in loops), strict=True):
        assert torch.equal(one, other.cpu())
    for _ in range(25):
        cpu, cuda = (loop.setup.batches.draw() for loop in loops)
        assert torch.equal(cpu.targets, cuda.targets.cpu())
        assert torch.equal(cpu.inputs[0], cuda.inputs[0].cpu())


def test_fp32_is_not_tf32() -> None:
    """A product of two matrices with 12 significant bits each is exact in fp32 and not in TF32."""
    competitor = optimizers()["sgdm"].load()
    a = torch.full((64, 64), 1.0 + 2.0**-11, device=CUDA)
    prepare(run_spec(precision=Precision.FP32), TASK, competitor, CUDA)
    exact = (a @ torch.eye(64, device=CUDA))[0, 0].item()
    assert exact == 1.0 + 2.0**-11


def test_a_checkpoint_continues_with_the_devices_random_state(tmp_path: Path) -> None:
    competitor = optimizers()["sgdm"].load()
    undisturbed = train(run_spec(epochs=4), TASK, competitor, CUDA)
    checkpoints = Checkpoints(tmp_path, "run", every_seconds=0.0)

    def stop(event: object) -> None:
        if getattr(getattr(event, "point", None), "step", 0) == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(run_spec(epochs=4), TASK, competitor, CUDA, stop, checkpoints)
    continued = train(run_spec(epochs=4), TASK, competitor, CUDA, checkpoints=checkpoints)
    assert continued.continued == 1
    assert continued.cost.energy_joules is None
    assert numbers_of(continued) == numbers_of(undisturbed)


def test_initialization_happens_on_the_cpu() -> None:
    assert {parameter.device.type for parameter in initial_model(TASK, run_spec()).parameters()} == {"cpu"}


def test_the_ledger_tells_the_time_of_the_device_and_not_of_the_launch() -> None:
    """Launching takes microseconds, the product of two large matrices tens of milliseconds on any card."""
    matrix = torch.randn(8192, 8192, device=CUDA)
    _ = matrix @ matrix
    clock = Clock(CUDA)
    with clock.train(), clock.ledger.phase("forward"):
        for _ in range(10):
            _ = matrix @ matrix
    assert clock.ledger.seconds["forward"] > 0.9 * clock.training
    assert clock.ledger.seconds["forward"] <= clock.training


@pytest.mark.parametrize("optimizer", ["kfac", "apo-p", "sgdm"])
def test_the_phases_stay_within_the_training_clock(optimizer: str) -> None:
    cost = train(run_spec(optimizer), TASK, optimizers()[optimizer].load(), CUDA).cost
    assert {"forward", "backward", "update"} <= set(cost.phases)
    assert 0 < sum(cost.phases.values()) <= 1.01 * cost.train_seconds


@pytest.fixture
def card() -> NvmlCard:
    """The card of the first device; where the driver offers NVML, it must be found."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        pytest.skip(f"the driver offers no NVML: {error}")
    found = open_card(CUDA)
    assert isinstance(found, NvmlCard)
    return found


def _work(seconds: float) -> None:
    """Keep the card busy for some seconds."""
    a = torch.randn(4096, 4096, device=CUDA)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(10):
            a @ a
        torch.cuda.synchronize(CUDA)


def test_work_uses_energy_at_a_clock(card: NvmlCard) -> None:
    if card.energy_millijoules() is None:
        pytest.skip("this card has no energy counter")
    use = CardUse(card)
    use.start()
    _work(2.0)
    use.sample()
    use.finish()
    assert use.energy_joules is not None
    assert 2.0 < use.energy_joules < 10_000.0  # between 1 W and 5 kW
    assert use.clock_mhz is not None
    assert 100 < use.clock_mhz[0] == use.clock_mhz[1] < 5_000


def test_the_own_process_is_seen_with_its_memory_or_not_at_all(card: NvmlCard) -> None:
    memory = PeakMemory(CUDA)
    held = torch.ones(64 * 2**20, device=CUDA)  # 256 MiB
    use = CardUse(card)
    use.sample()
    listed = card.processes()
    seen = listed is not None and os.getpid() in {process.pid for process in listed}
    assert (use.foreign_processes is not None) == seen  # a container's driver may hide or renumber processes
    reserved = memory.reserved()
    assert reserved is not None
    assert reserved >= held.nbytes
    assert use.process_memory_bytes is None or use.process_memory_bytes >= held.nbytes


def test_the_environment_names_driver_and_allocator(card: NvmlCard) -> None:
    made = environment(CUDA)
    assert made.driver == card.driver_version()
    assert re.fullmatch(r"\d+\.\d+(\.\d+)?", made.driver or "")
    assert made.allocator is not None
    assert made.allocator.split(", ")[0] == torch.cuda.get_allocator_backend()
    assert made.cuda == torch.version.cuda


@pytest.mark.parametrize("index", range(torch.cuda.device_count()))
def test_the_card_found_is_the_one_that_torch_uses(index: int, card: NvmlCard) -> None:
    """By UUID to the same one: its place on the PCI bus, which torch and NVML tell independently, is the same."""
    device = torch.device("cuda", index)
    found = open_card(device)
    assert isinstance(found, NvmlCard)
    properties = torch.cuda.get_device_properties(device)
    place = pynvml.nvmlDeviceGetPciInfo(found._handle)
    assert (place.domain, place.bus, place.device) == (
        properties.pci_domain_id,  # type: ignore[attr-defined] # its stubs lack it
        properties.pci_bus_id,  # type: ignore[attr-defined] # its stubs lack it
        properties.pci_device_id,  # type: ignore[attr-defined] # its stubs lack it
    )
    assert pynvml.nvmlDeviceGetName(found._handle) == properties.name


def test_a_sample_costs_little(card: NvmlCard) -> None:
    use = CardUse(card)
    use.sample()
    start = time.perf_counter()
    for _ in range(10):
        use.sample()
    assert (time.perf_counter() - start) / 10 < 0.1
