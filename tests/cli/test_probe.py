"""`apo-bench probe`: measures once, and leaves the device to runs."""

import json

import msgspec
import pytest
from support.commands import PLUG, active_in, store_of, wait_for
from support.shell import Shell, optimizer_plugin

from apo_bench.records.probe import ProbeRecord
from apo_bench.records.run import now
from apo_bench.records.spec import Device
from apo_bench.store.store import Store


@pytest.mark.slow
def test_the_command_measures_stores_and_does_not_measure_again(tiny_shell: Shell) -> None:
    tiny_shell.install("plug", optimizer_plugin(["print('no JSON')"]), PLUG)
    arguments = ("probe", "--suite", "classification", "--tasks", "tiny", "--optimizers", "plug,apo-p", "--precisions",
                 "fp32,fp16", "--processes", "2", "--rounds", "2", "--scale", "smoke", "--threads", "1")  # fmt: skip
    out = tiny_shell(*arguments).stdout
    assert "fp16 left out: it is emulated" in out
    assert "tiny fp32 on cpu: sgdm plug apo-p" in out
    answer = json.loads(tiny_shell(*arguments, "--again", "--json").stdout)
    (probe,) = answer["probes"]
    assert [competitor["optimizer"] for competitor in probe["competitors"]] == ["sgdm", "plug", "apo-p"]
    assert probe["competitors"][0]["ratio"] == 1.0
    store = Store(tiny_shell.folder / "apo-bench-results")
    scan = store.scan()
    assert len(scan.probes) == 2
    for probed in scan.probes:
        store.keep_probe(_without_noise(probed))
    assert "already measured on" in tiny_shell(*arguments).stdout
    assert len(store.scan().probes) == 4
    tiny_shell("run", "--suite", "classification", "--tasks", "tiny", "--optimizers", "sgdm,apo-p", "--precisions",
               "fp32", "--epochs", "1", "--scale", "smoke", "--threads", "1")  # fmt: skip
    assert "step / sgdm" in tiny_shell("report", "--suite", "classification").stdout


def _without_noise(probe: ProbeRecord) -> ProbeRecord:
    """The same with times that nobody doubts."""
    competitors = tuple(
        msgspec.structs.replace(
            probed,
            kinds=tuple(
                msgspec.structs.replace(kind, milliseconds=((2.0, 2.0),) * len(kind.milliseconds))
                for kind in probed.kinds
            ),
        )
        for probed in probe.competitors
    )
    return msgspec.structs.replace(probe, competitors=competitors, foreign_cores=(), finished_at=now())


@pytest.mark.slow
def test_probes_and_runs_leave_each_other_the_device(tiny_shell: Shell) -> None:
    tiny_shell.install("plug", optimizer_plugin(["time.sleep(0.5)"]), PLUG)
    run = ("--suite", "classification", "--tasks", "tiny", "--optimizers", "plug", "--precisions", "fp32")
    started = tiny_shell.start("run", *run, "--epochs", "20")
    wait_for(lambda: active_in(tiny_shell))
    refused = tiny_shell("probe", *run, status=2).stderr
    assert "a run is in flight on cpu: tiny plug fp32 seed 0" in refused
    assert "stop them" in refused
    started.kill()
    started.wait()
    with Store(store_of(tiny_shell)).probing(Device.CPU) as alone:
        assert alone
        assert "a probe of" in tiny_shell("run", *run, "--epochs", "1", status=2).stderr
        assert "another probe" in tiny_shell("probe", *run, status=2).stderr


@pytest.mark.slow
def test_a_probe_whose_process_dies_says_so_and_the_others_go_on(tiny_shell: Shell) -> None:
    tiny_shell.install("plug", optimizer_plugin(["os.kill(os.getpid(), signal.SIGKILL)"]), PLUG)
    done = tiny_shell("probe", "--suite", "classification", "--tasks", "tiny", "--optimizers", "plug", "--precisions",
                      "fp32,pure-bf16", "--processes", "1", "--rounds", "1", status=1)  # fmt: skip
    assert "killed by SIGKILL" in done.stderr
    assert "Traceback" not in done.stderr
    emulated = tiny_shell("probe", "--suite", "classification", "--tasks", "tiny", "--precisions", "fp16", status=1)
    assert "nothing was measured" in emulated.stderr
    for option in ("--processes", "--rounds", "--threads"):
        assert (
            f"{option} must be at least 1 (got 0)"
            in tiny_shell("probe", "--suite", "all", option, "0", status=2).stderr
        )
