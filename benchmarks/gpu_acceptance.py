"""Does everything work on this card? One command for a fresh clone and one CUDA device, within nine minutes.

    python benchmarks/gpu_acceptance.py [--output DIR] [--seconds 540] [--parts run,records] [--cpu]

It needs an installed apo-bench (``pip install -e .``), and pytest with pytest-timeout for the part ``tests``. Each part
is a process group of its own that is killed when it is over its limit; the next part still runs:

===========  =======================================================================================
environment  the machine, as records describe it
doctor       ``apo-bench doctor``
tests        ``pytest -m gpu``
run          the suite ``classification`` at scale ``smoke``: four optimizers, four networks, fp32 and fp16
probe        ``apo-bench probe`` of the same competitors on LeNet
card         the card through NVML, idle and under a second of matrix products
records      what the records of the runs and of the probes say
===========  =======================================================================================

``DIR/acceptance.json`` holds what is known so far: it is written anew after every part. The exit status is 0 only if
every part that was asked for passed, 1 if not, 2 for wrong use. Finished runs in ``DIR/store`` are reused, so that the
same command goes on where a limit stopped it. ``--cpu`` goes through the same parts on the CPU, with LeNet alone and
one thread: it shows that the script works, and nothing about a card.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apo_bench.measure.nvml import Card
    from apo_bench.records.probe import ProbeRecord
    from apo_bench.records.run import RunRecord

SCHEMA = 1
ROOT = Path(__file__).resolve().parent.parent
OPTIMIZERS = ("sgdm", "adam", "kfac", "apo-p")
PRECISIONS = ("fp32", "fp16")
LENET = "fashion-mnist-20k.lenet"
SHARES = {"environment": 30, "doctor": 30, "tests": 170, "run": 210, "probe": 60, "card": 20, "records": 20}
"""The parts in their order, and the seconds of each where the whole has 540."""
WORK_SECONDS = 1.5
COUNTABLE_SECONDS = 0.5
"""A driver renews its energy counter some ten times a second: a shorter run may have used none by its count."""
LAST_LINES = 40
_NO_PYTEST = "pytest or pytest-timeout is missing; pip install pytest pytest-timeout"
_NOT_INSTALLED = (
    "gpu_acceptance: apo-bench is not installed, and its optimizers and tasks are found through the installed "
    f"distribution; in the checkout: {Path(sys.executable).name} -m pip install -e ."
)


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that must hold.

    Attributes:
        name: What must hold.
        passed: Whether it does.
        value: What was seen; JSON.
    """

    name: str
    passed: bool
    value: Any


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is accepted, and where.

    Attributes:
        output: Folder of everything that is written.
        cpu: Whether the CPU stands in for the card.
    """

    output: Path
    cpu: bool

    @property
    def device(self) -> str:
        """Kind of device."""
        return "cpu" if self.cpu else "cuda"

    @property
    def store(self) -> Path:
        """Folder of the records."""
        return self.output / "store"

    @property
    def tasks(self) -> str | None:
        """Tasks of the run; `None` for all of the suite."""
        return LENET if self.cpu else None


@dataclasses.dataclass
class Part:
    """What became of one part; as it stands in ``acceptance.json``.

    Attributes:
        name: Its name.
        command: What was run, without anyone's folders.
        result: ``passed``, ``failed`` or ``not run``.
        reason: Why it did not pass, or what the pass means.
        seconds: How long it took.
        limit_seconds: How long it might have taken.
        exit_status: Of its process; negative is the signal that killed it.
        last_lines: The end of what it printed.
        checks: What was looked at, with what was seen.
        values: Further readings.
    """

    name: str
    command: str = ""
    result: str = "not run"
    reason: str = ""
    seconds: float | None = None
    limit_seconds: float | None = None
    exit_status: int | None = None
    last_lines: list[str] = dataclasses.field(default_factory=list)
    checks: list[Check] = dataclasses.field(default_factory=list)
    values: dict[str, Any] = dataclasses.field(default_factory=dict)


def command(name: str, setting: Setting) -> list[str]:
    """The command line of a part."""
    bench = [sys.executable, "-m", "apo_bench"]
    where = ["--device", setting.device, "--store", str(setting.store)]
    if setting.cpu:
        where += ["--threads", "1"]
    suite = ["--suite", "classification", "--scale", "smoke", "--optimizers", ",".join(OPTIMIZERS)]
    tasks = ["--tasks", setting.tasks] if setting.tasks else []
    match name:
        case "doctor":
            return [*bench, "doctor", "--store", str(setting.store)]
        case "tests":
            return [sys.executable, "-m", "pytest", "-m", "gpu", "tests"]
        case "run":
            return [*bench, "run", *suite, *tasks, "--precisions", ",".join(PRECISIONS), *where, "--yes"]
        case "probe":
            precisions = ["--precisions", ",".join(_probed(setting))]
            counts = ["--processes", "3", "--rounds", "3"]
            return [*bench, "probe", *suite, "--tasks", LENET, *precisions, *where, *counts]
        case _:
            cpu = ["--cpu"] if setting.cpu else []
            return [sys.executable, str(Path(__file__)), "--look", name, "--output", str(setting.output), *cpu]


def _probed(setting: Setting) -> tuple[str, ...]:
    """Precisions of the probe: on a CPU fp16 is emulated, and has no cost."""
    return PRECISIONS[:1] if setting.cpu else PRECISIONS


def limit(name: str, later: Sequence[str], seconds_left: float) -> float:
    """Seconds that a part may take: its share of what is left for it and for the ``later`` ones."""
    return seconds_left * SHARES[name] / (SHARES[name] + sum(SHARES[other] for other in later))


def run_limited(
    arguments: Sequence[str], log: Path, seconds: float, environment: Mapping[str, str]
) -> tuple[int, bool]:
    """Run a command from the checkout's root, in a process group of its own that ends with it.

    Args:
        arguments: The command.
        log: File for all that it prints.
        seconds: Its limit.
        environment: Its environment variables.

    Returns:
        Exit status, and whether it was killed for being over its limit.
    """
    with log.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603 - our own commands
            arguments, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            return process.wait(timeout=seconds), False
        except subprocess.TimeoutExpired:
            _kill_group(process.pid)
            return process.wait(), True
        finally:  # also when this script is interrupted, and whatever a part that ended has left behind
            _kill_group(process.pid)
            process.wait()


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def perform(name: str, setting: Setting, seconds: float) -> Part:
    """Run one part and judge it."""
    part = Part(name, limit_seconds=round(seconds, 1))
    arguments = command(name, setting)
    part.command = without_folders(" ".join(arguments), setting)
    if name == "tests" and not all(importlib.util.find_spec(module) for module in ("pytest", "pytest_timeout")):
        part.reason = _NO_PYTEST
        return part
    log, findings = setting.output / "logs" / f"{name}.log", _findings(name, setting)
    log.parent.mkdir(exist_ok=True)
    findings.unlink(missing_ok=True)  # of an earlier acceptance
    start = time.monotonic()
    part.exit_status, over = run_limited(arguments, log, seconds, _environment(setting))
    part.seconds = round(time.monotonic() - start, 1)
    printed = without_folders(log.read_text(encoding="utf-8", errors="replace"), setting)
    part.last_lines = printed.splitlines()[-LAST_LINES:]
    if findings.is_file():
        found = json.loads(findings.read_bytes())
        part.checks = [Check(**check) for check in found["checks"]]
        part.values = found["values"]
    elif name == "tests":
        part.checks = [tests_check(part.last_lines, cpu=setting.cpu)]
    judge(part, over=over)
    return part


def judge(part: Part, *, over: bool) -> None:
    """Set result and reason of a part from its exit status and its checks."""
    wrong = [check for check in part.checks if not check.passed]
    part.result = "failed"
    if over:
        part.reason = f"over its limit of {part.limit_seconds:g} s, and killed; give more --seconds"
    elif wrong:
        more = f", and {len(wrong) - 1} more checks" if len(wrong) > 1 else ""
        part.reason = f"not so: {wrong[0].name} ({json.dumps(wrong[0].value)[:300]}){more}"
    elif part.exit_status:
        last = next((line for line in reversed(part.last_lines) if line.strip()), "it printed nothing")
        part.reason = f"exit status {part.exit_status}: {last[:300]}"
    elif part.name in _LOOKS and not part.checks:
        part.reason = "it made no checks"
    else:
        part.result = "passed"
        part.reason = "; ".join(check.name for check in part.checks[:1]) if part.name == "tests" else ""


def tests_check(last_lines: Sequence[str], *, cpu: bool) -> Check:
    """What pytest's summary must say."""
    summary = next((line for line in reversed(last_lines) if re.search(r" in \d+\.\d+s\b", line)), "")
    counted = re.findall(r"(\d+) (passed|failed|skipped|errors?|xfailed|xpassed)\b", summary)
    counts = {word: int(number) for number, word in counted}
    bad = any(word.startswith(("failed", "error", "xpassed")) for word in counts)
    if cpu:
        skipped = counts.get("skipped", 0) > 0 and "passed" not in counts
        return Check("all tests of a card are skipped, as expected without one", skipped and not bad, counts)
    return Check("tests of the card pass", counts.get("passed", 0) > 0 and not bad, counts)


