"""A check fails when something is worse, and not when it is noise."""

import random
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from support.records import FACTS
from support.snapshots import SEEDS, found, held, ratios, run, runs

from apo_bench.evidence.check import Finding, Quantity, Tolerances, Verdict, check
from apo_bench.records.facts import Direction, PrecisionBackend
from apo_bench.records.outcome import Diverged, Reason
from apo_bench.records.probe import ProbeRecord
from apo_bench.records.run import Fingerprint


def test_what_did_not_change_holds() -> None:
    findings = found(runs(), runs())
    assert {quantity: verdict for quantity, (verdict, _) in findings.items()} == {
        Quantity.FLOPS: Verdict.HOLDS,
        Quantity.STATE: Verdict.HOLDS,
        Quantity.QUALITY: Verdict.HOLDS,
        Quantity.STEP: Verdict.UNJUDGED,
    }


@pytest.mark.parametrize(
    ("changed", "quantity", "verdict"),
    [
        ({"flops_per_step": 1e6 + 1}, Quantity.FLOPS, Verdict.WORSE),
        ({"flops_per_step": 1e6 - 1}, Quantity.FLOPS, Verdict.BETTER),
        ({"flops_per_step": None}, Quantity.FLOPS, Verdict.MISSING),
        ({"state_bytes": 2049}, Quantity.STATE, Verdict.WORSE),
        ({"state_bytes": 2047}, Quantity.STATE, Verdict.BETTER),
    ],
)
def test_costs_are_compared_exactly(changed: dict[str, Any], quantity: Quantity, verdict: Verdict) -> None:
    findings = found(runs(), runs(**changed))
    assert findings.pop(quantity)[0] is verdict
    assert {other for other, _ in findings.values()} == {Verdict.HOLDS, Verdict.UNJUDGED}  # nothing else moved


def test_one_seed_that_costs_more_is_enough() -> None:
    now = [run(seed=0), run(seed=1, score=81.0), run(seed=2, score=79.0, flops_per_step=1.1e6)]
    assert found(runs(), now)[Quantity.FLOPS][0] is Verdict.WORSE


def test_one_seed_that_is_counted_no_more_is_missed_with_the_reason() -> None:
    now = [run(seed=0), run(seed=1, score=81.0), run(seed=2, score=79.0, flops_per_step=None, not_counted="aten.fft")]
    assert found(runs(), now)[Quantity.FLOPS] == (Verdict.MISSING, "counted in the baseline and not now: aten.fft")
    neither = runs(flops_per_step=None, not_counted="aten.fft")
    assert found(neither, neither)[Quantity.FLOPS] == (
        Verdict.UNJUDGED,
        "not counted in the baseline; now neither: aten.fft",
    )


def test_a_tolerance_is_a_share() -> None:
    now = runs(flops_per_step=1.03e6, state_bytes=2100)
    findings = found(runs(), now, tuple(Quantity), Tolerances(flops=0.031, state=0.02))
    assert findings[Quantity.FLOPS][0] is Verdict.HOLDS
    assert findings[Quantity.STATE][0] is Verdict.WORSE


def test_operator_calls_are_compared_on_demand() -> None:
    now = runs(operator_calls_per_step=51.0)
    assert Quantity.CALLS not in found(runs(), now)
    assert found(runs(), now, [Quantity.CALLS]) == {Quantity.CALLS: (Verdict.WORSE, "")}


def test_state_that_grew_is_named() -> None:
    before = runs(bytes_by_purpose={"parameters": 40, "momentum": 1024, "factors": 1024})
    now = runs(bytes_by_purpose={"parameters": 44, "momentum": 1024, "factors": 1020, "basis": 8}, state_bytes=2052)
    assert found(before, now)[Quantity.STATE] == (Verdict.WORSE, "basis 0 → 8 bytes, factors 1024 → 1020 bytes")


def test_emulated_costs_are_not_compared() -> None:
    emulated = runs(backend=PrecisionBackend.EMULATED)
    findings = found(emulated, emulated)
    assert findings[Quantity.FLOPS][0] is findings[Quantity.STATE][0] is Verdict.UNJUDGED
    assert findings[Quantity.QUALITY][0] is Verdict.HOLDS


def test_a_changed_default_is_compared_and_said() -> None:
    """A shorter interval by default is a regression, not another competitor."""
    findings = found(runs(interval=10), runs(interval=5, extra=True, flops_per_step=2e6))
    assert findings[Quantity.FLOPS] == (
        Verdict.WORSE,
        "the setting changed: extra not there → True, interval 10 → 5",
    )


