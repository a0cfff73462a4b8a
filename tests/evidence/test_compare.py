"""Two results, compared: what differs beyond doubt, what is identical, and what cannot be said."""

import dataclasses
import random
from collections.abc import Iterable, Sequence

import msgspec
import pytest
from support.records import FACTS, MADE_ON, PRINT
from support.snapshots import ratios, run, runs

from apo_bench.errors import UsageError
from apo_bench.evidence.cells import cells
from apo_bench.evidence.compare import Comparison, compare_optimizers, compare_sides
from apo_bench.evidence.findings import Finding, Pair, Row, row_of
from apo_bench.evidence.published import published_side
from apo_bench.evidence.sides import Entry, Side, side_of
from apo_bench.evidence.step_costs import Probes
from apo_bench.evidence.table import run_table
from apo_bench.records.contrast import Selector
from apo_bench.records.facts import Direction, PrecisionBackend
from apo_bench.records.outcome import Diverged, Reached, Reason, Undefined
from apo_bench.records.probe import ProbeRecord
from apo_bench.records.run import Fingerprint, RunRecord
from apo_bench.records.spec import Scale
from apo_bench.render.compare import compare_json, compare_markdown, compare_text
from apo_bench.render.table import encode_table

LOSS = msgspec.structs.replace(FACTS, metric="mean squared error", direction=Direction.MINIMIZE)
CHANGED = Fingerprint(harness="h", task="t", optimizer="other", torch="2", data="d")


def side(records: Sequence[RunRecord], *probes: ProbeRecord, name: str = "x") -> Side:
    return side_of(name, [cells(records, "s", Scale.LOCAL)], Probes(probes))


def found(before: Sequence[RunRecord], after: Sequence[RunRecord]) -> Comparison:
    return compare_sides(side(before, name="before"), side(after, name="after"))


def by_quantity(comparison: Comparison) -> dict[str, Row]:
    rows = {row.quantity.name: row for row in comparison.rows}
    assert len(rows) == len(comparison.rows)
    return rows


def of_code(records: Iterable[RunRecord], fingerprint: Fingerprint = CHANGED) -> list[RunRecord]:
    return [record.under(fingerprint=fingerprint) for record in records]


def test_equal_results_are_identical_and_the_page_says_so_first() -> None:
    same = found(runs(), runs())
    assert {row.finding for row in same.rows} == {Finding.IDENTICAL}
    assert same.identical == ("t, kfac fp32",)
    assert same.changed == {}
    said = "A and B are identical to the last bit in all 4 comparisons of 1 cell on 1 table: same code, same data"
    assert said in compare_markdown(same).splitlines()[2]
    assert compare_text(same).startswith("A and B are identical")
    assert same.families == 0


def test_identical_results_of_changed_code_say_that_the_code_changed() -> None:
    same = found(runs(), of_code(runs()))
    assert same.changed == {"optimizer": 1}
    assert "code or data differ: optimizer in 1" in compare_markdown(same)


def test_a_clear_loss_is_worse_and_a_clear_gain_better() -> None:
    down, up = runs([70.1, 71.0, 69.0]), runs([90.1, 91.0, 89.0])
    row = by_quantity(found(runs(), down))["value"]
    assert row.finding is Finding.WORSE
    assert row.before == 80.0
    assert row.after == pytest.approx(70.03333)
    assert row.estimate.value == pytest.approx(-9.96667)
    assert row.estimate.high is not None
    assert row.estimate.high < 0
    assert by_quantity(found(runs(), up))["value"].finding is Finding.BETTER
    text = compare_markdown(found(runs(), down))
    assert "B is worse in 1 and better in 0 of 4 comparisons of 1 cell on 1 table (3 identical)" in text


def test_lower_is_better_and_errors_are_compared_by_ratios() -> None:
    before = runs([1e-6, 2e-6, 4e-6], facts=LOSS)
    after = runs([1e-7, 2.1e-7, 4.1e-7], facts=LOSS)
    row = by_quantity(found(before, after))["value"]
    assert row.finding is Finding.BETTER
    assert row.estimate.value == pytest.approx(0.1 * (2.1 * 4.1 / 8) ** (1 / 3))
    assert by_quantity(found(after, before))["value"].finding is Finding.WORSE


def test_an_error_of_zero_is_compared_by_differences() -> None:
    row = by_quantity(found(runs([0.0, 0.0, 0.0], facts=LOSS), runs([0.1, 0.12, 0.11], facts=LOSS)))["value"]
    assert row.finding is Finding.WORSE
    assert row.estimate.value == pytest.approx(0.11)


