"""Where W&B's numbers come from: of a finished run from its record, which bears a digest; events only while it runs."""

from pathlib import Path

import msgspec
import pytest
from support.fake_wandb import Wandb, pretend
from support.records import record

from apo_bench.records.events import CurvePoint, Evaluated, Event, Progress, Started
from apo_bench.records.outcome import Crashed
from apo_bench.records.run import RunRecord, encode, failed
from apo_bench.session.wandb import Destination, Pusher
from apo_bench.store.scan import EVENTS
from apo_bench.store.store import Store

CURVE = tuple(CurvePoint(step, step / 10, step * 1.5, 1.0, 0.75, 50.0 + step, 1.0) for step in (10, 20, 50))
SAID: list[Event] = [
    Started(steps=50),
    *(Evaluated(point=point) for point in CURVE[:2]),
    Progress(step=30, train_loss=0.5),
]


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Wandb:
    return pretend(monkeypatch)


class Pushed:
    """A store with one run, that is followed."""

    def __init__(self, folder: Path, wandb: Wandb) -> None:
        self.store = Store(folder / "store", create=True)
        self.said: list[str] = []
        self.wandb = wandb
        self.pusher = Pusher(self.store, Destination("p", "offline"), warn=self.said.append)
        self.made = msgspec.structs.replace(record("sgdm", 0, 80.0), curve=CURVE)

    def run(self, made: RunRecord, *, follow: bool, old: bytes = b"", new: bytes = b"") -> None:
        """Write a run and push it; of its events some bytes are others, while it runs or afterwards."""
        with self.store.claim(made.run_id):
            workspace = self.store.begin(made.intent)
            for event in SAID:
                workspace.append(event)
            self.flip(workspace.folder, old, new)
            if follow:
                self.pusher.push()
            workspace.finish(made)
        assert self.pusher.push() == 1

    def flip(self, folder: Path, old: bytes, new: bytes) -> None:
        before = (folder / EVENTS).read_bytes()
        assert before.count(old) == (1 if old else len(before) + 1)
        (folder / EVENTS).write_bytes(before.replace(old, new) if old else before)

    @property
    def name(self) -> str:
        (folder,) = (self.store.path / "runs").iterdir()
        return folder.name

    @property
    def logged(self) -> dict[int | None, float]:
        return {step: values["validation"] for step, values in self.wandb.logged[self.name].items()}


@pytest.fixture
def pushed(tmp_path: Path, wandb: Wandb) -> Pushed:
    return Pushed(tmp_path, wandb)


IN_THE_RECORD = {10: 60.0, 20: 70.0, 50: 100.0}
POINT_20 = encode(CURVE[1])
OTHER_20 = encode(msgspec.structs.replace(CURVE[1], validation=79.0))


@pytest.mark.parametrize(
    ("old", "new"), [(b"", b""), (POINT_20, OTHER_20), (b'"steps":50', b'"steps":58'), (encode(SAID[1]), b"")]
)
def test_a_finished_run_s_numbers_are_its_record_s(pushed: Pushed, old: bytes, new: bytes) -> None:
    pushed.run(pushed.made, follow=False, old=old, new=new)
    assert pushed.logged == IN_THE_RECORD
    config = pushed.wandb.config[pushed.name]
    assert (config["steps"], config["curve_from"]) == (50, "record")
    assert pushed.said == []


def test_a_run_that_was_followed_is_completed_from_its_record(pushed: Pushed) -> None:
    pushed.run(pushed.made, follow=True)
    assert pushed.logged == IN_THE_RECORD
    assert pushed.wandb.config[pushed.name]["curve_from"] == "record, and events while it ran"
    assert pushed.said == []


def test_other_seconds_of_a_run_that_was_continued_are_no_other_numbers(pushed: Pushed) -> None:
    later = tuple(msgspec.structs.replace(point, seconds=point.seconds + 7.0) for point in CURVE)
    pushed.run(msgspec.structs.replace(pushed.made, curve=later, continued=1), follow=True)
    assert pushed.said == []


@pytest.mark.parametrize(
    ("old", "new"), [(POINT_20, OTHER_20), (POINT_20, POINT_20.replace(b'"step":20', b'"step":99'))]
)
def test_what_was_another_number_while_it_ran_is_said(pushed: Pushed, old: bytes, new: bytes) -> None:
    pushed.run(pushed.made, follow=True, old=old, new=new)
    (line,) = pushed.said
    assert line.startswith("W&B has numbers of t sgdm fp32 seed 0 that its record has not")
    assert line.endswith("delete the run in W&B and push it with --again")


def test_a_damaged_line_is_named_once_while_it_runs(pushed: Pushed) -> None:
    pushed.run(pushed.made, follow=True, old=b'"step":20,', new=b'"step":2x,')
    (line,) = pushed.said
    assert "events.jsonl cannot be read (the line at byte " in line
    assert pushed.logged == {10: 60.0, 50: 100.0, 20: 70.0}


def test_a_run_that_came_to_nothing_has_only_its_events_and_w_and_b_says_so(pushed: Pushed) -> None:
    made = failed(pushed.made.intent, Crashed(message="it crashed"), pushed.made.started_at)
    pushed.run(made, follow=False)
    assert pushed.logged == {10: 60.0, 20: 70.0}
    assert pushed.wandb.config[pushed.name]["curve_from"] == "events, which bear no digest"
