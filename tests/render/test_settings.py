"""Settings of a row, and that its command plans exactly its runs."""

import argparse
import shlex

import msgspec
import pytest
from support.records import FACTS, record

from apo_bench.cli import run
from apo_bench.cli.selection import Selection, parse_scale
from apo_bench.evidence.leaderboard import leaderboard
from apo_bench.planning.grid import unroll
from apo_bench.plugins.registry import optimizers
from apo_bench.records.events import CurvePoint
from apo_bench.records.run import Role, RunRecord
from apo_bench.records.spec import Device, RunSpec, Scale
from apo_bench.render.settings import settings_markdown
from apo_bench.suites import suite


def _planned(words: list[str]) -> list[RunSpec]:
    parser = argparse.ArgumentParser()
    run.configure(parser)
    options = parser.parse_args(words)
    chosen = Selection.of(options).at(parse_scale(options.scale))
    loaded = {name: optimizers()[name].load() for name in {one.optimizer for one in chosen.all_competitors()}}
    return [one for one in unroll(chosen, loaded, Device(options.device)).runs if isinstance(one, RunSpec)]


@pytest.mark.parametrize("name", ["classification", "ablations", "low-precision"])
def test_the_command_of_a_row_plans_the_runs_of_the_row_and_no_others(name: str) -> None:
    """Also where a task has several settings of one optimizer, as ablations have."""
    declared = suite(name, Scale.SMOKE)
    loaded = {one.optimizer: optimizers()[one.optimizer].load() for one in declared.all_competitors()}
    specs = [one for one in unroll(declared, loaded, Device.CPU).runs if isinstance(one, RunSpec)]
    records = [
        record(spec.optimizer.name, spec.seed, 80.0).under(spec=spec, suite=name, scale=Scale.SMOKE, role=Role.REPORTED)
        for spec in specs
    ]
    board = leaderboard(name, Scale.SMOKE, records)
    found = []
    for section in board.sections:
        for line in settings_markdown(board, section):
            command = line.partition(". Again: ")[2].replace("\\", "")
            words = shlex.split(command)
            assert words[:2] == ["apo-bench", "run"]
            planned = _planned(words[2:])
            assert len(planned) == 1, command
            found += planned
    assert sorted(one.run_id for one in found) == sorted(one.run_id for one in specs)


def _tried(rate: float, validation: float) -> RunRecord:
    made = record("adam", 100, None, lr=rate)
    steps = int(made.spec.budget.epochs) * FACTS.steps_per_epoch
    point = CurvePoint(
        step=steps, epoch=5, seconds=1, train_loss=1, validation_loss=1, validation=validation, learning_rate_factor=1
    )
    return msgspec.structs.replace(made, curve=(point,))


def test_a_setting_says_whether_it_was_tuned_and_among_how_many() -> None:
    tried = [_tried(rate, 10 * rate) for rate in (0.1, 0.2, 0.3)]
    board = leaderboard("s", Scale.LOCAL, [*tried, record("adam", 0, 80.0, lr=0.3), record("sgdm", 0, 80.0)])
    adam, sgdm = settings_markdown(board, board.sections[0])
    assert adam.startswith("- adam, fp32: lr = 0.3; schedule constant (lr the best of 3 tried by validation). Again: ")
    assert "(as declared). Again: " in sgdm