def _environment(setting: Setting) -> dict[str, str]:
    """Environment of the parts: with the code of this checkout, and without a card where none is meant."""
    kept = {key: value for key, value in os.environ.items() if key not in {"APO_BENCH_STORE", "PYTEST_ADDOPTS"}}
    paths = [str(ROOT), *filter(None, [kept.get("PYTHONPATH")])]
    kept |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", "COLUMNS": "120"}
    return kept | ({"CUDA_VISIBLE_DEVICES": ""} if setting.cpu else {})


def without_folders(text: str, setting: Setting) -> str:
    """Put names in the place of this machine's folders."""
    names = {
        str(setting.output): "OUTPUT",
        str(ROOT): "CHECKOUT",
        sys.executable: "python",
        sys.prefix: "PREFIX",
        sys.base_prefix: "PREFIX",
        str(Path.home()): "~",
    }
    for folder in sorted(names, key=len, reverse=True):  # the inner one first
        if len(folder) > 1:
            text = text.replace(folder, names[folder])
    return text


def _findings(name: str, setting: Setting) -> Path:
    return setting.output / "findings" / f"{name}.json"


class Acceptance:
    """One acceptance: its parts, and its file.

    Args:
        setting: What is accepted.
        wanted: Names of the parts to run; the others stay ``not run``.
        seconds: Limit of the whole.
    """

    def __init__(self, setting: Setting, wanted: Sequence[str], seconds: float) -> None:
        self.setting = setting
        self.wanted = wanted
        self.seconds = seconds
        self.parts = {name: Part(name, reason="" if name in wanted else "not asked for") for name in SHARES}
        self.started_at = _now()
        self.finished_at: str | None = None

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if self.finished_at is None:
            return "unfinished"
        if any(self.parts[name].result != "passed" for name in self.wanted):
            return "failed"
        return "passed" if len(self.wanted) == len(SHARES) else "passed as far as asked for"

    def run(self) -> int:
        """Run the parts, write after each; returns the exit status."""
        begin = time.monotonic()
        self.write()
        for number, name in enumerate(self.wanted):
            left = self.seconds - (time.monotonic() - begin)
            part = perform(name, self.setting, limit(name, self.wanted[number + 1 :], max(left, 1.0)))
            self.parts[name] = part
            self.write()
            time_taken = "" if part.seconds is None else f"{part.seconds:.1f} s"
            print(f"{name:12} {part.result:8} {time_taken:>8}  {part.reason}".rstrip(), flush=True)
        self.finished_at = _now()
        self.write()
        good = sum(self.parts[name].result == "passed" for name in self.wanted)
        print(f"{self.verdict}: {good} of {len(self.wanted)} parts on {self.setting.device}, see {self.path}")
        return 0 if good == len(self.wanted) else 1

    @property
    def path(self) -> Path:
        """The file."""
        return self.setting.output / "acceptance.json"

    def write(self) -> None:
        """Write what is known so far; a kill leaves it or what was there before, whole."""
        from apo_bench.files import write_durably

        values = {
            "schema": SCHEMA,
            "verdict": self.verdict,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
            "device": self.setting.device,
            "limit_seconds": self.seconds,
            "revision": revision(),
            "environment": self.parts["environment"].values.get("environment"),
            "parts": [dataclasses.asdict(part) for part in self.parts.values()],
        }
        write_durably(self.path, json.dumps(values, indent=2).encode() + b"\n")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def revision() -> str | None:
    """Commit of the checkout, with a plus sign where it has been changed; `None` where git does not tell."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}+" if changed.strip() else head


# What follows runs in the processes of the parts `environment`, `card` and `records`.


def look_at_environment(setting: Setting) -> tuple[list[Check], dict[str, Any]]:
    """Describe the machine."""
    import msgspec
    import torch

    import apo_bench
    from apo_bench.measure.environment import environment

    available = torch.cuda.is_available()
    made = environment(torch.device("cuda" if available and not setting.cpu else "cpu"))
    ours = Path(apo_bench.__file__).resolve().parent.parent == ROOT
    checks = [Check("the code is that of this checkout", ours, made.apo_bench)]
    if not setting.cpu:
        checks.append(Check("torch finds a CUDA device", available, made.device_name))
    return checks, {"environment": msgspec.to_builtins(made)}


def look_at_card(setting: Setting) -> tuple[list[Check], dict[str, Any]]:
    """Read the card, idle and at work."""
    import torch

    from apo_bench.measure.card import CardUse
    from apo_bench.measure.memory import PeakMemory
    from apo_bench.measure.nvml import open_card

    device = torch.device(setting.device)
    card = open_card(device)
    idle = _readings(card)
    size = 256 if setting.cpu else 4096
    matrix = torch.randn(size, size, device=device)  # initializes CUDA, which the peak of memory needs
    use, memory = CardUse(card), PeakMemory(device)
    use.start()
    start = time.monotonic()
    while time.monotonic() < start + WORK_SECONDS:
        for _ in range(10):
            _ = matrix @ matrix
        use.sample()  # while the products are under way
        if not setting.cpu:
            torch.cuda.synchronize(device)
    use.finish()
    seconds = time.monotonic() - start
    values = {
        "driver": card.driver_version() if card else None,
        "idle": idle,
        "busy": {
            "seconds": seconds,
            "energy_joules": use.energy_joules,
            "mean_watts": use.energy_joules / seconds if use.energy_joules else None,
            "clock_mhz": use.clock_mhz,
            "throttle_reasons": use.throttle_reasons,
            "foreign_processes": use.foreign_processes,
            "process_memory_bytes": use.process_memory_bytes,
        },
        "allocator": {
            "peak_bytes": None if setting.cpu else memory.bytes(),
            "reserved_bytes": memory.reserved(),
        },
    }
    if setting.cpu:
        return [Check("a CPU has no card to read", card is None and use.energy_joules is None, None)], values
    if card is None:
        return [Check("NVML finds the card", passed=False, value="no pynvml, no driver, or MIG")], values
    return card_checks(values), values


def _readings(card: "Card | None") -> dict[str, Any]:
    if card is None:
        return {}
    processes = card.processes()
    return {
        "energy_millijoules": card.energy_millijoules(),
        "clock_mhz": card.sm_clock_mhz(),
        "throttle_reasons": card.throttle_reasons(),
        "processes": None if processes is None else len(processes),  # their numbers say nothing elsewhere
    }


def card_checks(values: Mapping[str, Any]) -> list[Check]:
    """What the readings of a card must say.

    Other processes and throttling are read and not judged: they are the machine's affair. Nor is it a fault that a
    container hides the own process; where it is listed, the driver's count of its memory contains the allocator's.
    """
    idle, busy, allocator = values["idle"], values["busy"], values["allocator"]
    watts, clock = busy["mean_watts"], busy["clock_mhz"]
    held, reserved, peak = busy["process_memory_bytes"], allocator["reserved_bytes"], allocator["peak_bytes"]
    return [
        Check("the driver says its version", bool(values["driver"]), values["driver"]),
        Check("work uses energy, at 1 W to 5 kW", watts is not None and 1.0 < watts < 5000.0, watts),
        Check("the idle card has a clock", bool(idle["clock_mhz"]), idle["clock_mhz"]),
        Check("the busy card has a clock", clock is not None and clock[0] > 0, clock),
        Check(
            "the allocator reserves what it gives", bool(peak) and bool(reserved) and reserved >= peak, [peak, reserved]
        ),
        Check(
            "the driver counts at least what the allocator reserved, or hides the process",
            held is None or (reserved is not None and held >= reserved),
            [held, reserved],
        ),
    ]


def look_at_records(setting: Setting) -> tuple[list[Check], dict[str, Any]]:
    """Read what the parts ``run`` and ``probe`` have stored."""
    import torch

    from apo_bench.cli.selection import Selection
    from apo_bench.measure.environment import device_name
    from apo_bench.planning.plan import plan
    from apo_bench.plugins.registry import optimizers, tasks
    from apo_bench.records.spec import Device, Precision, Scale
    from apo_bench.store.store import Store

    asked = Selection(
        suite="classification",
        tasks=tuple(setting.tasks.split(",")) if setting.tasks else (),
        optimizers=tuple(OPTIMIZERS),
        precisions=tuple(map(Precision, PRECISIONS)),
    )
    scan = Store(setting.store).scan()
    device = Device(setting.device)
    planned = plan(asked.at(Scale.SMOKE), device, tasks(), optimizers(), scan)
    newest = scan.newest()
    failed = {run_id: record for run_id, record in newest.items() if not record.is_result}
    made = {run.run.title: run.reused or failed.get(run.run.run_id) for run in planned.runs}
    name = device_name(device) if setting.cpu or torch.cuda.is_available() else None
    cells = [(LENET, precision) for precision in _probed(setting)]
    checks = [
        Check("no record is damaged", not scan.damaged, [damaged.reason for damaged in scan.damaged]),
        Check("no data are missing", not planned.unavailable, list(planned.unavailable)),
        *run_checks(made, device=setting.device, device_name=name),
        *probe_checks(scan.probes, cells, device=setting.device, device_name=name),
    ]
    runs = [run_values(record) for record in made.values() if record is not None]
    probes = [probe_values(record) for record in scan.probes]
    return checks, {"runs": runs, "probes": probes}


def run_checks(made: "Mapping[str, RunRecord | None]", *, device: str, device_name: str | None) -> list[Check]:
    """What the records of the runs must say.

    Args:
        made: By title of every planned run its record, or `None`.
        device: Kind of device.
        device_name: What records call the card, or the processor.
    """
    import msgspec

    from apo_bench.records.outcome import Diverged
    from apo_bench.records.run import PrecisionBackend

    cuda = device == "cuda"
    results = [record for record in made.values() if record is not None and record.is_result]
    missing = [
        f"{title}: {'no record' if record is None else msgspec.to_builtins(record.outcome)}"
        for title, record in made.items()
        if record is None or not record.is_result
    ]
    checks = [
        Check("every planned run has a result", bool(made) and not missing, {"runs": len(made), "wrong": missing})
    ]

    def every(name: str, wrong: Callable[["RunRecord"], Any], among: "Sequence[RunRecord]" = results) -> None:
        """All of them, and at least one, must have nothing wrong."""
        found = {record.spec.title: seen for record in among if (seen := wrong(record))}
        checks.append(Check(name, bool(among) and not found, {"runs": len(among), "wrong": found}))

    every("no run diverged", lambda run: run.outcome.message if isinstance(run.outcome, Diverged) else None)
    every(
        f"runs were made on {device}, on this machine's",
        lambda run: (
            None
            if run.spec.device == device and run.environment and run.environment.device_name == device_name
            else f"{run.spec.device}, {run.environment.device_name if run.environment else 'unknown'}"
        ),
    )
    native = results if cuda else [run for run in results if run.spec.precision == "fp32"]
    every(
        "arithmetic is native" if cuda else "fp32 is native",
        lambda run: (
            None if run.precision and run.precision.backend is PrecisionBackend.NATIVE else "emulated or unknown"
        ),
        native,
    )
    if not cuda:
        emulated = [run for run in results if run.spec.precision == "fp16"]
        every(
            "fp16 is emulated, as expected on a CPU",
            lambda run: (
                None if run.precision and run.precision.backend is PrecisionBackend.EMULATED else "native or unknown"
            ),
            emulated,
        )
    every("peak memory is known", _wrong_memory if cuda else _wrong_memory_of_a_cpu)
    every("optimizers hold state", lambda run: None if run.cost and run.cost.state_bytes else "none")
    every("a step's FLOPs are counted", lambda run: None if run.cost and run.cost.flops_per_step else "not counted")
    every("phases are there, and within the training clock", _wrong_phases)
    if cuda:
        every("clocks of the card are known", lambda run: None if run.cost and run.cost.clock_mhz else "unknown")
        countable = [run for run in results if run.cost and not run.continued and _seconds(run) >= COUNTABLE_SECONDS]
        every(
            f"runs of {COUNTABLE_SECONDS:g} s or more used energy",
            lambda run: None if run.cost and run.cost.energy_joules else "none counted",
            countable,
        )
    return checks


def _seconds(run: "RunRecord") -> float:
    return run.cost.train_seconds + run.cost.eval_seconds if run.cost else 0.0


def _wrong_memory(run: "RunRecord") -> Any:
    peak, reserved = (run.cost.peak_memory_bytes, run.cost.peak_reserved_bytes) if run.cost else (None, None)
    return None if peak and reserved and reserved >= peak else {"peak": peak, "reserved": reserved}


def _wrong_memory_of_a_cpu(run: "RunRecord") -> Any:
    """Where the system forbids resetting the peak there is none, and that is no fault; an allocator's would be one."""
    if run.cost is None:
        return "unknown"
    peak = run.cost.peak_memory_bytes
    return None if (peak is None or peak > 0) and run.cost.peak_reserved_bytes is None else {"peak": peak}


