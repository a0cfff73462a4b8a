"""`apo-bench run --plan`: what would be run and what it costs."""

import json

import pytest
from support.commands import TINY, records_in, store_of
from support.shell import Shell

from apo_bench.cli.plan import _listed


def test_a_plan_runs_nothing_and_makes_no_store(tiny_shell: Shell) -> None:
    done = tiny_shell(*TINY, "--plan")
    assert "8 of 8 runs to be made" in done.stdout
    assert not store_of(tiny_shell).exists()


def test_a_plan_as_json(tiny_shell: Shell) -> None:
    tiny_shell(*TINY, "--optimizers", "sgd", "--precisions", "fp32")
    plan = json.loads(tiny_shell(*TINY, "--optimizers", "sgd,adam", "--precisions", "fp32", "--plan", "--json").stdout)
    assert [(run["optimizer"], run["done"]) for run in plan["runs"]] == [("sgd", True), ("adam", False)]


def test_hours_of_work_need_consent(tiny_shell: Shell) -> None:
    done = tiny_shell("run", "--suite", "classification", "--scale", "local", "--epochs", "5000", status=2)
    assert "give --yes to start it" in done.stderr
    assert not records_in(tiny_shell)


PLAN = ("run", "--suite", "classification", "--tasks", "moon,tiny", "--epochs", "2", "--optimizers", "sgd,adam")


@pytest.mark.slow
def test_a_plan_prints_the_cost_of_every_cell(moon_shell: Shell) -> None:
    done = moon_shell(*PLAN, "--precisions", "fp32", "--plan", "--gpu-tflops", "5")
    assert "the moon is not in the sky; wait" in done.stderr
    plan, costs = done.stdout.split("2 of 2 runs to be made")
    (missing,) = (line for line in plan.splitlines() if "data missing" in line)
    assert "  moon, " in missing
    flops = 2 * (2 * 32 * 8 * 2)
    lines = costs.splitlines()
    (moon,) = (place for place, line in enumerate(lines) if line.endswith("  moon, data missing"))
    (tiny,) = (place for place, line in enumerate(lines) if line.endswith("  tiny"))
    assert lines[moon].split()[:4] == ["2", "32", f"{flops / 1000:.3g}", "k"]
    assert lines[tiny].split()[:5] == ["2", "?", "?", "?", "?"]  # the tiny task states neither size nor shape
    for place in (moon, tiny):
        assert [line.strip() for line in lines[place + 1 : place + 3]] == ["sgd adam", "fp32"]
    assert "5 TFLOP/s" in costs

    printed = json.loads(moon_shell(*PLAN, "--precisions", "fp32", "--plan", "--json").stdout)
    assert [run["flops_per_step"] for run in printed["runs"]] == [None, None]
    assert printed["cells"][0]["total_flops"] == 32 * flops
    assert printed["cells"][0]["data_missing"]
    assert printed["assumed_gpu_tflops"] == 20.0


@pytest.mark.slow
def test_costs_are_shown_at_paper_scale_without_asking_and_elsewhere_on_request(moon_shell: Shell) -> None:
    paper = moon_shell(*PLAN, "--scale", "paper", "--precisions", "fp32", status=2)  # then it asks for consent
    assert "GPU hours" in paper.stdout
    local = moon_shell(*PLAN, "--scale", "local", "--precisions", "fp32", status=1)
    assert "GPU hours" not in local.stdout


@pytest.mark.parametrize(
    ("seeds", "shown"),
    [
        ((0, 1, 2), "0,1,2"),
        (tuple(range(10_000)), "0-9999"),
        ((*range(100), 200, *range(300, 302)), "0-99,200,300-301"),
        (tuple(range(0, 100, 2)), "0,2,4,6,8,10,12,14,16,18 and 40 more"),
    ],
)
def test_many_seeds_are_shown_as_ranges(seeds: tuple[int, ...], shown: str) -> None:
    assert _listed(seeds) == shown
