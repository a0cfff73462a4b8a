"""One run in a process of its own. The fork server imports this module, and with it torch, once."""

import atexit
import contextlib
import faulthandler
import gc
import os
import signal
import threading
import traceback
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
import torch
import torch._dynamo

from apo_bench import registry
from apo_bench.errors import ApoBenchError
from apo_bench.executors.job import Begun, Busy, Finished, Job, Report, failed, now
from apo_bench.measure.environment import build, environment
from apo_bench.record import SCHEMA, Crashed, OutOfMemory, RunRecord
from apo_bench.spec import Device
from apo_bench.store import Store, Workspace
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
        task = task_plugin.load()()
        competitor = optimizer_plugin.load()
        checkpoints = Checkpoints(workspace.folder, f"{run.run_id} {intent.fingerprint}", job.checkpoint_seconds)
        training = train(run, task, competitor, device, workspace.append, checkpoints)
    except (torch.OutOfMemoryError, MemoryError) as error:
        return failed(intent, OutOfMemory(message=last_line(error)), started_at)
    except ApoBenchError as error:
        return failed(intent, Crashed(message=str(error)), started_at)
    except Exception as error:  # noqa: BLE001 - whatever a plugin raises, the other runs go on
        with contextlib.suppress(OSError):  # its log may be on a full disk
            traceback.print_exc()
        if "can't allocate memory" in str(error):  # torch's CPU allocator raises a RuntimeError
            return failed(intent, OutOfMemory(message=last_line(error)), started_at)
        return failed(intent, Crashed(message=last_line(error)), started_at)
    return RunRecord(
        schema=SCHEMA,
        spec=run,
        suite=intent.suite,
        scale=intent.scale,
        started_at=started_at,
        finished_at=now(),
        outcome=training.outcome,
        fingerprint=intent.fingerprint,
        environment=environment(
            device,
            plugins=(task_plugin.distribution, optimizer_plugin.distribution),
            co_scheduled=job.co_scheduled,
        ),
        task=training.task,
        precision=training.precision,
        scores=training.scores,
        cost=training.cost,
        curve=training.curve,
        continued=training.continued,
    )


def open_device(kind: Device, slot: int) -> torch.device:
    """The device of a worker, with deterministic algorithms; before CUDA has started."""
    if kind is Device.CPU:
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts; makes it deterministic
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    # else every copy and cast pays for a fill before it
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # a property of the module
    torch.backends.cudnn.benchmark = False
    device = torch.device("cuda", slot % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def last_line(error: BaseException) -> str:
    """An error in one line, for a record."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:500]


def redirect_output(path: Path) -> None:
    """Send what this process prints, C code and crash dumps included, to a file of its own."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    faulthandler.enable()


def die_with_parent() -> None:
    """End this process when the command that asked for it is gone, even by SIGKILL."""
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watch-parent").start()


def _send(reports: Connection, report: Report) -> None:
    reports.send_bytes(msgspec.json.encode(report))