def test_pairing_finds_what_seeds_share() -> None:
    scores = [60.0, 70.0, 80.0, 90.0]
    row = by_quantity(found(runs(scores), runs([score - 1 - 0.01 * n for n, score in enumerate(scores)])))["value"]
    assert row.finding is Finding.WORSE
    assert row.estimate.n == 4


def test_one_seed_claims_nothing_but_what_is_counted() -> None:
    rows = by_quantity(found(runs([80.0]), runs([10.0], flops_per_step=2e6, state_bytes=1024)))
    assert rows["value"].finding is Finding.UNJUDGED
    assert "n = 1" in rows["value"].reason
    assert rows["flops_per_step"].finding is Finding.WORSE
    assert rows["state_bytes"].finding is Finding.BETTER
    assert rows["operator_calls_per_step"].finding is Finding.IDENTICAL


def test_equal_differences_in_all_seeds_show_no_spread() -> None:
    row = by_quantity(found(runs(), runs([79.0, 80.0, 78.0])))["value"]
    assert row.finding is Finding.UNJUDGED
    assert "no spread" in row.reason


def test_state_that_appears_is_worse() -> None:
    rows = by_quantity(found(runs(state_bytes=0), runs(state_bytes=8)))
    assert rows["state_bytes"].finding is Finding.WORSE
    assert "+8" in compare_markdown(found(runs(state_bytes=0), runs(state_bytes=8)))


def test_a_seed_that_diverges_where_it_did_not_is_worse() -> None:
    diverged = Diverged(step=3, reason=Reason.TRAINING_LOSS)
    after = [*runs()[:2], run(seed=2, score=None, outcome=diverged)]
    row = by_quantity(found(runs(), after))["value"]
    assert row.finding is Finding.WORSE
    assert row.reason == "seed 2 diverged in B and not in A"
    assert by_quantity(found(after, runs()))["value"].finding is Finding.BETTER
    other = [run(seed=0, score=None, outcome=diverged), *runs()[1:]]
    assert by_quantity(found(other, after))["value"].finding is Finding.UNJUDGED


def test_all_diverged_on_both_sides_is_identical_and_no_comparison_of_scores() -> None:
    lost = [run(seed=seed, score=None, outcome=Diverged(step=3, reason=Reason.TRAINING_LOSS)) for seed in range(3)]
    same = found(lost, lost)
    assert same.identical == ("t, kfac fp32",)
    assert by_quantity(same)["value"].finding is Finding.UNJUDGED
    worse = by_quantity(found(runs(), lost))["value"]
    assert worse.finding is Finding.WORSE
    assert worse.after is None


def test_a_run_without_a_score_is_lost() -> None:
    after = [*runs()[:2], run(seed=2, score=None, outcome=Undefined(step=9, metric="m", value="nan", loss=1.0))]
    row = by_quantity(found(runs(), after))["value"]
    assert (row.finding, "undefined" in row.reason) == (Finding.WORSE, True)


def test_only_seeds_that_both_have_count() -> None:
    lost = run(seed=7, score=None, outcome=Diverged(step=3, reason=Reason.TRAINING_LOSS))
    comparison = found([*runs(), lost], [*runs([70.1, 71.0, 69.0]), run(seed=9, score=1.0)])
    row = by_quantity(comparison)["value"]
    assert (row.finding, row.estimate.n) == (Finding.WORSE, 3)
    apart = found([run(seed=0)], [run(seed=1)])
    assert not apart.rows
    assert [one.reason for one in apart.only] == ["no seed in common"]
    assert compare_markdown(apart).splitlines()[2].startswith("Nothing can be compared")


def test_steps_to_a_target_that_a_seed_missed_are_not_judged() -> None:
    def reached(steps: Sequence[int | None]) -> list[RunRecord]:
        return [
            run(seed=seed) if step is None else run(seed=seed, outcome=Reached(target=70.0, step=step))
            for seed, step in enumerate(steps)
        ]

    fast, slow = reached([100, 110, 105]), reached([200, 215, 211])
    row = by_quantity(found(fast, slow))["steps_to_target"]
    assert (row.finding, round(row.estimate.value or 0, 1)) == (Finding.WORSE, 2.0)
    row = by_quantity(found(fast, reached([200, None, 210])))["steps_to_target"]
    assert row.finding is Finding.UNJUDGED
    assert row.reason == "B: 1 of 3 did not reach the target"


