"""The probe: a slower step is found to be as much slower as it is."""

import dataclasses
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pytest
import torch
from support.devices import CPU
from support.records import PRINT, costs_of
from support.runs import TASK, run_spec

from apo_bench.data.batches import BatchStream
from apo_bench.data.examples import Batch
from apo_bench.evidence.step_costs import flagged
from apo_bench.measure.environment import environment
from apo_bench.measure.load import ForeignLoad
from apo_bench.plugins.optimizer import Competitor
from apo_bench.plugins.registry import optimizers
from apo_bench.problem.rule import StepResult, TorchRule
from apo_bench.records.probe import ProbeRecord, ProbeSpec, assemble, decode_probe
from apo_bench.records.run import encode, now
from apo_bench.records.spec import Device, OptimizerSpec, Precision
from apo_bench.training.probe import measure
from baselines.kfac.curvature import KroneckerCurvature


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Two threads on a machine where others work wait for each other, and the tiny network needs only one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def measured(
    names: tuple[str, ...], *, processes: int, rounds: int, extra: Mapping[str, Competitor[Any]] | None = None
) -> ProbeRecord:
    """Probe the tiny network, in this process."""
    specs = [run_spec(name).optimizer for name in names]
    competitors = {name: optimizers()[name].load() for name in names} | dict(extra or {})
    specs += [OptimizerSpec(name=name, hyperparameters={}) for name in extra or {}]
    spec = ProbeSpec(
        task="tiny",
        precision=Precision.FP32,
        device=Device.CPU,
        compile=False,
        threads=torch.get_num_threads(),
        processes=processes,
        rounds=rounds,
        competitors=tuple(specs),
    )
    samples = [measure(spec, TASK, competitors, CPU, seed=number) for number in range(processes)]
    return assemble(spec, samples, dict.fromkeys(competitors, PRINT), environment(CPU), (now(), now()))


def test_every_kind_of_step_is_timed_in_every_round_and_process() -> None:
    probe = measured(("sgdm", "kfac", "apo-p", "soap"), processes=2, rounds=3)
    kinds = {probed.optimizer.name: [kind.name for kind in probed.kinds] for probed in probe.competitors}
    assert kinds["sgdm"] == ["plain"]
    assert kinds["kfac"] == ["plain", "factors+inverse"]
    assert kinds["apo-p"] == ["plain", "meta"]
    assert kinds["soap"] == ["plain", "basis"]
    for probed in probe.competitors:
        assert sum(kind.share for kind in probed.kinds) == pytest.approx(1.0)
        for kind in probed.kinds:
            assert [len(times) for times in kind.milliseconds] == [3, 3]
    assert costs_of(probe)["apo-p"].ratio > 1.0
    assert decode_probe(encode(probe)) == probe


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.parametrize("seconds", [0.05, 0.3])
def test_sleep_in_the_inverse_raises_the_ratio_by_what_it_composes_to(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = costs_of(measured(("sgdm", "kfac"), processes=4, rounds=3))["kfac"]
    refresh = KroneckerCurvature.refresh
    asleep: set[int] = set()

    def slow(self: KroneckerCurvature) -> None:
        if not asleep or id(self) in asleep:  # only in the first layer: once a step
            asleep.add(id(self))
            time.sleep(seconds)
        refresh(self)

    monkeypatch.setattr(KroneckerCurvature, "refresh", slow)
    parts = []
    for _ in range(4):
        asleep.clear()
        parts.append(measured(("sgdm", "kfac"), processes=1, rounds=3))
    probe = _joined(parts)
    after, reference = costs_of(probe)["kfac"], costs_of(probe)["sgdm"]
    share = {name: share for name, share, _ in after.kinds}["factors+inverse"]
    expected = before.ratio + share * 1000.0 * seconds / reference.milliseconds
    assert before.half_width is not None
    assert after.half_width is not None
    assert abs(after.ratio - expected) <= before.half_width + after.half_width + 0.02 * expected
    assert after.ratio > before.ratio + 0.5 * (expected - before.ratio)


def _joined(parts: list[ProbeRecord]) -> ProbeRecord:
    """Probes of one process each as one of several."""
    first = parts[0]
    return msgspec.structs.replace(
        first,
        competitors=tuple(
            msgspec.structs.replace(
                probed,
                kinds=tuple(
                    msgspec.structs.replace(
                        kind,
                        milliseconds=tuple(
                            times for part in parts for times in part.competitors[place].kinds[number].milliseconds
                        ),
                    )
                    for number, kind in enumerate(probed.kinds)
                ),
            )
            for place, probed in enumerate(first.competitors)
        ),
    )


class Slowing(TorchRule):
    """SGD that sleeps while it is told to."""

    asleep = False

    def step(self, batch: Batch) -> StepResult:
        if type(self).asleep:
            time.sleep(0.005)
        return super().step(batch)


@dataclasses.dataclass(frozen=True)
class Nothing:
    """No hyperparameters."""


@pytest.mark.timing
def test_a_slow_down_injected_into_one_competitor_half_way_is_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = 8
    draw = BatchStream.draw
    drawn = 0

    def counting(self: BatchStream) -> Batch:
        nonlocal drawn
        drawn += 1  # three competitors warm up on one each, then one a round
        Slowing.asleep = drawn > 3 + rounds // 2
        return draw(self)

    monkeypatch.setattr(BatchStream, "draw", counting)
    slowing = Competitor(Nothing, lambda problem, h: Slowing(problem, torch.optim.SGD(problem.parameters, lr=0.01)))
    found = costs_of(measured(("sgdm", "adam"), processes=1, rounds=rounds, extra={"slowing": slowing}))
    assert any("half-way" in flag for flag in found["slowing"].flags)
    assert not any("half-way" in flag for flag in found["adam"].flags)


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.skipif(sys.platform != "linux" or (os.cpu_count() or 1) < 2, reason="needs /proc/stat and a second core")
def test_a_busy_loop_on_the_other_core_is_flagged() -> None:
    if ForeignLoad().cores() is None:
        pytest.skip("this kernel does not say how busy its processors are")
    spinning = subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE)
    try:
        assert spinning.stdout is not None
        spinning.stdout.readline()  # it spins from now on
        probe = measured(("sgdm", "adam"), processes=1, rounds=20)
    finally:
        spinning.kill()
        spinning.communicate()
    assert flagged(probe)
    assert any("CPU cores busy" in flag for cost in costs_of(probe).values() for flag in cost.flags)


