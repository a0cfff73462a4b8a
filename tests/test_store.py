"""The store survives what machines do: crashes, damage, many writers."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from apo_bench.errors import StoreError
from apo_bench.executors.job import now
from apo_bench.files import write_durably
from apo_bench.plan import Plan, PlannedRun
from apo_bench.publish import Publisher
from apo_bench.record import (
    SCHEMA,
    Crashed,
    CurvePoint,
    Diverged,
    Evaluated,
    Exhausted,
    Fingerprint,
    Intent,
    Interrupted,
    NonFinite,
    Outcome,
    OutOfMemory,
    Progress,
    Reached,
    RunRecord,
    Scores,
    decode_record,
    encode,
)
from apo_bench.spec import Budget, Device, OptimizerSpec, Precision, RunSpec, Scale, Suite
from apo_bench.store import Store, read_events

RUN = RunSpec(
    task="a",
    optimizer=OptimizerSpec(name="o", hyperparameters={"lr": 0.1, "flag": True, "none": None, "text": "x|y"}),
    precision=Precision.FP32,
    seed=0,
    budget=Budget(epochs=1),
    device=Device.CPU,
)
POINT = CurvePoint(
    step=1,
    epoch=0.5,
    seconds=1.0,
    train_loss=0.3,
    validation_loss=0.4,
    validation=80.0,
    learning_rate_factor=1.0,
)


def record(run: RunSpec = RUN, outcome: Outcome | None = None, **fields: object) -> RunRecord:
    defaults: dict[str, object] = {
        "schema": SCHEMA,
        "spec": run,
        "suite": "s",
        "scale": Scale.SMOKE,
        "started_at": now(),
        "finished_at": now(),
        "outcome": outcome or Exhausted(),
        "fingerprint": Fingerprint(harness="h", task="t", optimizer="o", torch="2", data="d"),
        "scores": Scores(test=1.0),
    }
    return RunRecord(**(defaults | fields))  # type: ignore[arg-type]


def intent(made: RunRecord) -> Intent:
    return Intent(spec=made.spec, suite=made.suite, scale=made.scale, fingerprint=made.fingerprint)


def put(store: Store, made: RunRecord) -> Path:
    workspace = store.begin(intent(made))
    workspace.finish(made)
    return store.path / "runs" / workspace.folder.name


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", create=True)


@pytest.mark.parametrize(
    "outcome",
    [
        Exhausted(),
        Reached(step=3, target=85.0),
        Diverged(step=7, reason="loss"),
        Diverged(step=7, reason="loss", first=NonFinite(step=6, tensor="gradient w (meta)", dtype="float16")),
        OutOfMemory(message="m"),
        Crashed(message="m"),
        Interrupted(),
    ],
)
def test_a_record_is_read_back_as_it_was(store: Store, outcome: Outcome) -> None:
    made = record(outcome=outcome, curve=(POINT,))
    put(store, made)
    assert store.scan().records == (made,)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_never_reaches_a_file(number: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        encode(record(scores=Scores(test=number)))
    with pytest.raises(ValueError, match="not finite"):
        encode(Evaluated(point=msgspec.structs.replace(POINT, train_loss=number)))


def test_an_unknown_field_is_refused() -> None:
    raw = json.loads(encode(record()))
    raw["surprise"] = 1
    with pytest.raises(msgspec.ValidationError, match="surprise"):
        decode_record(json.dumps(raw).encode())


def test_a_record_of_a_later_schema_is_named_and_set_aside(store: Store) -> None:
    folder = put(store, record())
    raw = json.loads((folder / "record.json").read_bytes())
    (folder / "record.json").write_text(json.dumps(raw | {"schema": SCHEMA + 1}), encoding="utf-8")
    (damaged,) = store.scan().damaged
    assert "schema" in damaged.reason


def _truncate(folder: Path) -> None:
    file = folder / "record.json"
    file.write_bytes(file.read_bytes()[:100])


def _swap(folder: Path) -> None:
    other = record(msgspec.structs.replace(RUN, seed=9))
    (folder / "record.json").write_bytes(encode(other))


@pytest.mark.parametrize(
    "harm",
    [
        _truncate,
        _swap,
        lambda folder: (folder / "record.json").unlink(),
        lambda folder: (folder / "record.json").write_bytes(b"\xff\xfe"),
        lambda folder: (folder / "record.json").write_bytes(b""),
    ],
)
def test_a_damaged_record_is_set_aside_and_the_others_are_read(store: Store, harm: object) -> None:
    folder = put(store, record())
    good = record(msgspec.structs.replace(RUN, seed=1))
    put(store, good)
    harm(folder)  # type: ignore[operator]
    scan = store.scan()
    assert scan.records == (good,)
    assert [damaged.path for damaged in scan.damaged] == [store.path / "damaged" / folder.name]
    assert store.scan().damaged == ()


def test_a_correction_stands_beside_the_old_record_and_wins(store: Store) -> None:
    old, new = record(scores=Scores(test=1.0)), record(scores=Scores(test=2.0))
    put(store, old)
    put(store, new)
    assert store.scan().records == (old, new)
    assert store.scan().newest() == {RUN.run_id: new}


def test_a_later_failure_does_not_hide_a_result(store: Store) -> None:
    result = record()
    put(store, result)
    put(store, record(outcome=Crashed(message="later")))
    assert store.scan().newest() == {RUN.run_id: result}


def test_events_are_readable_while_they_are_written(store: Store) -> None:
    workspace = store.begin(intent(record()))
    workspace.append(Progress(step=1, train_loss=None))
    events, offset = read_events(workspace.folder)
    assert events == [Progress(step=1, train_loss=None)]
    with (workspace.folder / "events.jsonl").open("ab") as file:
        file.write(b'{"type":"progress","st')
    assert read_events(workspace.folder, offset) == ([], offset)
    with (workspace.folder / "events.jsonl").open("ab") as file:
        file.write(b'ep":2,"train_loss":0.5}\nrubbish\n')
    workspace.append(Evaluated(point=POINT))
    assert read_events(workspace.folder, offset)[0] == [Progress(step=2, train_loss=0.5), Evaluated(point=POINT)]
    workspace.discard()
    assert not workspace.folder.exists()


_CLAIM_AND_WAIT = """
import signal, sys
from pathlib import Path
from apo_bench.record import decode_intent
from apo_bench.store import Store