def test_other_data_and_emulated_costs_are_not_judged() -> None:
    other = msgspec.structs.replace(PRINT, data="other")
    rows = by_quantity(found(runs(), of_code(runs([70.1, 71.0, 69.0]), other)))
    assert (rows["value"].finding, rows["value"].reason) == (Finding.UNJUDGED, "the data differ")
    emulated = runs(backend=PrecisionBackend.EMULATED)
    assert "flops_per_step" not in by_quantity(found(emulated, emulated))
    assert by_quantity(found(runs(), emulated))["flops_per_step"].finding is Finding.UNJUDGED


def test_a_family_is_the_cells_of_a_table() -> None:
    names = [f"x{number}" for number in range(5)]
    source = random.Random(0)

    def many(shift: float) -> list[RunRecord]:
        return [run(name, seed, 80 + shift + source.gauss(0, 1)) for name in names for seed in range(4)]

    comparison = found(many(0.0), many(0.0))
    (table,) = comparison.tables
    assert table.pairs == 5
    assert {row.estimate.family for row in table.rows} == {5}
    assert comparison.families == 1


def test_cells_on_one_side_only_are_named_and_a_changed_setting_is_said() -> None:
    before = [*runs(), run("adam"), run("sgdm", lr=0.5)]
    after = [*runs(), run("lion"), run("sgdm", lr=0.25)]
    alone = {(one.side, one.name): one.reason for one in found(before, after).only}
    assert alone == {
        ("A", "adam fp32"): "",
        ("B", "lion fp32"): "",
        ("", "sgdm fp32"): "another setting in B: lr 0.5 → 0.25",
    }
    nothing = found([run("adam")], [run("lion")])
    assert not nothing.rows
    assert len(nothing.only) == 2


def test_step_ratios_are_compared_by_the_processes_of_their_probes() -> None:
    def step(before: float, after: float, **changed: float) -> Row:
        old = side(runs(), ratios(random.Random(1), before))
        new = side(of_code(runs(), PRINT), ratios(random.Random(2), after, **changed))
        return by_quantity(compare_sides(old, new))["step_ratio"]

    assert step(2.0, 3.0).finding is Finding.WORSE
    assert step(3.0, 2.0).finding is Finding.BETTER
    assert step(2.0, 2.0).finding is Finding.UNDECIDED
    doubtful = step(2.0, 3.0, noise=0.5)
    assert doubtful.finding is Finding.UNJUDGED
    assert "doubtful probe" in doubtful.reason


def test_two_optimizers_of_one_store_are_not_paired() -> None:
    scores = [60.0, 70.0, 80.0, 90.0]
    records = [
        *(run("adam", n, one) for n, one in enumerate(scores)),
        *(run("kfac", n, one - 1) for n, one in enumerate(scores)),
    ]
    held = [cells(records, "s", Scale.LOCAL)]
    comparison = compare_optimizers(Selector(optimizer="adam"), Selector(optimizer="kfac"), held, Probes())
    row = by_quantity(comparison)["value"]
    assert not comparison.paired
    assert (row.finding, row.name) == (Finding.UNDECIDED, "adam → kfac fp32")
    missing = compare_optimizers(Selector(optimizer="adam"), Selector(optimizer="lion"), held, Probes())
    assert [(one.side, one.name) for one in missing.only] == [("A", "fp32")]
    assert "without pairing" in compare_markdown(comparison)


def table_of(records: Sequence[RunRecord], *probes: ProbeRecord) -> str:
    return encode_table(run_table(records, probes), "csv").decode()


def test_a_published_table_is_what_it_was_written_from() -> None:
    """Cells, samples, what is repeated, losses and code come back; so a table and its store are identical."""
    source = random.Random(3)
    records = [
        *(run("kfac", seed, 80 + source.gauss(0, 1), note='=1+1, "é日本"\n\'x') for seed in range(3)),
        *runs(backend=PrecisionBackend.EMULATED, optimizer="emulated"),
        run("adam", 0, None, outcome=Diverged(step=3, reason=Reason.TRAINING_LOSS)),
        run("adam", 1, 70.0),
        *(run("sgdm", seed, 1e-7 * (1 + seed), facts=LOSS, task="loss") for seed in range(3)),
    ]
    stored, read = side(records), published_side("x", table_of(records))
    assert stored.entries.keys() == read.entries.keys()
    for cell, entry in stored.entries.items():
        other = read.entries[cell]
        assert other.samples == entry.samples
        assert (other.repeated, other.lost, other.code, other.metric) == (
            entry.repeated,
            entry.lost,
            entry.code,
            entry.metric,
        )
        assert (other.machine, other.is_emulated) == (MACHINE, entry.is_emulated)
        assert {name: (q.unit, q.direction, q.axis) for name, q in other.quantities.items()} == {
            name: (q.unit, q.direction, q.axis) for name, q in entry.quantities.items()
        }
    comparison = compare_sides(stored, read)
    assert len(comparison.identical) == comparison.pairs == 4
    assert not comparison.counts[Finding.WORSE]
    assert comparison.changed == {}