def test_what_refuses_the_cell_is_left_out_with_its_reason_and_the_rest_is_measured() -> None:
    def refuses(problem: Any, hyperparameters: Any) -> Any:
        from apo_bench.errors import UsageError

        raise UsageError("not with me")

    class Exploding(TorchRule):
        def step(self, batch: Batch) -> StepResult:
            return super().step(batch)._replace(loss=torch.tensor(math.nan))

    extra = {
        "refusing": Competitor(Nothing, refuses),
        "exploding": Competitor(
            Nothing, lambda problem, h: Exploding(problem, torch.optim.SGD(problem.parameters, lr=0.01))
        ),
    }
    probe = measured(("sgdm",), processes=2, rounds=2, extra=extra)
    assert [probed.optimizer.name for probed in probe.competitors] == ["sgdm"]
    assert {left.optimizer.name: left.message for left in probe.omitted} == {
        "refusing": "not with me",
        "exploding": "its loss stopped being finite while it was probed",
    }


def test_a_competitor_that_fails_costs_itself_alone(capsys: pytest.CaptureFixture[str]) -> None:
    class Late(TorchRule):
        taken = 0

        def step(self, batch: Batch) -> StepResult:
            self.taken += 1
            if self.taken > 60:
                raise RuntimeError("no more\nthan that")
            return super().step(batch)

    def sgd(rule: type[TorchRule]) -> Competitor[Any]:
        return Competitor(Nothing, lambda problem, h: rule(problem, torch.optim.SGD(problem.parameters, lr=0.01)))

    def fails(problem: Any, hyperparameters: Any) -> Any:
        raise KeyError("factor")

    probe = measured(("sgdm",), processes=1, rounds=4, extra={"early": Competitor(Nothing, fails), "late": sgd(Late)})
    (sgdm,) = probe.competitors
    assert [len(times) for times in sgdm.kinds[0].milliseconds] == [4]
    assert {left.optimizer.name: left.message for left in probe.omitted} == {
        "early": "KeyError: 'factor'",
        "late": "RuntimeError: no more",
    }
    assert "than that" in capsys.readouterr().err
