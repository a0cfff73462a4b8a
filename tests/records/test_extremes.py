"""Records at the ends of what their schema allows: every reader survives them."""

from pathlib import Path

import msgspec
import pytest
from support.extremes import (
    LARGEST,
    LEAST_COSTS,
    LINE,
    MOST,
    MOST_COSTS,
    NAME,
    SMALLEST,
    asked,
    costing,
    point,
    set_to,
    valued,
)
from support.records import FACTS, flat
from support.snapshots import held

from apo_bench.cli.main import main
from apo_bench.records.facts import Scores
from apo_bench.records.outcome import Diverged, Reached, Reason, Undefined
from apo_bench.records.probe import ProbeRecord
from apo_bench.records.run import Role, RunRecord, encode
from apo_bench.records.schedules import Cosine, Step
from apo_bench.records.spec import Budget, Scale
from apo_bench.render.figures import drawings
from apo_bench.session.wandb_fields import as_config, as_metrics
from apo_bench.store.store import Store

STORES: dict[str, list[RunRecord]] = {
    "largest": [valued(sign * LARGEST, seed) for seed, sign in enumerate((1, 1, 1))]
    + [valued(sign * LARGEST, seed, "adam") for seed, sign in enumerate((-1, 1, -1))],
    "apart": [valued(value, seed) for seed, value in enumerate((LARGEST, SMALLEST, -LARGEST, 0.0, -SMALLEST))]
    + [valued(1.0, seed, "adam") for seed in range(5)],
    "smallest": [valued(SMALLEST, seed) for seed in range(3)],
    "largest costs": [costing(valued(1.0, seed), **MOST_COSTS) for seed in range(3)],
    "least costs": [costing(valued(1.0, seed), **LEAST_COSTS) for seed in range(3)],
    "no steps": [
        msgspec.structs.replace(costing(valued(1.0, seed), steps=0, train_seconds=0.0), curve=()) for seed in range(2)
    ],
    "other types": [
        set_to(valued(1.0, place), lr=value)
        for place, value in enumerate((0.1, "0.1", True, None, 2**63 - 1, -1, 1e308))
    ],
    "other types, same seed": [set_to(valued(1.0), lr=value) for value in (0.1, "0.1", True, None, 1, 1.0, LARGEST)],
    "other names": [
        set_to(valued(1.0), lr=0.1),
        set_to(valued(1.0), lr=0.2, momentum=0.9),
        set_to(valued(1.0)),
        set_to(valued(1.0), rate="x"),
    ],
    "tuning of other types": [set_to(valued(1.0, 100), Role.TUNING, lr=value) for value in (0.1, "0.1", None, True, 3)],
    "tuning of other names": [
        set_to(valued(1.0, 100), Role.TUNING, **own)
        for own in ({"lr": 0.1}, {"lr": 0.2}, {"lr": 0.1, "momentum": 0.9}, {"lr": 0.3, "momentum": 0.9}, {})
    ],
    "tuning, largest": [set_to(valued(LARGEST, 100), Role.TUNING, lr=rate) for rate in (0.1, 0.2, LARGEST)],
    "budgets": [asked(valued(1.0), budget=Budget(epochs=epochs)) for epochs in (1e9, SMALLEST, 1e-9, 1.0)],
    "schedules": [
        asked(valued(1.0), optimizer=msgspec.structs.replace(valued(1.0).spec.optimizer, schedule=schedule))
        for schedule in (Step(milestones=(LARGEST, -1.0), decay=LARGEST), Cosine(warmup=0.999, final=-LARGEST))
    ],
    "seeds": [asked(valued(1.0), seed=seed) for seed in (0, 2**63 - 1)],
    "task": [
        msgspec.structs.replace(
            valued(1.0, seed),
            task=msgspec.structs.replace(
                FACTS, steps_per_epoch=steps, parameters=MOST, batch_size=MOST, target=LARGEST, trivial=-LARGEST
            ),
        )
        for seed, steps in enumerate((1, MOST))
    ],
    "outcomes": [
        valued(1.0, 0, outcome=Reached(step=50, target=LARGEST)),
        valued(1.0, 1, outcome=Reached(step=10, target=-LARGEST)),
        valued(1.0, 2, outcome=Diverged(step=51, reason=Reason.PARAMETER)),
        valued(1.0, 3, outcome=Diverged(step=0, reason=Reason.TEST)),
        valued(1.0, 4, outcome=Undefined(step=MOST, metric=NAME, value=NAME, loss=LARGEST)),
    ],
    "a target reached nowhere": [
        msgspec.structs.replace(valued(1.0, seed, outcome=Reached(step=7, target=1.0)), cost=None) for seed in range(3)
    ],
    "nothing known": [
        msgspec.structs.replace(
            valued(1.0, seed), cost=None, task=None, environment=None, precision=None, curve=(), scores=Scores()
        )
        for seed in range(2)
    ],
    "words": [
        costing(valued(1.0, 0), not_counted=LINE, throttle_reasons=(NAME,) * 9, phases={NAME: 1.0}),
        msgspec.structs.replace(
            valued(1.0, 1), task=msgspec.structs.replace(FACTS, metric=NAME, model=NAME, metric_signature=LINE)
        ),
        set_to(valued(1.0, 2), Role.REPORTED, **{NAME: LINE}),
        asked(valued(1.0, 3), task="t" * 80),
    ],
    "times": [
        valued(1.0, 0, finished_at="0001-01-01T00:00:00+14:00"),
        valued(1.0, 1, finished_at="9999-12-31T23:59:59.999999-14:00", follows="9999-12-31T23:59:59.999999-23:59"),
        valued(
            1.0, 2, started_at="9999-12-31T00Z", finished_at="0001-01-01T00:00:00Z", follows="0001-01-01T00:00+23:59"
        ),
    ],
    "learning rates": [
        msgspec.structs.replace(valued(1.0, 0), curve=(point(1, learning_rate_factor=factor), point(2)))
        for factor in (LARGEST, -LARGEST, 0.0)
    ],
}
PROBES = [
    flat(1e12),
    flat(1e-9),
    msgspec.structs.replace(
        flat(), foreign_cores=(1e30, None, 0.0), foreign_processes=(MOST,), throttle_reasons=(NAME,)
    ),
    msgspec.structs.replace(flat(), competitors=()),
    msgspec.structs.replace(flat(), competitors=flat().competitors[1:]),
]


