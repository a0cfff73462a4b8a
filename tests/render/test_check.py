"""Findings of a check as text and as a page."""

import msgspec
from support.records import MADE_ON
from support.snapshots import SEEDS, held, run, runs

from apo_bench.evidence.check import check
from apo_bench.render.check import check_markdown, check_text


def test_the_worst_comes_first_in_text_and_page() -> None:
    before = held([*runs(), *(run("adam", seed) for seed in SEEDS)])
    now = held([*runs(flops_per_step=1.03e6), *(run("adam", seed, state_bytes=1024) for seed in SEEDS)])
    findings = check(before, now)
    assert check_text(findings, before, now, "b.json").splitlines() == [
        "worse: t kfac fp32, FLOPs of a step 1 M → 1.03 M (+3.0 %)",
        "better: t adam fp32, bytes of state 2,048 → 1,024 (-50.0 %)",
        "not judged: 2 (no probe without a doubt in the baseline)",
        "8 comparisons with b.json (apo-bench 1, torch 2): 1 worse, 1 better, 2 not judged, 4 holds",
    ]
    page = check_markdown(findings, before, now, "b.json").splitlines()
    assert page[0] == "# Check of s, scale local: does not hold"
    rows = [line for line in page if line.startswith("|")]
    assert len(rows) == 2 + len(findings)
    assert rows[2].split("|")[1].strip() == "worse"


def test_another_torch_is_said() -> None:
    before = held(runs())
    newer = msgspec.structs.replace(MADE_ON, torch="3")
    now = held([msgspec.structs.replace(one, environment=newer) for one in runs()])
    assert "(apo-bench 1, torch 2; now torch 3)" in check_text(check(before, now), before, now, "b.json")


def test_a_hostile_name_stays_in_its_cell_of_the_page() -> None:
    before = held([run("kfac", task="a|b<script>")])
    page = check_markdown(check(before, held([])), before, held([]), "b.json")
    assert "a\\|b&lt;script&gt;" in page
