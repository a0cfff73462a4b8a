"""A finished run is reused only while its code and data are those that are here, by `run` and by `check` alike."""

from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from apo_bench.errors import DataError
from apo_bench.evidence.cells import Made, cells
from apo_bench.planning.reuse import Reuse, Sources
from apo_bench.plugins.registry import optimizers, tasks
from apo_bench.records.outcome import Crashed, Exhausted, Outcome
from apo_bench.records.run import SCHEMA, Fingerprint, Intent, RunRecord, now
from apo_bench.records.spec import Budget, Device, OptimizerSpec, Precision, RunSpec, Scale
from apo_bench.store.scan import Scan

RUN = RunSpec(
    task="concrete.mlp",
    optimizer=OptimizerSpec(name="sgdm", hyperparameters={}),
    precision=Precision.FP32,
    seed=0,
    budget=Budget(epochs=1),
    device=Device.CPU,
)


@pytest.fixture
def sources() -> Sources:
    return Sources(tasks(), optimizers())


def made(fingerprint: Fingerprint | None, outcome: Outcome | None = None, run: RunSpec = RUN) -> RunRecord:
    assert fingerprint is not None
    return RunRecord(
        schema=SCHEMA,
        intent=Intent(spec=run, suite="s", scale=Scale.LOCAL, fingerprint=fingerprint),
        started_at=now(),
        finished_at=now(),
        outcome=outcome or Exhausted(),
    )


def scan(*records: RunRecord) -> Scan:
    return Scan({Path(str(place)): record for place, record in enumerate(records)})


def test_a_result_of_the_same_code_and_data_is_reused(sources: Sources) -> None:
    present = sources.fingerprint(RUN)
    record = made(present)
    assert Reuse.of(RUN, sources, scan(record)) == Reuse(record.fingerprint, record, ())


def test_a_result_of_other_code_is_not_and_what_changed_is_said(sources: Sources) -> None:
    present = sources.fingerprint(RUN)
    assert present is not None
    old = made(msgspec.structs.replace(present, optimizer="edited", data="edited"))
    reuse = Reuse.of(RUN, sources, scan(old))
    assert reuse.record is None
    assert reuse.changed == ("optimizer", "data")


def test_a_failure_is_no_result(sources: Sources) -> None:
    failure = made(sources.fingerprint(RUN), Crashed(message="m"))
    reuse = Reuse.of(RUN, sources, scan(failure))
    assert reuse.record is None
    assert reuse.changed == ()


def test_what_is_not_installed_or_has_no_data_has_no_fingerprint(sources: Sources) -> None:
    optimizer = OptimizerSpec(name="unknown", hyperparameters={})
    assert sources.fingerprint(msgspec.structs.replace(RUN, task="unknown")) is None
    assert sources.fingerprint(msgspec.structs.replace(RUN, optimizer=optimizer)) is None

    def digest() -> str:
        raise DataError("no data here; put them there")

    sources._loaded["meats.mlp"] = SimpleNamespace(dataset=SimpleNamespace(digest=digest))  # type: ignore[assignment] # a stand-in with what is read of it
    missing = msgspec.structs.replace(RUN, task="meats.mlp")
    assert sources.fingerprint(missing) is None
    assert sources.missing == {"meats.mlp": "no data here; put them there"}
    with pytest.raises(ValueError, match="cannot be run here"):
        Reuse.of(missing, sources, scan())


def test_a_check_sees_the_results_that_a_run_would_reuse(sources: Sources) -> None:
    present = sources.fingerprint(RUN)
    assert present is not None
    good = made(present)
    other = msgspec.structs.replace(RUN, seed=1)
    old = made(msgspec.structs.replace(present, harness="edited"), run=other)
    (runs,) = cells(
        [good, old, made(present, Crashed(message="m"), other)], "s", Scale.LOCAL, code=sources.fingerprint
    ).cells
    assert runs.results == (good,)
    assert (runs.made, runs.left_out, len(runs.failures)) == (Made.INSTALLED, 0, 1)
    (runs,) = cells([good, old], "s", Scale.LOCAL, code=sources.fingerprint).cells
    assert (runs.results, runs.left_out) == ((good,), 1)
