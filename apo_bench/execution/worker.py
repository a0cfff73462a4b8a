"""One run in a process of its own. The fork server imports this module, and with it torch, once."""

import atexit
import contextlib
import gc
import signal
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
import torch
import torch._dynamo

from apo_bench.errors import ApoBenchError, last_line
from apo_bench.execution.job import Begun, Busy, Finished, Job, Report
from apo_bench.execution.process import die_with_parent, open_device, redirect_output
from apo_bench.measure.environment import build, environment
from apo_bench.plugins import registry
from apo_bench.records.outcome import Crashed, Failed, OutOfMemory
from apo_bench.records.run import SCHEMA, RunRecord, failed, now, readable
from apo_bench.store.store import Store, Workspace
from apo_bench.training.blame import RuleFailedError
from apo_bench.training.checkpoint import Checkpoints
from apo_bench.training.trainer import train

build()  # the revision whose code the server loads now
atexit.register(gc.freeze)  # else the server, when it ends, looks for garbage in all of torch: most of a second


def work(encoded: bytes, slot: int, reports: Connection) -> None:
    """Run one job and report to the parent; the target of the worker's process.

    Workers are told apart by their ``slot``, counted from 0; each has a CUDA device of its own while there are enough.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    die_with_parent()
    job = msgspec.json.decode(encoded, type=Job)
    intent = job.intent
    store = Store(Path(job.store))
    with store.claim(intent.spec.run_id) as mine:
        if not mine:
            _send(reports, Busy())
            return
        done = store.result(intent)
        if done is not None:  # another process finished it while this one was starting
            _send(reports, Finished(outcome=done.outcome))
            return
        workspace = store.begin(intent)
        _send(reports, Begun(folder=str(workspace.folder)))
        redirect_output(workspace.output)
        record = _record(job, slot, workspace)
        workspace.finish(record)
    _send(reports, Finished(outcome=record.outcome))


def _record(job: Job, slot: int, workspace: Workspace) -> RunRecord:
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
        training = train(run, task, competitor, device, workspace.append, checkpoints)
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
        if "can't allocate memory" in str(error):  # torch's CPU allocator raises a RuntimeError
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