def _wrong_phases(run: "RunRecord") -> Any:
    """Their sum may exceed the clock by what two ways of timing differ."""
    if run.cost is None:
        return "none"
    missing = sorted({"forward", "backward", "update"} - set(run.cost.phases))
    total = sum(run.cost.phases.values())
    if missing or not 0 < total <= 1.01 * run.cost.train_seconds:
        return {"missing": missing, "sum": total, "clock": run.cost.train_seconds}
    return None


def run_values(run: "RunRecord") -> dict[str, Any]:
    """A run's numbers."""
    import msgspec

    return {
        "run": run.spec.title,
        "outcome": msgspec.to_builtins(run.outcome),
        "backend": str(run.precision.backend) if run.precision else None,
        "test": run.scores.test,
        "cost": msgspec.to_builtins(run.cost),
    }


def probe_checks(
    probes: "Iterable[ProbeRecord]", cells: Sequence[tuple[str, str]], *, device: str, device_name: str | None
) -> list[Check]:
    """What the records of the probes must say: the newest of each cell counts.

    Args:
        probes: Oldest first.
        cells: Task and precision of those that were to be made.
        device: Kind of device.
        device_name: What records call the card, or the processor.
    """
    from apo_bench.evidence.step_costs import step_costs

    newest = {
        (record.spec.task, str(record.spec.precision)): record
        for record in probes
        if record.spec.device == device and record.environment.device_name == device_name
    }
    checks = []
    for task, precision in cells:
        record = newest.get((task, precision))
        costs = {probed.optimizer.name: cost for probed, cost in step_costs(record)} if record else {}
        seen = {name: [cost.low, cost.ratio, cost.high] for name, cost in costs.items()}
        whole = set(costs) == set(OPTIMIZERS) and all(
            cost.low is not None and cost.high is not None and 0 < cost.low <= cost.ratio <= cost.high
            for cost in costs.values()
        )
        checks.append(Check(f"the probe of {task} {precision} has all optimizers with intervals", whole, seen))
    return checks