MACHINE = (MADE_ON.device_name, MADE_ON.threads)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (("run_id,", "id,"), "it has no column 'run_id'"),
        (("kfac", "adam"), "line 2: what the row says is not run"),
        (("fp32", "fp31"), "line 2: Invalid enum value"),
        ((",80.0,", ",eighty,"), "line 2: could not convert"),
        ((",80.0,", ",inf,"), "line 2: value is inf"),
        (("\n", '\n"'), "write it again with `apo-bench export`"),
    ],
)
def test_a_damaged_table_is_refused_in_one_line(damage: tuple[str, str], words: str) -> None:
    text = table_of([run("kfac", 0, 80.0)]).replace(*damage)
    with pytest.raises(UsageError, match="x") as caught:
        published_side("x", text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_says_a_probes_ratio_and_not_its_processes() -> None:
    probe = ratios(random.Random(1), 2.0)
    before, after = (published_side("x", table_of(runs(), one)) for one in (probe, ratios(random.Random(2), 3.0)))
    row = by_quantity(compare_sides(before, after))["step_ratio"]
    assert row.finding is Finding.UNJUDGED
    assert "does not hold the processes" in row.reason
    assert row.estimate.value == pytest.approx(1.5, rel=0.05)
    assert by_quantity(compare_sides(before, before))["step_ratio"].finding is Finding.IDENTICAL


def test_hostile_names_stay_text() -> None:
    hostile = "a|b\x1b[2J\u202e<script>日本"
    records = [record.under(spec=msgspec.structs.replace(record.spec, task=hostile)) for record in runs()]
    comparison = found(records, [*records[:2], msgspec.structs.replace(records[2], scores=runs([1.0])[0].scores)])
    comparison = dataclasses.replace(comparison, b=hostile)
    for page in (compare_markdown(comparison), compare_text(comparison)):
        assert not {"\x1b", "\u202e"} & set(page)
        assert "日本" in page
    assert "<script>" not in compare_markdown(comparison)


def test_the_terminal_shows_80_columns_and_the_page_seven() -> None:
    comparison = found(runs(), of_code(runs([70.123456, 71.0, 69.0], flops_per_step=2.123456e12, state_bytes=10**10)))
    assert max(map(len, compare_text(comparison).splitlines())) <= 80
    (header,) = [line for line in compare_markdown(comparison).splitlines() if line.startswith("| competitor")]
    assert header.count("|") - 1 == 7


def test_json_says_everything_unrounded() -> None:
    told = compare_json(found(runs(), of_code(runs([70.1, 71.0, 69.0]))))
    (table,) = told["tables"]
    row = next(row for row in table["rows"] if row["quantity"] == "value")
    assert row["b"] == pytest.approx(210.1 / 3, rel=1e-15)
    assert (row["finding"], row["n"], table["family"], told["counts"]["worse"]) == ("worse", 3, 1, 1)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_where_nothing_differs_a_table_claims_in_one_of_twenty_at_most(n: int) -> None:
    """Versions of five cells whose spreads differ a hundredfold, over seeds that explain most of it."""
    source, wrong, repeats = random.Random(n), 0, 400
    (template,) = side(runs()).entries.values()

    def entry(values: Sequence[float]) -> Entry:
        seeds = {seed: {"diverged": False, "value": value} for seed, value in enumerate(values)}
        sample = dataclasses.replace(template.samples["value"], values=dict(enumerate(values)))
        return dataclasses.replace(template, samples={**template.samples, "value": sample}, repeated=seeds)

    for _ in range(repeats):
        claims = set()
        for spread in (0.01, 0.03, 0.1, 0.3, 1.0):
            shared = [80 + source.gauss(0, 5 * spread) for _ in range(n)]
            old, new = (entry([one + source.gauss(0, spread) for one in shared]) for _ in range(2))
            row = row_of(Pair("x", old, new).on_common_seeds(), "value", 5, paired=True)
            assert row is not None
            claims.add(row.finding)
        wrong += bool(claims & {Finding.WORSE, Finding.BETTER})
    assert wrong / repeats < 0.05 + 3 * (0.05 * 0.95 / repeats) ** 0.5
    assert wrong > 0
