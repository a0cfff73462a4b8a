"""What is said before any table: who can be told from whom, and what is not said."""

import random

import msgspec
from support.records import FACTS, record

from apo_bench.evidence.answer import Answer, rankings
from apo_bench.evidence.cells import Cells, cells
from apo_bench.evidence.estimates import Verdict
from apo_bench.evidence.judgements import anchors_of, judged, labels
from apo_bench.evidence.leaderboard import leaderboard, leaderboard_of
from apo_bench.evidence.step_costs import Probes
from apo_bench.records.contrast import against
from apo_bench.records.facts import Direction
from apo_bench.records.outcome import Diverged, Reason
from apo_bench.records.run import RunRecord
from apo_bench.records.schedules import Cosine
from apo_bench.records.spec import Precision, Scale
from apo_bench.records.suite import OptimizerEntry, Suite, TaskEntry
from apo_bench.render.answer import answer_text, sentences
from apo_bench.render.leaderboard import leaderboard_markdown

KNOWN = msgspec.structs.replace(FACTS, target=85.0, trivial=10.0)


def _suite(*optimizers: str, seeds: int = 5) -> Suite:
    return Suite(
        name="s",
        scale=Scale.LOCAL,
        title="S",
        tasks=tuple(TaskEntry(task=task, epochs=5, seeds=tuple(range(seeds))) for task in ("t", "u")),
        optimizers=tuple(OptimizerEntry(optimizer=name) for name in ("sgdm", *optimizers)),
        precisions=(Precision.FP32,),
        contrasts=against("sgdm", *optimizers),
    )


def _runs(task: str = "t", seeds: int = 5, **means: float) -> list[RunRecord]:
    generator = random.Random(3)
    return [
        record(name.replace("_", "-"), seed, mean + generator.gauss(0, 0.3), facts=KNOWN, task=task)
        for name, mean in means.items()
        for seed in range(seeds)
    ]


def _held(*records: RunRecord) -> Cells:
    return cells(records, "s", Scale.LOCAL)


def _said(records: list[RunRecord], suite: Suite | None = None) -> list[str]:
    return sentences(leaderboard("s", Scale.LOCAL, records, declared=suite).answer)


def test_separable_competitors_are_named_and_tied_ones_share_their_ranks() -> None:
    (ranking,) = rankings(_held(*_runs(sgdm=84.0, adam=84.1, kfac=88.0)))
    assert ranking.standings.rows[0].name == "kfac"
    assert ranking.standings.leader == "kfac"
    assert set(ranking.beaten["kfac"]) == {"sgdm", "adam"}
    assert {row.name: (row.best_rank, row.worst_rank) for row in ranking.standings.rows} == {
        "kfac": (1, 1),
        "adam": (2, 3),
        "sgdm": (2, 3),
    }
    said = _said(_runs(sgdm=84.0, adam=84.1, kfac=88.0), _suite("adam", "kfac"))
    assert said[0] == "fp32 on cpu, t, n = 5: kfac is first beyond doubt."
    assert any(line.startswith("t, fp32, test accuracy (%): better than sgdm: kfac (+") for line in said)
    assert any("more seeds would decide adam against sgdm on t in fp32" in line for line in said)


def test_where_nobody_can_be_told_from_anybody_it_says_so() -> None:
    said = _said(_runs(sgdm=84.0, adam=84.1, kfac=84.0))
    assert said[0].startswith("fp32 on cpu, t, n = 5: over all pairs at once, nobody can be told from anybody (")


def test_one_seed_makes_no_order_and_no_claim() -> None:
    records = _runs(seeds=1, sgdm=80.0, kfac=90.0)
    assert rankings(_held(*records)) == ()
    said = _said(records, _suite("kfac"))
    assert said == ["1 of 1 declared comparisons are not judged: n = 1; a difference is judged from 3 seeds on."]
    assert _said(records) == ["Nothing can be said yet: a comparison needs 3 seeds of two competitors."]
    board = leaderboard("s", Scale.LOCAL, records)
    assert [row.competitor for row in board.sections[0].rows] == ["sgdm", "kfac"]  # as they came, not best first


def test_a_task_with_too_few_seeds_is_left_out_by_name() -> None:
    (ranking,) = rankings(_held(*_runs(sgdm=84.0, kfac=88.0), *_runs("u", 1, sgdm=84.0, kfac=80.0)))
    assert ranking.tasks == ("t",)
    assert ranking.left_out == {"u": "n = 1; an order needs 3 seeds"}


def test_without_a_target_there_is_nothing_to_normalize_by() -> None:
    records = [record(name, seed, 80.0 + seed) for name in ("sgdm", "kfac") for seed in range(3)]
    assert rankings(_held(*records)) == ()
    assert anchors_of(FACTS) is None
    assert anchors_of(msgspec.structs.replace(KNOWN, trivial=85.0)) is None