intent = decode_intent(sys.argv[2].encode())
with Store(Path(sys.argv[1])).claim(intent.spec.run_id) as mine:
    Store(Path(sys.argv[1])).begin(intent)
    print(mine, flush=True)
    signal.pause()
"""


def test_a_claim_is_exclusive_and_dies_with_its_process(store: Store) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", _CLAIM_AND_WAIT, str(store.path), encode(intent(record())).decode()],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "True\n"
    with store.claim(RUN.run_id) as got:
        assert not got
    assert store.remove_orphans() == 0
    assert [active.running for active in store.active()] == [True]
    other.kill()
    other.communicate()
    with store.claim(RUN.run_id) as got:
        assert got
    assert [active.running for active in store.active()] == [False]
    assert store.remove_orphans() == 1
    assert list((store.path / "active").iterdir()) == []


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file"
    write_durably(target, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_durably(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_an_unusable_store_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(StoreError, match=r"cannot write to .*; name another folder with --store"):
        Store(tmp_path / "file" / "store", create=True)
    with pytest.raises(StoreError, match="no results at"):
        Store(tmp_path / "nowhere")


def test_an_event_that_finds_a_full_disk_is_lost_and_nothing_else(store: Store) -> None:
    class Full:
        def write(self, data: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    workspace = store.begin(intent(record()))
    events, workspace._events = workspace._events, Full()  # type: ignore[assignment]
    workspace.append(Progress(step=1, train_loss=None))
    workspace._events = events
    workspace.finish(record())
    assert len(store.scan().records) == 1


def test_a_run_may_count_in_several_suites(store: Store) -> None:
    made = record()
    put(store, made)
    assert store.scan().of("other", made.scale) == []
    store.share("other", made.scale, [made.run_id])
    store.share("other", made.scale, [made.run_id])
    scan = store.scan()
    assert scan.of("other", made.scale) == [msgspec.structs.replace(made, suite="other")]
    assert scan.of(made.suite, made.scale) == [made]
    assert scan.scales("other") == scan.scales(made.suite) == [made.scale]


def test_a_newer_run_for_another_suite_leaves_the_first_its_own(store: Store) -> None:
    made = record()
    put(store, made)
    put(store, msgspec.structs.replace(made, suite="other", finished_at="9999"))
    assert [one.run_id for one in store.scan().of(made.suite, made.scale)] == [made.run_id]


def test_a_run_that_another_command_finished_for_its_own_suite_counts_in_this_one(store: Store) -> None:
    made = record()
    chosen = Suite(name="other", scale=made.scale, title="t", tasks=(), optimizers=(), precisions=())
    planned = PlannedRun(made.spec, made.fingerprint, reused=None, changed=(), expected_seconds=None)
    plan = Plan(suite=chosen, runs=(planned,), unavailable=(), by_entry=(), asked=chosen, tasks={})
    publisher = Publisher(store, plan)
    put(store, made)
    publisher.finished(made.spec, made.outcome)
    assert [one.run_id for one in store.scan().of("other", made.scale)] == [made.run_id]
    assert publisher.lost == {}


def test_a_result_of_other_code_is_no_result_of_a_run_that_failed(store: Store) -> None:
    old = record()
    put(store, old)
    fingerprint = msgspec.structs.replace(old.fingerprint, optimizer="edited")
    chosen = Suite(name=old.suite, scale=old.scale, title="t", tasks=(), optimizers=(), precisions=())
    planned = PlannedRun(old.spec, fingerprint, reused=None, changed=("optimizer",), expected_seconds=None)
    publisher = Publisher(
        store, Plan(suite=chosen, runs=(planned,), unavailable=(), by_entry=(), asked=chosen, tasks={})
    )
    publisher.finished(old.spec, Crashed(message="its process died"))
    assert publisher.lost == {old.run_id: (old.spec.title, "its process died")}
    assert publisher.publish().sections[0].rows[0].results == 0
