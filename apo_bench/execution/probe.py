"""Probes in processes of their own, one after the other, forked from the server that has imported torch."""

import contextlib
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

import msgspec

from apo_bench.errors import ApoBenchError, last_line
from apo_bench.execution.output import shorten
from apo_bench.records.facts import Environment
from apo_bench.records.probe import ProbeSpec, Sample
from apo_bench.records.spec import Frozen

_POLL_SECONDS = 0.5


class ProbeFailedError(ApoBenchError):
    """A process of a probe died or raised."""

    exit_code = 1


class _Measured(Frozen, frozen=True, tag=True):
    """What came of one process."""

    sample: Sample
    environment: Environment


class _Failed(Frozen, frozen=True, tag=True):
    message: str


def probe(
    spec: ProbeSpec,
    context: ForkServerContext,
    output: Path,
    between: Callable[[int], None],
    *,
    threads_from: str | None = None,
) -> tuple[list[Sample], Environment]:
    """Measure in ``spec.processes`` processes.

    Args:
        spec: What is probed.
        context: From `apo_bench.execution.process.start_fork_server`.
        output: File to which the processes append what they print.
        between: Called before each process and after the last, with the number of processes that have ended; an error
            that it raises ends the probe.
        threads_from: What said how many CPU threads there are, for the record.

    Returns:
        One sample a process, and where they were made.

    Raises:
        ProbeFailedError: A process failed.
    """
    samples: list[Sample] = []
    environment = None
    for number in range(spec.processes):
        between(number)
        measured = _in_a_process(spec, number, context, output)
        samples.append(measured.sample)
        environment = environment or msgspec.structs.replace(measured.environment, threads_from=threads_from)
    between(spec.processes)
    if environment is None:
        raise ProbeFailedError(f"{spec.title}: nothing was measured; give --processes 1 or more")
    return samples, environment


def _in_a_process(spec: ProbeSpec, number: int, context: ForkServerContext, output: Path) -> _Measured:
    mine, theirs = context.Pipe(duplex=False)
    arguments = (msgspec.json.encode(spec), number, str(output), theirs)
    process = context.Process(target=_work, args=arguments, daemon=False)
    process.start()
    theirs.close()
    try:
        while not mine.poll(_POLL_SECONDS):  # for as long as it lives
            with contextlib.suppress(OSError):
                shorten(output)
        with contextlib.suppress(EOFError):  # it died
            answer = msgspec.json.decode(mine.recv_bytes(), type=_Measured | _Failed)
            if isinstance(answer, _Measured):
                return answer
            raise ProbeFailedError(f"{spec.title}: {answer.message}; what was printed is in {output}")
        process.join()
        code = process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
        raise ProbeFailedError(f"{spec.title}: the probe's process {how}; what was printed is in {output}")
    finally:
        process.kill()
        process.join()
        mine.close()


def _work(encoded: bytes, number: int, output: str, answers: Connection) -> None:
    """Measure and answer; the target of a probe's process."""
    import torch

    from apo_bench.execution.lifeline import die_with_command
    from apo_bench.execution.process import open_device, redirect_output
    from apo_bench.measure.environment import environment
    from apo_bench.plugins import registry
    from apo_bench.training.probe import measure

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which its server ignores
    die_with_command()
    redirect_output(Path(output))
    spec = msgspec.json.decode(encoded, type=ProbeSpec)
    answer: _Measured | _Failed
    try:
        torch.set_num_threads(spec.threads)
        device = open_device(spec.device, 0)
        task_plugin = registry.tasks()[spec.task]
        plugins = {optimizer.name: registry.optimizers()[optimizer.name] for optimizer in spec.competitors}
        competitors = {name: plugin.load() for name, plugin in plugins.items()}
        sample = measure(spec, task_plugin.task(), competitors, device, seed=number)
        distributions = {plugin.distribution for plugin in (task_plugin, *plugins.values())}
        answer = _Measured(sample=sample, environment=environment(device, plugins=sorted(distributions)))
    except ApoBenchError as error:
        answer = _Failed(message=str(error))
    except Exception as error:  # noqa: BLE001 - whatever a plugin raises, the other cells go on
        traceback.print_exc()
        answer = _Failed(message=last_line(error))
    answers.send_bytes(msgspec.json.encode(answer))
