"""Runs and a probe of one store leave each other the device."""

import os
import re
from pathlib import Path
from typing import ClassVar

import pytest
from support.records import PRINT
from support.runs import run_spec

from apo_bench.execution import local
from apo_bench.execution.job import Job
from apo_bench.execution.watcher import Watcher
from apo_bench.records.run import Intent
from apo_bench.records.spec import Device, Scale
from apo_bench.store.store import Store


def test_the_next_run_waits_for_a_probe_that_began_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Told(Watcher):
        warnings: ClassVar[list[str]] = []

        def warn(self, message: str) -> None:
            self.warnings.append(message)

    monkeypatch.setattr(local, "start_fork_server", lambda: None)
    store = Store(tmp_path, create=True)
    intent = Intent(spec=run_spec(), suite="s", scale=Scale.SMOKE, fingerprint=PRINT)
    job = Job(intent=intent, store=str(tmp_path), threads=1, checkpoint_seconds=60.0, co_scheduled=0)
    executor = local._Executor([job], store, 1, Told())
    with store.probing(Device.CPU) as alone:
        assert alone
        assert [executor._probed(Device.CPU) for _ in range(3)] == [True] * 3
    assert not executor._probed(Device.CPU)
    (warning,) = Told.warnings
    assert re.fullmatch(
        rf"a probe of this store is measuring \(process {os.getpid()} on .*, since .* UTC: .+\); "
        "the next run waits for it",
        warning,
    )
