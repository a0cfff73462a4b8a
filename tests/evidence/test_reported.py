"""The paper's numbers: copied exactly, shown beside our own where they belong, and nowhere else."""

import re
import tomllib
from pathlib import Path

import msgspec
import pytest
from support.records import FACTS, record

from apo_bench.evidence.leaderboard import leaderboard
from apo_bench.evidence.reported import parse, reported, reported_value
from apo_bench.plugins.registry import optimizers, tasks
from apo_bench.records.outcome import Diverged, Reason
from apo_bench.records.run import RunRecord
from apo_bench.records.spec import Precision, Scale
from apo_bench.render.leaderboard import leaderboard_markdown, leaderboard_text

ROOT = Path(__file__).parents[2]


def _at(scale: Scale, *records: RunRecord) -> list[RunRecord]:
    return [made.under(scale=scale) for made in records]


def _page(scale: Scale, *records: RunRecord) -> str:
    return leaderboard_markdown(leaderboard("s", scale, _at(scale, *records)))


def test_every_number_is_where_the_paper_prints_it() -> None:
    entries = reported()
    assert len(entries) == 7 * 4 + 3 + 3 * 3
    assert reported_value("cifar10.lenet", "apo-p", Precision.FP32, "accuracy (%)") == 77.42
    assert reported_value("cifar10.resnet18", "kfac", Precision.PURE_FP16, "accuracy (%)") == 92.72
    assert reported_value("cifar10.resnet18", "kfac", Precision.PURE_BF16, "accuracy (%)") == 92.72
    assert reported_value("cifar10.resnet18", "kfac", Precision.FP16, "accuracy (%)") is None
    assert reported_value("iwslt14-de-en.transformer", "adam", Precision.FP32, "BLEU") == 34.60
    assert reported_value("iwslt14-de-en.transformer", "kfac", Precision.FP32, "BLEU") is None
    main = [entry.value for entry in entries if entry.precisions == (Precision.FP32,)]
    assert (len(main), round(sum(main), 2)) == (31, 2199.99)
    pure = [entry.value for entry in entries if entry.precisions != (Precision.FP32,)]
    assert (len(pure), round(sum(pure), 2)) == (9, 731.63)


def test_it_names_registered_tasks_and_optimizers_with_their_metrics() -> None:
    registered = tasks()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {*registered.names(), *project["entry-points"]["apo_bench.tasks"]}
    assert {entry.task for entry in reported()} <= declared
    assert {entry.optimizer for entry in reported()} <= set(optimizers().names())
    metrics = {entry.task: entry.metric for entry in reported() if entry.task in registered.names()}
    assert metrics == {task: registered[task].load()().metric.name for task in metrics}


ENTRY = """
[[tables]]
source = "s"
tag = "P"
metric = "m"
precisions = ["fp32"]
values = { t = { sgdm = 1.0 } }
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ENTRY.replace('"P"', '"R"'), "tagged 'R'; only numbers printed"),
        (ENTRY + 'note = "x"', "unknown field `note`"),
        (ENTRY.replace('metric = "m"\n', ""), "missing required field `metric`"),
        (ENTRY.replace("fp32", "fp31"), "fp31"),
        (ENTRY.replace("1.0", '"high"'), "Expected `float`"),
        (ENTRY * 2, "reported twice"),
    ],
)
def test_the_reader_is_strict_and_refuses_what_was_only_recalled(text: str, message: str) -> None:
    assert len(parse(ENTRY)) == 1
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_reported_numbers_stand_beside_our_own_at_paper_scale_alone() -> None:
    made = [record("sgdm", 0, 75.0, task="cifar10.lenet"), record("rmsprop", 0, 70.0, task="cifar10.lenet")]
    page = _page(Scale.PAPER, *made)
    table = page.partition("\n## Details")[0]
    rows = {line.split("|")[1].strip(): line.split("|")[-2].strip() for line in table.splitlines() if line[:1] == "|"}
    assert rows["optimizer"] == "reported [P]"
    assert (rows["sgdm"], rows["rmsprop"]) == ("75.73", "–")
    assert "no deviation and no count of seeds" in page
    assert "75.73" in leaderboard_text(leaderboard("s", Scale.PAPER, _at(Scale.PAPER, *made)))
    for scale in (Scale.LOCAL, Scale.SMOKE):
        assert "reported" not in _page(scale, *made)
        assert "75.73" not in _page(scale, *made)


def test_a_section_without_a_reported_number_has_no_such_column() -> None:
    other_task = record("sgdm", 0, 75.0)
    other_optimizer = record("rmsprop", 0, 75.0, task="cifar10.lenet")
    other_precision = record("sgdm", 0, 75.0, task="cifar10.lenet", precision=Precision.FP16)
    other_metric = record(
        "sgdm", 0, 75.0, task="cifar10.lenet", facts=msgspec.structs.replace(FACTS, metric="error (%)")
    )
    for made in (other_task, other_optimizer, other_precision, other_metric):
        assert "reported" not in _page(Scale.PAPER, made)


def test_no_one_of_several_settings_is_taken_for_the_papers() -> None:
    made = [record("sgdm", 0, 75.0, task="cifar10.lenet"), record("sgdm", 0, 76.0, task="cifar10.lenet", lr=0.2)]
    board = leaderboard("s", Scale.PAPER, _at(Scale.PAPER, *made, record("adam", 0, 70.0, task="cifar10.lenet")))
    shown = {row.competitor: row.reported for row in board.sections[0].rows}
    assert shown == {"sgdm (lr=0.1)": None, "sgdm (lr=0.2)": None, "adam": 73.41}


def test_a_diverged_cell_still_shows_what_the_paper_prints() -> None:
    made = record("kfac", 0, None, task="cifar10.lenet", outcome=Diverged(step=3, reason=Reason.TRAINING_LOSS))
    assert re.search(r"diverged 1 of 1 \|.*\| +76\.63 \|", _page(Scale.PAPER, made))