def test_a_competitor_that_diverges_ranks_last_and_is_not_judged() -> None:
    lost = [
        record("kfac", seed, None, facts=KNOWN, outcome=Diverged(step=1, reason=Reason.TEST)) for seed in range(4)
    ] + [record("kfac", 4, 99.0, facts=KNOWN)]
    records = [*_runs(sgdm=84.0, adam=86.0), *lost]
    (ranking,) = rankings(_held(*records))
    assert ranking.standings.rows[-1].name == "kfac"
    assert ranking.standings.rows[-1].last_on == ("t",)
    (first, second) = judged(_suite("kfac", "adam"), _held(*records), Probes(()))
    assert first.estimate.verdict is Verdict.UNJUDGED
    assert "4 of 5 diverged" in first.estimate.reason
    assert second.estimate.verdict is Verdict.BETTER


def test_less_is_better_where_the_metric_says_so() -> None:
    facts = msgspec.structs.replace(
        FACTS, target=0.1, trivial=1.0, direction=Direction.MINIMIZE, metric="mean squared error"
    )
    records = [
        record(name, seed, mean * (1 + 0.01 * seed), facts=facts)
        for name, mean in (("sgdm", 0.2), ("kfac", 0.1))
        for seed in range(5)
    ]
    (ranking,) = rankings(_held(*records))
    assert ranking.standings.leader == "kfac"
    (one,) = judged(_suite("kfac"), _held(*records), Probes(()))
    assert one.estimate.verdict is Verdict.BETTER
    assert one.estimate.value is not None
    assert abs(one.estimate.value - 0.5) < 1e-9  # a ratio
    assert "×0.5 [" in answer_text(Answer(judgements=(one,)))


def test_the_family_is_the_declared_one_whatever_lies_in_the_store() -> None:
    alone = judged(_suite("kfac", "adam", "soap"), _held(*_runs(sgdm=84.0, kfac=84.5)), Probes(()))
    among = judged(
        _suite("kfac", "adam", "soap"), _held(*_runs(sgdm=84.0, kfac=84.5, adam=84.2, soap=84.1)), Probes(())
    )
    assert {one.estimate.family for one in (*alone, *among)} == {3}
    assert alone[0].estimate == among[0].estimate


def test_a_competitor_that_is_not_declared_widens_only_its_own_interval() -> None:
    def compared(records: list[RunRecord]) -> dict[str, int]:
        rows = leaderboard_of(_held(*records), declared=_suite("kfac", "adam")).sections[0].rows
        return {row.competitor: row.versus_reference.family for row in rows if row.versus_reference is not None}

    declared = _runs(sgdm=84.0, kfac=84.5)
    assert compared(declared) == {"kfac": 2}
    others = _runs(v=84.0, w=84.0, x=84.0, y=84.0, z=84.0)
    assert compared([*declared, *others]) == {"kfac": 2, **dict.fromkeys("vwxyz", 6)}


def test_on_a_task_outside_the_suite_the_whole_family_is_counted() -> None:
    records = _runs("elsewhere", sgdm=84.0, kfac=88.0)
    (one,) = judged(_suite("kfac", "adam", "soap"), _held(*records), Probes(()), contrasts=against("sgdm", "kfac"))
    assert one.estimate.family == 3


def test_no_verdict_before_the_planned_number_of_seeds() -> None:
    records = _runs(sgdm=84.0, kfac=88.0)
    (one,) = judged(_suite("kfac"), _held(*records), Probes(()), planned=8)
    assert (one.estimate.verdict, one.estimate.reason) == (Verdict.UNJUDGED, "5 of 8 planned seeds")
    assert rankings(_held(*records), 8) == ()  # and no order
    assert len(rankings(_held(*records), 5)) == 1
    board = leaderboard_of(_held(*records), declared=_suite("kfac"), seeds_planned=8)
    assert sentences(board.answer) == ["1 of 1 declared comparisons are not judged: 5 of 8 planned seeds."]
    compared = [row.versus_reference for row in board.sections[0].rows if row.versus_reference is not None]
    assert [one.verdict for one in compared] == [Verdict.UNJUDGED]


def test_a_competitor_has_one_label_on_all_tasks_and_a_schedule_where_it_has_several() -> None:
    cosine = []
    for one in _runs(sgdm=85.0):
        optimizer = msgspec.structs.replace(one.spec.optimizer, schedule=Cosine())
        cosine.append(one.under(spec=msgspec.structs.replace(one.spec, optimizer=optimizer)))
    other = [record("kfac", 0, 80.0, facts=KNOWN, task="u", damping=0.3)]
    held = _held(*_runs(sgdm=84.0), *cosine, record("kfac", 0, 80.0, facts=KNOWN, damping=0.1), *other)
    assert sorted(set(labels(held).values())) == ["kfac", "sgdm (constant)", "sgdm (cosine)"]


def test_hostile_names_stay_inert() -> None:
    records = [
        record(name, seed, 80.0 + seed + 9 * (name != "sgdm"), facts=KNOWN, task="<script>|*x*\n# y")
        for name in ("sgdm", "a|b`c` <b>ö")
        for seed in range(3)
    ]
    page = leaderboard_markdown(leaderboard("s", Scale.LOCAL, records))
    answer = page.partition("## Answer")[2].partition("\n## ")[0]
    assert "<script>" not in answer
    assert "<b>" not in answer
    assert "\n# y" not in answer