def test_of_several_settings_none_is_taken_for_another() -> None:
    before = [*runs(interval=10), *runs(interval=20)]
    findings = check(held(before), held(runs(interval=5)))
    assert [(finding.verdict, finding.quantity) for finding in findings] == [
        (Verdict.MISSING, None),
        (Verdict.MISSING, None),
        (Verdict.UNJUDGED, None),
    ]


def test_a_setting_that_may_have_become_several_is_said() -> None:
    now = [*runs(interval=5), *runs(interval=3)]
    (missing, *_) = check(held(runs(interval=10)), held(now))
    assert missing.verdict is Verdict.MISSING
    assert "several settings that it may have become" in missing.reason


def test_a_format_that_is_emulated_elsewhere_has_no_cost_to_compare() -> None:
    """A processor without bf16 instructions emulates what another multiplied."""
    findings = found(runs(), runs(backend=PrecisionBackend.EMULATED))
    assert findings[Quantity.FLOPS][0] is findings[Quantity.STATE][0] is Verdict.UNJUDGED


def test_another_metric_is_not_compared() -> None:
    facts = msgspec.structs.replace(FACTS, metric="loss", direction=Direction.MINIMIZE)
    verdict, reason = found(runs(), runs((0.5, 0.6, 0.4), facts=facts))[Quantity.QUALITY]
    assert verdict is Verdict.UNJUDGED
    assert reason == "the metric was accuracy (%) and is loss; --save again"


def test_what_is_missing_fails_and_what_is_new_does_not() -> None:
    before = [*runs(), *(run("adam", seed) for seed in SEEDS)]
    now = [*runs()[:2], run("sgdm")]
    findings = check(held(before), held(now))
    assert [(one.cell, one.verdict, one.reason) for one in findings if one.quantity is None] == [
        ("t adam fp32", Verdict.MISSING, "no result; run the suite first"),
        ("t kfac fp32", Verdict.MISSING, "no result for seed 2; run the suite first"),
        ("t sgdm fp32", Verdict.UNJUDGED, "not in the baseline; --save takes it in"),
    ]


@pytest.mark.parametrize(
    ("before", "now", "direction", "verdict"),
    [
        ((80.0, 81.0, 79.0), (70.0, 71.1, 68.9), Direction.MAXIMIZE, Verdict.WORSE),
        ((80.0, 81.0, 79.0), (90.0, 91.1, 88.9), Direction.MAXIMIZE, Verdict.BETTER),
        ((80.0, 81.0, 79.0), (70.0, 71.1, 68.9), Direction.MINIMIZE, Verdict.BETTER),
        ((80.0, 81.0, 79.0), (90.0, 91.1, 88.9), Direction.MINIMIZE, Verdict.WORSE),
        ((80.0, 81.0, 79.0), (81.0, 79.0, 80.0), Direction.MAXIMIZE, Verdict.HOLDS),
        ((80.0, 81.0), (70.0, 71.1), Direction.MAXIMIZE, Verdict.UNJUDGED),
        ((80.0, 81.0, 66.3), (79.5, 80.5, 65.8), Direction.MAXIMIZE, Verdict.UNJUDGED),  # equal differences
        ((80.0,), (80.0,), Direction.MAXIMIZE, Verdict.HOLDS),
    ],
)
def test_quality_is_judged_by_paired_differences(
    before: Sequence[float], now: Sequence[float], direction: Direction, verdict: Verdict
) -> None:
    facts = msgspec.structs.replace(FACTS, direction=direction)
    findings = found(runs(before, facts=facts), runs(now, facts=facts))
    assert findings[Quantity.QUALITY][0] is verdict


def test_the_difference_and_its_interval_are_said() -> None:
    assert found(runs(), runs((70.0, 71.1, 68.9)))[Quantity.QUALITY][1] == "-10 ± 0.25, n = 3"


def test_a_tolerance_of_quality_is_in_the_metrics_unit() -> None:
    now = runs((79.0, 80.1, 77.9))
    assert found(runs(), now)[Quantity.QUALITY][0] is Verdict.WORSE
    assert found(runs(), now, tuple(Quantity), Tolerances(quality=1.0))[Quantity.QUALITY][0] is Verdict.HOLDS


def test_a_new_divergence_is_worse_and_one_that_is_gone_is_better() -> None:
    lost = [*runs()[:2], run(seed=2, score=None, outcome=Diverged(step=7, reason=Reason.TRAINING_LOSS))]
    assert found(runs(), lost)[Quantity.QUALITY] == (Verdict.WORSE, "diverged: seed 2 at step 7")
    assert found(lost, runs())[Quantity.QUALITY] == (Verdict.BETTER, "no longer diverges: seed 2")
    assert found(lost, lost)[Quantity.QUALITY][0] is Verdict.HOLDS


