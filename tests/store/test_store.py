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
from apo_bench.files import write_durably
from apo_bench.planning.plan import Plan, PlannedRun
from apo_bench.records.digest import seal
from apo_bench.records.events import CurvePoint, Evaluated, Progress
from apo_bench.records.facts import Scores
from apo_bench.records.outcome import (
    Crashed,
    Diverged,
    Exhausted,
    Interrupted,
    NonFinite,
    Outcome,
    OutOfMemory,
    Reached,
    Reason,
    Undefined,
)
from apo_bench.records.run import (
    SCHEMA,
    Fingerprint,
    Intent,
    Role,
    RunRecord,
    decode_intent,
    decode_record,
    encode,
    now,
)
from apo_bench.records.spec import Budget, Device, OptimizerSpec, Precision, RunSpec, Scale
from apo_bench.records.suite import Suite
from apo_bench.session.live import LiveLeaderboard
from apo_bench.store.scan import Unreadable, read_events
from apo_bench.store.store import Store

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
        "intent": Intent(
            spec=run,
            suite="s",
            scale=Scale.SMOKE,
            fingerprint=Fingerprint(harness="h", task="t", optimizer="o", torch="2", data="d"),
        ),
        "started_at": now(),
        "finished_at": now(),
        "outcome": outcome or Exhausted(),
        "scores": Scores(test=1.0),
    }
    return RunRecord(**(defaults | fields))  # type: ignore[arg-type] # fields by name


def put(store: Store, made: RunRecord) -> Path:
    workspace = store.begin(made.intent)
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
        Diverged(step=7, reason=Reason.TRAINING_LOSS),
        Diverged(
            step=7, reason=Reason.TRAINING_LOSS, first=NonFinite(step=6, tensor="gradient w (meta)", dtype="float16")
        ),
        Undefined(step=7, metric="m", value="nan", loss=0.5),
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
    raw = json.loads(msgspec.json.encode(record()))
    raw["surprise"] = 1
    with pytest.raises(ValueError, match="surprise"):
        decode_record(seal(json.dumps(raw).encode()))


def test_a_record_of_a_later_schema_is_named_and_never_moved(store: Store) -> None:
    folder = put(store, record())
    raw = json.loads((folder / "record.json").read_bytes())
    (folder / "record.json").write_text(json.dumps(raw | {"schema": SCHEMA + 1, "new": 1}), encoding="utf-8")
    scan = store.scan()
    (found,) = scan.unreadable
    assert found == Unreadable(folder, f"schema {SCHEMA + 1}, this version reads 1, 2, 3, 4, 5", is_newer=True)
    assert scan.damaged == ()
    store.set_aside(scan.damaged)
    assert folder.is_dir()


def test_a_record_of_a_schema_that_never_was_is_damaged(store: Store) -> None:
    folder = put(store, record())
    raw = json.loads((folder / "record.json").read_bytes())
    (folder / "record.json").write_text(json.dumps(raw | {"schema": 0}), encoding="utf-8")
    assert [found.path for found in store.scan().damaged] == [folder]


@pytest.mark.parametrize("schema", [1, 2])
@pytest.mark.parametrize(("seed", "role"), [(0, Role.REPORTED), (100, Role.TUNING)])
def test_a_record_of_an_earlier_schema_becomes_what_it_would_be_today(schema: int, seed: int, role: Role) -> None:
    made = record(msgspec.structs.replace(RUN, seed=seed)).under(role=role)
    raw = json.loads(msgspec.json.encode(made))
    intent = raw.pop("intent")
    del intent["role"]
    assert decode_record(json.dumps(raw | intent | {"schema": schema}).encode()) == made
    assert decode_intent(json.dumps(intent).encode()) == made.intent
    with pytest.raises(ValueError, match="fingerprint is missing"):
        decode_record(json.dumps(raw | {"schema": schema, "spec": {}, "suite": "s", "scale": "local"}).encode())


def _contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def test_reading_changes_nothing(store: Store) -> None:
    harmed = put(store, record())
    _truncate(harmed)
    put(store, record(msgspec.structs.replace(RUN, seed=1)))
    store.begin(record(msgspec.structs.replace(RUN, seed=2)).intent)._events.close()
    before = _contents(store.path)
    assert len(store.scan().damaged) == 1
    assert [run.running for run in list(store.in_flight().runs)] == [False]
    assert _contents(store.path) == before


