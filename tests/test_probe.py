"""The probe: what it composes, what it doubts, and that a slower step is found to be as much slower as it is."""

import dataclasses
import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import msgspec
import pytest
import torch
from scipy import stats
from shell import Shell, optimizer_plugin
from test_leaderboard import FACTS, record
from test_trainer import TASK, run_spec

from apo_bench.data.batches import BatchStream
from apo_bench.data.examples import Batch
from apo_bench.evidence.leaderboard import leaderboard
from apo_bench.evidence.step_costs import Probes, StepCost, flagged, step_costs
from apo_bench.evidence.table import run_table
from apo_bench.execution import local
from apo_bench.execution.job import Job
from apo_bench.execution.watcher import Watcher
from apo_bench.measure.environment import environment
from apo_bench.measure.load import ForeignLoad
from apo_bench.plugins.optimizer import Competitor
from apo_bench.plugins.registry import optimizers
from apo_bench.problem.rule import StepResult, TorchRule
from apo_bench.records.events import CurvePoint
from apo_bench.records.outcome import Reached
from apo_bench.records.probe import SCHEMA, KindTimes, Probed, ProbeRecord, ProbeSpec, assemble, decode_probe
from apo_bench.records.run import Environment, Fingerprint, Intent, RunRecord, encode, now
from apo_bench.records.schedules import Cosine
from apo_bench.records.spec import Device, OptimizerSpec, Precision, Scale
from apo_bench.render.leaderboard import leaderboard_markdown, leaderboard_text
from apo_bench.store.store import Store
from apo_bench.training.probe import measure
from baselines.kfac.curvature import KroneckerCurvature

CPU = torch.device("cpu")
PRINT = Fingerprint(harness="h", task="t", optimizer="o", torch="2", data="d")
MADE_ON = Environment(
    apo_bench="1", git_sha=None, dirty=None, python="3", torch="2", platform="p", device_name="cpu name", cpu_count=2,
    threads=1, deterministic=False,
)  # fmt: skip
Times = list[list[float]]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Two threads on a machine where others work wait for each other, and the tiny network needs only one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def made_probe(
    kinds: Mapping[str, Mapping[str, tuple[float, Times]]],
    *,
    foreign: float | None = 0.0,
    skipped: int = 0,
    threads: int = 1,
    fingerprint: Fingerprint = PRINT,
) -> ProbeRecord:
    """A record of made-up times: kinds of step by optimizer, each with its share."""
    specs = {name: OptimizerSpec(name=name, hyperparameters={"lr": 0.1}) for name in kinds}
    processes = len(next(iter(next(iter(kinds.values())).values()))[1])
    return ProbeRecord(
        schema=SCHEMA,
        spec=ProbeSpec(
            task="t",
            precision=Precision.FP32,
            device=Device.CPU,
            compile=False,
            threads=threads,
            processes=processes,
            rounds=3,
            competitors=tuple(specs.values()),
        ),
        started_at=now(),
        finished_at=now(),
        environment=msgspec.structs.replace(MADE_ON, threads=threads),
        competitors=tuple(
            Probed(
                optimizer=specs[name],
                fingerprint=fingerprint,
                kinds=tuple(
                    KindTimes(name=kind, share=share, milliseconds=tuple(map(tuple, times)))
                    for kind, (share, times) in own.items()
                ),
                skipped=skipped,
            )
            for name, own in kinds.items()
        ),
        foreign_cores=(foreign,) * processes,
    )


def costs_of(probe: ProbeRecord) -> dict[str, StepCost]:
    return {probed.optimizer.name: cost for probed, cost in step_costs(probe)}