def kept(folder: Path, records: list[RunRecord], probes: list[ProbeRecord] = PROBES) -> Store:
    """A store of records as a stranger may have made it: under good digests, whatever is in them."""
    store = Store(folder, create=True)
    for place, made in enumerate(records):
        run = folder / "runs" / f"{made.run_id}-{place}"
        run.mkdir()
        (run / "record.json").write_bytes(encode(made.under(suite="regression")))
    for place, probe in enumerate(probes):
        (folder / "probes" / f"{probe.probe_id}-{place}.json").write_bytes(encode(probe))
    return store


@pytest.mark.parametrize("name", STORES)
def test_every_reader_survives_what_the_schema_allows(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = kept(tmp_path / "store", STORES[name])
    scan = store.scan()
    assert scan.unreadable == ()
    assert len(scan.records) == len(STORES[name])
    assert len(scan.probes) == len(PROBES)
    for command in (
        ["status"],
        ["status", "--json"],
        ["report", "--suite", "regression"],
        ["report", "--suite", "regression", "--output", str(tmp_path / "page.md")],
        *(["export", "--output", str(tmp_path / f"runs.{form}")] for form in ("csv", "jsonl", "parquet")),
        ["export", "--suite", "regression"],
    ):
        assert main([*command, "--store", str(store.path)]) == 0, command
    assert "Traceback" not in capsys.readouterr().err
    own = scan.of("regression", Scale.LOCAL)
    for made in own:
        as_metrics(msgspec.to_builtins(made.cost) if made.cost else {})
        as_config(msgspec.to_builtins(made.spec))
    snapshot = held([made.under(suite="s") for made in own], *scan.probes)
    assert snapshot.cells or name in {"tuning of other types", "tuning of other names", "tuning, largest"}


@pytest.mark.slow
@pytest.mark.parametrize("name", STORES)
def test_every_figure_survives_what_the_schema_allows(name: str) -> None:
    list(drawings("s", Scale.LOCAL, [made.under(suite="s") for made in STORES[name]]))