def test_a_copy_through_git_has_no_empty_folders_and_is_read(store: Store) -> None:
    made = record()
    put(store, made)
    for name in ("active", "locks", "damaged", "probes", "leaderboards"):
        (store.path / name).rmdir()
    copy = Store(store.path)
    assert copy.scan().records == (made,)
    assert list(copy.in_flight().runs) == []


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
    harm(folder)  # type: ignore[operator] # parametrized with functions
    scan = store.scan()
    assert scan.records == (good,)
    assert [damaged.path for damaged in scan.damaged] == [folder]
    ((_, moved),) = store.set_aside(scan.damaged)
    assert moved == store.path / "damaged" / folder.name
    assert moved.exists()
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
    workspace = store.begin(record().intent)
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
from apo_bench.records.run import decode_intent
from apo_bench.store.store import Store

intent = decode_intent(sys.argv[2].encode())
with Store(Path(sys.argv[1])).claim(intent.spec.run_id) as mine:
    Store(Path(sys.argv[1])).begin(intent)
    print(mine, flush=True)
    signal.pause()
"""


def test_a_claim_is_exclusive_and_dies_with_its_process(store: Store) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", _CLAIM_AND_WAIT, str(store.path), encode(record().intent).decode()],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "True\n"
    with store.claim(RUN.run_id) as got:
        assert not got
    assert store.remove_orphans() == 0
    assert [active.running for active in list(store.in_flight().runs)] == [True]
    other.kill()
    other.communicate()
    with store.claim(RUN.run_id) as got:
        assert got
    assert [active.running for active in list(store.in_flight().runs)] == [False]
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

    workspace = store.begin(record().intent)
    events, workspace._events = workspace._events, Full()  # type: ignore[assignment] # a stand-in that fails
    workspace.append(Progress(step=1, train_loss=None))
    workspace._events = events
    workspace.finish(record())
    assert len(store.scan().records) == 1


def test_a_run_may_count_in_several_suites(store: Store) -> None:
    made = record()
    put(store, made)
    assert store.scan().of("other", made.scale) == []
    store.share("other", made.scale, {made.run_id: Role.REPORTED})
    store.share("other", made.scale, {made.run_id: Role.REPORTED})
    scan = store.scan()
    assert scan.of("other", made.scale) == [made.under(suite="other")]
    assert scan.of(made.suite, made.scale) == [made]
    assert scan.scales("other") == scan.scales(made.suite) == [made.scale]


def test_a_newer_run_for_another_suite_leaves_the_first_its_own(store: Store) -> None:
    made = record()
    put(store, made)
    put(store, made.under(suite="other"))
    assert store.scan().newest()[made.run_id].suite == "other"
    own = store.scan().of(made.suite, made.scale)
    assert [(one.run_id, one.suite) for one in own] == [(made.run_id, made.suite)] * 2  # which one counts is `cells`'s


def test_a_run_that_another_command_finished_for_its_own_suite_counts_in_this_one(store: Store) -> None:
    made = record()
    chosen = Suite(name="other", scale=made.scale, title="t", tasks=(), optimizers=(), precisions=())
    planned = PlannedRun(made.spec, made.fingerprint, reused=None, changed=(), expected_seconds=None)
    plan = Plan(suite=chosen, runs=(planned,), unavailable=(), by_entry=(), asked=chosen, tasks={})
    live = LiveLeaderboard(store, plan)
    put(store, made)
    live.finished(made.spec, made.outcome)
    assert [one.run_id for one in store.scan().of("other", made.scale)] == [made.run_id]
    assert live.lost == {}


def test_a_result_of_other_code_is_no_result_of_a_run_that_failed(store: Store) -> None:
    old = record()
    put(store, old)
    fingerprint = msgspec.structs.replace(old.fingerprint, optimizer="edited")
    chosen = Suite(name=old.suite, scale=old.scale, title="t", tasks=(), optimizers=(), precisions=())
    planned = PlannedRun(old.spec, fingerprint, reused=None, changed=("optimizer",), expected_seconds=None)
    live = LiveLeaderboard(
        store, Plan(suite=chosen, runs=(planned,), unavailable=(), by_entry=(), asked=chosen, tasks={})
    )
    live.finished(old.spec, Crashed(message="its process died"))
    assert live.lost == {old.run_id: (old.spec.title, "its process died")}
    assert live.publish().sections[0].rows[0].results == 0