def test_kinds_are_composed_by_their_shares_and_the_interval_is_students_over_processes() -> None:
    reference = [[10.0, 20.0], [10.0, 10.0], [12.0, 12.0]]
    plain = [[11.0, 22.0], [11.5, 11.5], [12.0, 12.0]]
    meta = [[30.0, 60.0], [30.0, 30.0], [40.0, 40.0]]
    found = costs_of(
        made_probe({"sgdm": {"plain": (1.0, reference)}, "x": {"plain": (0.9, plain), "meta": (0.1, meta)}})
    )
    composed = [[0.9 * 11 + 3, 0.9 * 22 + 6], [0.9 * 11.5 + 3] * 2, [0.9 * 12 + 4] * 2]
    logs = [math.log(12.9 / 10), math.log(13.35 / 10), math.log(14.8 / 12)]
    low, high = stats.t.interval(0.95, 2, loc=sum(logs) / 3, scale=stats.sem(logs))
    cost = found["x"]
    assert cost.ratio == pytest.approx(math.exp(sum(logs) / 3))
    assert (cost.low, cost.high) == pytest.approx((math.exp(low), math.exp(high)))
    assert cost.milliseconds == pytest.approx(median(median(times) for times in composed))
    assert cost.periodic_overhead == pytest.approx(cost.milliseconds / 12.0 - 1.0)
    assert found["sgdm"].ratio == 1.0
    assert found["sgdm"].periodic_overhead == 0.0


def test_a_probe_without_its_reference_says_nothing() -> None:
    probe = made_probe({"sgdm": {"plain": (1.0, [[1.0, 1.0]])}, "x": {"plain": (1.0, [[1.0, 1.0]])}})
    headless = msgspec.structs.replace(probe, competitors=probe.competitors[1:])
    assert step_costs(headless) == []
    assert flagged(headless)


def simulated(
    source: random.Random, *, noise: float = 0.03, slower_from: float = math.inf, processes: int = 5, **fields: Any
) -> ProbeRecord:
    """Three optimizers whose times are lognormal around a speed of the machine; one may become slower half-way."""
    rounds = 10

    def times(base: float, name: str) -> Times:
        return [
            [
                base
                * math.exp(source.gauss(0.0, noise))
                * (1.3 if name == "x" and process * rounds + number >= slower_from else 1.0)
                for number in range(rounds)
            ]
            for process in range(processes)
        ]

    kinds = {name: {"plain": (1.0, times(base, name))} for name, base in (("sgdm", 5.0), ("adam", 6.0), ("x", 9.0))}
    return made_probe(kinds, **fields)


def test_a_quiet_machine_is_hardly_ever_doubted() -> None:
    source = random.Random(0)
    assert sum(flagged(simulated(source)) for _ in range(300)) <= 6


@pytest.mark.parametrize("slower_from", [5, 25])
def test_a_slow_down_of_one_competitor_half_way_is_flagged_as_its_own(slower_from: int) -> None:
    found = costs_of(simulated(random.Random(1), slower_from=slower_from))
    assert any("half-way" in flag or "imprecise" in flag for flag in found["x"].flags)
    assert not found["adam"].flags


def test_doubts_about_the_machine_are_everybodys() -> None:
    source = random.Random(2)
    for probe, word in (
        (simulated(source, foreign=0.9), "CPU cores"),
        (simulated(source, noise=0.4), "not steady"),
        (simulated(source, skipped=3), "overflowed"),
    ):
        assert all(any(word in flag for flag in cost.flags) for cost in costs_of(probe).values())
    assert not flagged(simulated(source, foreign=None))


def test_the_interval_covers_as_often_as_it_says() -> None:
    """Processes differ by 3 %, rounds by 5 %; the truth is 1.2."""
    source = random.Random(3)
    hits = 0
    for _ in range(300):
        shifts = [math.log(1.2) + source.gauss(0.0, 0.03) for _ in range(5)]
        reference = [[5.0 * math.exp(source.gauss(0.0, 0.05)) for _ in range(6)] for _ in shifts]
        own = [[5.0 * math.exp(shift + source.gauss(0.0, 0.05)) for _ in range(6)] for shift in shifts]
        cost = costs_of(made_probe({"sgdm": {"plain": (1.0, reference)}, "x": {"plain": (1.0, own)}}))["x"]
        assert cost.low is not None
        assert cost.high is not None
        hits += cost.low <= 1.2 <= cost.high
    assert 0.91 < hits / 300 < 0.99


