"""Which of several records of one thing is the newest, whatever the clock said when they were made.

Times are what clocks say, and a clock may have been ahead. A record that was made after one with a later time says so
itself (``follows``), since its writer could see that one; and what bears a time in the future ranks below all else.
Where the code and the data are known that are asked for, they decide before any time does (`Scan.find_result`).
"""

import contextlib
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TypeVar

import msgspec

from apo_bench.records.probe import ProbeRecord
from apo_bench.records.ranges import moment
from apo_bench.records.run import RunRecord

AHEAD = timedelta(minutes=5)
"""By how much two machines' clocks may differ without a word."""
Made = TypeVar("Made", RunRecord, ProbeRecord)
Place = tuple[bool, datetime, bool, datetime]


def is_ahead(record: RunRecord | ProbeRecord, present: datetime) -> bool:
    """Whether a record bears a time in the future."""
    return moment(record.finished_at) - present > AHEAD


def place(record: RunRecord | ProbeRecord, present: datetime) -> Place:
    """A key by which records are sorted, the oldest first."""
    finished = moment(record.finished_at)
    after = finished if record.follows is None else max(finished, moment(record.follows))
    return finished - present <= AHEAD, after, record.follows is not None, finished


def following(record: Made, earlier: Iterable[RunRecord | ProbeRecord]) -> Made:
    """A new record that says of itself that it follows those which are there, where its own time does not."""
    times = [moment(time) for other in earlier for time in (other.finished_at, other.follows) if time is not None]
    latest = max(times, default=None)
    if latest is None or latest < moment(record.finished_at):
        return record
    with contextlib.suppress(OverflowError):  # the last moment that there is
        latest += timedelta.resolution
    return msgspec.structs.replace(record, follows=latest.isoformat(timespec="microseconds"))