def checks(count: int, cells: int, change: float = 0.0) -> list[list[Finding]]:
    source = random.Random(0)
    made = []
    for _ in range(count):
        before, now = [], []
        for cell in range(cells):
            for seed in SEEDS:
                level = source.gauss(80.0, 1.0)
                before.append(run(f"o{cell}", seed, level + source.gauss(0.0, 0.3)))
                now.append(run(f"o{cell}", seed, level + (change if cell == 0 else 0.0) + source.gauss(0.0, 0.3)))
        made.append(check(held(before), held(now), [Quantity.QUALITY]))
    return made


def _any_worse(findings: Sequence[Finding]) -> bool:
    return any(finding.verdict is Verdict.WORSE for finding in findings)


def test_noise_of_quality_fails_few_checks() -> None:
    """Eight cells together: worse by chance in one check of forty, as intervals have two sides."""
    assert sum(map(_any_worse, checks(400, 8))) <= 20


@pytest.mark.parametrize(("examples", "noise"), [(200, 0.3), (200, 0.7), (2000, 0.05)])
def test_noise_of_a_metric_in_steps_fails_few_checks(examples: int, noise: float) -> None:
    """An accuracy moves by whole examples, so that equal differences are no rarity."""
    source = random.Random(1)
    step = 100.0 / examples
    worse = 0
    for _ in range(300):
        before, now = (
            [
                run(f"o{cell}", seed, step * round((80.0 + source.gauss(0.0, noise)) / step))
                for cell in range(8)
                for seed in SEEDS
            ]
            for _ in range(2)
        )
        worse += _any_worse(check(held(before), held(now), [Quantity.QUALITY]))
    assert worse <= 15


def test_a_loss_of_quality_is_found() -> None:
    assert sum(map(_any_worse, checks(100, 2, change=-8.0))) >= 90


def step_verdict(before: ProbeRecord, now: ProbeRecord, *arguments: Any) -> tuple[Verdict, str]:
    findings = check(held(runs(), before), held(runs(), now), [Quantity.STEP], *arguments)
    (finding,) = findings
    return finding.verdict, finding.reason


def test_noise_of_a_probe_fails_few_checks_and_a_slower_step_is_found() -> None:
    source = random.Random(0)
    same = [step_verdict(ratios(source, 1.4), ratios(source, 1.4))[0] for _ in range(300)]
    slower = [step_verdict(ratios(source, 1.4), ratios(source, 1.4 * 1.15))[0] for _ in range(100)]
    faster = [step_verdict(ratios(source, 1.4), ratios(source, 1.4 / 1.15))[0] for _ in range(100)]
    assert same.count(Verdict.WORSE) <= 12
    assert slower.count(Verdict.WORSE) >= 95
    assert faster.count(Verdict.BETTER) >= 95


def test_a_step_may_become_slower_by_its_tolerance() -> None:
    source = random.Random(0)
    before, now = ratios(source, 1.4, 0.001), ratios(source, 1.4 * 1.1, 0.001)
    assert step_verdict(before, now)[0] is Verdict.WORSE
    assert step_verdict(before, now, Tolerances(step=0.2))[0] is Verdict.HOLDS


def _elsewhere(probe: ProbeRecord) -> ProbeRecord:
    environment = msgspec.structs.replace(probe.environment, device_name="another")
    return msgspec.structs.replace(probe, environment=environment)


def test_a_step_is_not_judged_across_machines_or_from_doubtful_probes() -> None:
    source = random.Random(0)
    probe = ratios(source, 1.4)
    other = [msgspec.structs.replace(one, environment=_elsewhere(probe).environment) for one in runs()]
    (finding,) = check(held(runs(), probe), held(other, _elsewhere(probe)), [Quantity.STEP])
    assert finding.verdict is Verdict.UNJUDGED
    assert finding.reason == "probed on another with 1 threads, the baseline on cpu name with 1"
    doubtful = msgspec.structs.replace(probe, foreign_cores=(1.0,) * 5)
    assert step_verdict(probe, doubtful) == (Verdict.UNJUDGED, "no probe without a doubt now")
    assert step_verdict(doubtful, probe) == (Verdict.UNJUDGED, "no probe without a doubt in the baseline")


def test_a_probe_of_other_code_is_none_of_the_run() -> None:
    source = random.Random(0)
    old = Fingerprint(harness="h", task="t", optimizer="earlier", torch="2", data="d")
    probe = ratios(source, 1.4)
    earlier = msgspec.structs.replace(
        probe, competitors=tuple(msgspec.structs.replace(one, fingerprint=old) for one in probe.competitors)
    )
    assert step_verdict(probe, earlier)[1] == "no probe without a doubt now"