def flat(x: float = 8.0, **fields: Any) -> ProbeRecord:
    return made_probe({"sgdm": {"plain": (1.0, [[4.0] * 2] * 3)}, "x": {"plain": (1.0, [[x] * 2] * 3)}}, **fields)


def made_run(optimizer: str = "x", *, seconds: float = 0.4, threads: int = 1, name: str = "cpu name") -> RunRecord:
    """A run of 50 steps."""
    run = record(optimizer, 0, 90.0)
    assert run.cost is not None
    return msgspec.structs.replace(
        run,
        cost=msgspec.structs.replace(run.cost, train_seconds=seconds),
        environment=msgspec.structs.replace(MADE_ON, threads=threads, device_name=name),
    ).under(fingerprint=PRINT)


def test_a_run_finds_the_probe_of_its_own_code_machine_and_threads_alone() -> None:
    probes = Probes([flat()])
    assert probes.find(made_run()) is not None
    assert probes.find(made_run(threads=2)) is None
    assert probes.find(made_run(name="another")) is None
    assert probes.find(msgspec.structs.replace(made_run(), environment=None)) is None
    other = msgspec.structs.replace(PRINT, optimizer="edited")
    assert Probes([flat(fingerprint=other)]).find(made_run()) is None
    run = made_run()
    faster = OptimizerSpec(name="x", hyperparameters={"lr": 0.2})
    assert probes.find(run.under(spec=msgspec.structs.replace(run.spec, optimizer=faster))) is None
    scheduled = msgspec.structs.replace(run.spec.optimizer, schedule=Cosine())
    assert probes.find(run.under(spec=msgspec.structs.replace(run.spec, optimizer=scheduled)))


def test_the_newest_probe_counts_unless_it_is_doubtful() -> None:
    for records, expected in (([flat(8.0), flat(12.0)], 3.0), ([flat(8.0), flat(12.0, foreign=1.0)], 2.0)):
        cost = Probes(records).find(made_run())
        assert cost is not None
        assert cost.ratio == pytest.approx(expected)


def test_a_run_that_disagrees_with_its_probe_is_left_out_and_counted() -> None:
    """The probe says 8 ms a step, 50 steps: 0.4 s; a second run took five times as long."""
    slow = made_run(seconds=2.0)
    slow = slow.under(spec=msgspec.structs.replace(slow.spec, seed=1))
    board = leaderboard("s", Scale.LOCAL, [made_run(), slow, made_run("sgdm", seconds=0.2)], [flat()])
    row = next(row for row in board.sections[0].rows if row.competitor == "x")
    assert row.disagreeing == 1
    assert row.train_seconds == 0.4
    page = leaderboard_markdown(board)
    assert "(1 of 2 left out)" in page
    assert "2.00" in page
    table = run_table([made_run(), slow], [flat()])
    assert list(table["agrees_with_probe"]) == [True, False]
    assert list(table["step_ratio"]) == pytest.approx([2.0, 2.0])


def test_doubts_are_shown_with_the_number() -> None:
    board = leaderboard("s", Scale.LOCAL, [made_run()], [flat(foreign=1.0)])
    page = leaderboard_markdown(board)
    assert "2.00 ?" in leaderboard_text(board)
    assert "## Doubtful measurements" in page
    assert "1.0 CPU cores" in page
    assert "## Doubtful" not in leaderboard_markdown(leaderboard("s", Scale.LOCAL, [made_run()], [flat()]))
    assert "step / sgdm" not in leaderboard_markdown(leaderboard("s", Scale.LOCAL, [made_run()]))


def reached(step: int, seconds: float) -> RunRecord:
    point = CurvePoint(
        step=step, epoch=1.0, seconds=seconds, train_loss=1.0, validation_loss=1.0, validation=90.0,
        learning_rate_factor=1.0,
    )  # fmt: skip
    return msgspec.structs.replace(made_run(), outcome=Reached(step=step, target=85.0), curve=(point,), task=FACTS)


