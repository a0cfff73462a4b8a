"""One run in a process of its own. The fork server imports this module, and with it torch, once."""

import atexit
import contextlib
import gc
import os
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType

import msgspec
import torch
import torch._dynamo

from apo_bench.errors import ApoBenchError, last_line
from apo_bench.execution.job import Begun, Busy, Finished, Job, Left, Refused, Report
from apo_bench.execution.lifeline import die_with_command
from apo_bench.execution.output import shorten
from apo_bench.execution.process import open_device, redirect_output
from apo_bench.measure.environment import build, environment
from apo_bench.plugins import registry
from apo_bench.records.outcome import Crashed, Failed, Interrupted, OutOfMemory
from apo_bench.records.run import SCHEMA, RunRecord, failed, now, readable
from apo_bench.store.store import Store
from apo_bench.store.workspace import BusyError, Workspace
from apo_bench.training.blame import RuleFailedError
from apo_bench.training.checkpoint import Checkpoints
from apo_bench.training.stop import Stop, Stopped
from apo_bench.training.trainer import train

build()  # the revision whose code the server loads now
atexit.register(gc.freeze)  # else the server, when it ends, looks for garbage in all of torch: most of a second


_CLAIM_SECONDS = 0.2


def work(encoded: bytes, slot: int, reports: Connection) -> None:
    """Run one job and report to the parent; the target of the worker's process.

    Workers are told apart by their ``slot``, counted from 0; each has a CUDA device of its own while there are enough.
    SIGTERM lets the run save itself between two steps and end.
    """
    stop = Stop()

    def on_terminate(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a handler's arguments
        stop.asked = True

    signal.signal(signal.SIGTERM, on_terminate)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    die_with_command()
    job = msgspec.json.decode(encoded, type=Job)
    try:
        report = _worked(job, slot, reports, stop)
    except BusyError:
        report = Busy()
    except ApoBenchError as error:
        report = Refused(message=str(error))
    except OSError as error:
        traceback.print_exc()
        report = Refused(message=f"{error.filename or job.store}: {error.strerror or error}")
    _send(reports, report)
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # a plugin may have closed it
                stream.flush()
        os._exit(0)  # else this process would wait for a thread that a plugin has left behind, forever


def _worked(job: Job, slot: int, reports: Connection, stop: Stop) -> Report:
    """Run a job under its claim."""
    intent = job.intent
    store = Store(Path(job.store))
    with store.claim(intent.spec.run_id, _CLAIM_SECONDS) as mine:
        if not mine:
            return Busy()
        store.finish_written(intent.spec.run_id)
        done = store.result(intent)
        if done is not None:  # another process finished it while this one was starting
            return Finished(outcome=done.outcome)
        workspace = store.begin(intent)
        _send(reports, Begun(folder=str(workspace.folder), token=workspace.token))
        redirect_output(workspace.output)
        started_at = now()
        try:
            record = _record(job, slot, workspace, stop)
        except Stopped:
            if workspace.is_continuable:
                workspace.leave()
                return Left()
            record = failed(intent, Interrupted(), started_at)
        with contextlib.suppress(OSError):
            shorten(workspace.output)
        workspace.finish(record)
    return Finished(outcome=record.outcome)


def _record(job: Job, slot: int, workspace: Workspace, stop: Stop) -> RunRecord:
    started_at = now()
    intent, run = job.intent, job.run
    try:
        torch.set_num_threads(job.threads)
        device = open_device(run.device, slot)
        task_plugin = registry.tasks()[run.task]
        optimizer_plugin = registry.optimizers()[run.optimizer.name]
        task = task_plugin.task()
        competitor = optimizer_plugin.load()
        checkpoints = Checkpoints(workspace.folder, f"{run.run_id} {intent.fingerprint}", job.checkpoint_seconds)
        training = train(run, task, competitor, device, workspace.append, checkpoints, stop)
    except (torch.OutOfMemoryError, MemoryError) as error:
        return failed(intent, OutOfMemory(message=last_line(error)), started_at)
    except RuleFailedError as error:
        with contextlib.suppress(OSError):  # its log may be on a full disk
            traceback.print_exc()
        return failed(intent, Failed(step=error.step, message=str(error)), started_at)
    except ApoBenchError as error:
        return failed(intent, Crashed(message=str(error)), started_at)
    except Exception as error:  # noqa: BLE001 - whatever a plugin raises, the other runs go on
        with contextlib.suppress(OSError):  # its log may be on a full disk
            traceback.print_exc()
        if "can't allocate memory" in last_line(error):  # torch's CPU allocator raises a RuntimeError
            return failed(intent, OutOfMemory(message=last_line(error)), started_at)
        return failed(intent, Crashed(message=last_line(error)), started_at)
    made = RunRecord(
        schema=SCHEMA,
        intent=intent,
        started_at=started_at,
        finished_at=now(),
        outcome=training.outcome,
        environment=environment(
            device,
            plugins=(task_plugin.distribution, optimizer_plugin.distribution),
            co_scheduled=job.co_scheduled,
            threads_from=job.threads_from,
        ),
        task=training.task,
        precision=training.precision,
        scores=training.scores,
        cost=training.cost,
        curve=training.curve,
        continued=training.continued,
        left_alone=training.left_alone,
    )
    return readable(made)


def _send(reports: Connection, report: Report) -> None:
    reports.send_bytes(msgspec.json.encode(report))