def probe_values(record: "ProbeRecord") -> dict[str, Any]:
    """A probe's numbers, with the reasons to doubt them; a doubt is no failure of the code."""
    from apo_bench.evidence.step_costs import step_costs

    return {
        "probe": record.spec.title,
        "omitted": {left.optimizer.name: left.message for left in record.omitted},
        "competitors": {probed.optimizer.name: dataclasses.asdict(cost) for probed, cost in step_costs(record)},
    }


_LOOKS: dict[str, Callable[[Setting], tuple[list[Check], dict[str, Any]]]] = {
    "environment": look_at_environment,
    "card": look_at_card,
    "records": look_at_records,
}


def look(name: str, setting: Setting) -> int:
    """Make the checks of a part in this process, write them for the one that started it; returns the exit status."""
    from apo_bench.errors import ApoBenchError
    from apo_bench.files import write_durably

    try:
        checks, values = _LOOKS[name](setting)
    except ApoBenchError as error:
        print(f"gpu_acceptance: {error}")
        return 1
    for check in checks:
        print(f"{'ok' if check.passed else 'WRONG':6} {check.name}")
    path = _findings(name, setting)
    path.parent.mkdir(exist_ok=True)
    found = {"checks": [dataclasses.asdict(check) for check in checks], "values": values}
    write_durably(path, json.dumps(found).encode())
    return 0 if all(check.passed for check in checks) else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the acceptance; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=Path, default=Path("apo-bench-acceptance"), metavar="DIR", help="what is written"
    )
    parser.add_argument("--seconds", type=float, default=540.0, metavar="N", help="limit of the whole (default 540)")
    parser.add_argument("--parts", metavar="A,B", help=f"these of {', '.join(SHARES)}")
    parser.add_argument("--cpu", action="store_true", help="try the script itself, on the CPU")
    parser.add_argument("--look", choices=_LOOKS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    asked = options.parts.split(",") if options.parts else list(SHARES)
    wanted = [name for name in SHARES if name in (*asked, "environment")]
    unknown = sorted(set(asked) - set(SHARES))
    if unknown:
        parser.error(f"unknown part {unknown[0]!r}; there are {', '.join(SHARES)}")
    if not options.seconds > 0:
        parser.error(f"--seconds {options.seconds:g} is not possible; give a number above 0")
    try:
        metadata.version("apo-bench")
    except metadata.PackageNotFoundError:
        print(_NOT_INSTALLED, file=sys.stderr)
        return 2
    sys.path.insert(0, str(ROOT))  # this checkout, even where another one is installed
    setting = Setting(options.output.absolute(), options.cpu)
    try:
        setting.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"cannot write to {options.output} ({error.strerror}); name another folder with --output")
    if options.look:
        return look(options.look, setting)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the part in flight is killed too
    try:
        return Acceptance(setting, wanted, options.seconds).run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