def test_time_to_target_is_steps_times_the_probed_step_beside_the_runs_own_clock() -> None:
    run = reached(20, 0.3)
    row = leaderboard("s", Scale.LOCAL, [run], [flat()]).sections[0].rows[0]
    assert (row.steps_to_target, row.target_seconds) == (20, 0.3)
    assert row.composed_target_seconds == pytest.approx(20 * 0.008)
    (line,) = run_table([run], [flat()]).to_dict("records")
    assert (line["steps_to_target"], line["seconds_to_target"]) == (20, 0.3)
    assert line["composed_seconds_to_target"] == pytest.approx(0.16)
    missed = made_run().under(spec=msgspec.structs.replace(run.spec, seed=1))
    partly = leaderboard("s", Scale.LOCAL, [run, missed], [flat()])
    assert partly.sections[0].rows[0].steps_to_target is None
    assert "1 of 2 reached it" in leaderboard_markdown(partly)


def test_a_store_keeps_probes_and_sets_damaged_ones_aside(tmp_path: Path) -> None:
    store = Store(tmp_path, create=True)
    whole, broken, renamed = (store.keep_probe(flat(x)) for x in (8.0, 9.0, 10.0))
    broken.write_bytes(broken.read_bytes()[:-20])
    renamed.rename(renamed.with_name("0123456789abcdef-1.json"))
    scan = store.scan()
    assert [probe.competitors[1].kinds[0].milliseconds[0][0] for probe in scan.probes] == [8.0]
    assert scan.damaged == store.scan().damaged
    assert {found.path for found in scan.damaged} == {broken, renamed.with_name("0123456789abcdef-1.json")}
    store.set_aside(scan.damaged)
    assert not store.scan().damaged
    assert decode_probe(whole.read_bytes()) == scan.probes[0]
    with pytest.raises(ValueError, match="schema 99"):
        decode_probe(encode(msgspec.structs.replace(flat(), schema=99)))


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


@pytest.mark.parametrize("seconds", [0.05, pytest.param(1.0, marks=pytest.mark.slow)])
def test_sleep_in_the_inverse_raises_the_ratio_by_what_it_composes_to(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = costs_of(measured(("sgdm", "kfac"), processes=4, rounds=3))["kfac"]
    refresh = KroneckerCurvature.refresh
    asleep: set[int] = set()

    def slow(self: KroneckerCurvature) -> None:
        if not asleep or id(self) in asleep:  # in the first layer alone: once a step
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


def test_lowered_clocks_are_a_doubt_and_the_limit_of_a_card_at_work_is_none() -> None:
    probe = msgspec.structs.replace(flat(), throttle_reasons=("hw_thermal_slowdown", "sw_power_cap"))
    flags = {flag for cost in costs_of(probe).values() for flag in cost.flags}
    assert "the card's clocks were lowered (hw_thermal_slowdown)" in flags
    assert decode_probe(encode(probe)) == probe


@pytest.mark.slow
def test_the_command_measures_stores_and_does_not_measure_again(tiny_shell: Shell) -> None:
    tiny_shell.install("plug", optimizer_plugin(["print('no JSON')"]), "[apo_bench.optimizers]\nplug = plug:plug\n")
    arguments = ("probe", "--suite", "classification", "--tasks", "tiny", "--optimizers", "plug,apo-p", "--precisions",
                 "fp32,fp16", "--processes", "2", "--rounds", "2", "--scale", "smoke", "--threads", "1")  # fmt: skip
    out = tiny_shell(*arguments).stdout
    assert "fp16 left out: it is emulated" in out
    assert "tiny fp32 on cpu: sgdm plug apo-p" in out
    answer = json.loads(tiny_shell(*arguments, "--again", "--json").stdout)
    (probe,) = answer["probes"]
    assert [competitor["optimizer"] for competitor in probe["competitors"]] == ["sgdm", "plug", "apo-p"]
    assert probe["competitors"][0]["ratio"] == 1.0
    store = Store(tiny_shell.folder / "apo-bench-results")
    scan = store.scan()
    assert len(scan.probes) == 2
    for probed in scan.probes:
        store.keep_probe(_without_noise(probed))
    assert "already measured on" in tiny_shell(*arguments).stdout
    assert len(store.scan().probes) == 4
    tiny_shell("run", "--suite", "classification", "--tasks", "tiny", "--optimizers", "sgdm,apo-p", "--precisions",
               "fp32", "--epochs", "1", "--scale", "smoke", "--threads", "1")  # fmt: skip
    assert "step / sgdm" in tiny_shell("report", "--suite", "classification").stdout


def _without_noise(probe: ProbeRecord) -> ProbeRecord:
    """The same with times that nobody doubts."""
    competitors = tuple(
        msgspec.structs.replace(
            probed,
            kinds=tuple(
                msgspec.structs.replace(kind, milliseconds=((2.0, 2.0),) * len(kind.milliseconds))
                for kind in probed.kinds
            ),
        )
        for probed in probe.competitors
    )
    return msgspec.structs.replace(probe, competitors=competitors, foreign_cores=(), finished_at=now())


def test_the_next_run_waits_for_a_probe_that_began_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Told(Watcher):
        warnings: ClassVar[list[str]] = []

        def warn(self, message: str) -> None:
            self.warnings.append(message)

    monkeypatch.setattr(local, "start_fork_server", lambda: None)
    store = Store(tmp_path, create=True)
    intent = Intent(spec=run_spec(), suite="s", scale=Scale.SMOKE, fingerprint=PRINT)
    job = Job(intent=intent, store=str(tmp_path), threads=1, checkpoint_seconds=60.0, co_scheduled=0)
    executor = local._Executor([job], store, 1, Told())
    with store.probing(Device.CPU) as alone:
        assert alone
        assert [executor._probed() for _ in range(3)] == [True] * 3
    assert not executor._probed()
    assert Told.warnings == ["a probe of this store is measuring; the next run waits for it"]


@pytest.mark.slow
def test_probes_and_runs_leave_each_other_the_device(tiny_shell: Shell) -> None:
    tiny_shell.install(
        "plug",
        optimizer_plugin(["time.sleep(0.5)"]),
        "[apo_bench.optimizers]\nplug = plug:plug\n",
    )
    run = ("--suite", "classification", "--tasks", "tiny", "--optimizers", "plug", "--precisions", "fp32")
    started = tiny_shell.start("run", *run, "--epochs", "20")
    store = tiny_shell.folder / "apo-bench-results"
    for _ in range(600):
        if list(store.glob("active/*/events.jsonl")):
            break
        time.sleep(0.1)
    refused = tiny_shell("probe", *run, status=2).stderr
    assert "a run is in flight on cpu: tiny plug fp32 seed 0" in refused
    assert "stop them" in refused
    started.kill()
    started.wait()
    with Store(store).probing(Device.CPU) as alone:
        assert alone
        assert "a probe of" in tiny_shell("run", *run, "--epochs", "1", status=2).stderr
        assert "another probe" in tiny_shell("probe", *run, status=2).stderr


@pytest.mark.slow
def test_a_probe_whose_process_dies_says_so_and_the_others_go_on(tiny_shell: Shell) -> None:
    tiny_shell.install(
        "plug",
        optimizer_plugin(["os.kill(os.getpid(), signal.SIGKILL)"]),
        "[apo_bench.optimizers]\nplug = plug:plug\n",
    )
    done = tiny_shell("probe", "--suite", "classification", "--tasks", "tiny", "--optimizers", "plug", "--precisions",
                      "fp32,pure-bf16", "--processes", "1", "--rounds", "1", status=1)  # fmt: skip
    assert "killed by SIGKILL" in done.stderr
    assert "Traceback" not in done.stderr
    emulated = tiny_shell("probe", "--suite", "classification", "--tasks", "tiny", "--precisions", "fp16", status=1)
    assert "nothing was measured" in emulated.stderr
    for option in ("--processes", "--rounds", "--threads"):
        assert f"{option} 0 is not possible" in tiny_shell("probe", "--suite", "all", option, "0", status=2).stderr
