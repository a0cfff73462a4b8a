"""Does everything work on this card? One command for a fresh clone and one CUDA device, within nine minutes.

    python tests/acceptance/gpu.py [--output DIR] [--seconds 540] [--parts run,records] [--cpu]

It needs an installed apo-bench (``pip install -e .``), and pytest with pytest-timeout for the part ``tests``. Each part
is a process group of its own that is killed when it is over its limit; the next part still runs:

===========  =======================================================================================
environment  the machine, as records describe it
doctor       ``apo-bench doctor``
tests        ``pytest -m gpu tests/acceptance``
run          the suite ``classification`` at scale ``smoke``: four optimizers, four networks, fp32 and fp16
probe        ``apo-bench probe`` of the same competitors on LeNet
card         the card through NVML, idle and under a second of matrix products
records      what the records of the runs and of the probes say
===========  =======================================================================================

``DIR/acceptance.json`` holds what is known so far: it is written again after every part. The exit status is 0 only if
every part that was asked for passed, 1 if not, 2 for a usage error. Finished runs in ``DIR/store`` are reused, so that
the same command goes on where a limit stopped it. ``--cpu`` goes through the same parts on the CPU, with LeNet only and
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
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from gpu_machine import look_at_card, look_at_environment, revision
from gpu_records import look_at_records
from gpu_setting import LENET, OPTIMIZERS, PRECISIONS, ROOT, SCHEMA, SHARES, Check, Setting, probed

LAST_LINES = 40
_NO_PYTEST = "pytest or pytest-timeout is missing; pip install pytest pytest-timeout"
_NOT_INSTALLED = (
    "gpu: apo-bench is not installed, and its optimizers and tasks are found through the installed "
    f"distribution; in the checkout: {Path(sys.executable).name} -m pip install -e ."
)


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
            return [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "tests/acceptance"]
        case "run":
            return [*bench, "run", *suite, *tasks, "--precisions", ",".join(PRECISIONS), *where, "--yes"]
        case "probe":
            precisions = ["--precisions", ",".join(probed(setting))]
            counts = ["--processes", "3", "--rounds", "3"]
            return [*bench, "probe", *suite, "--tasks", LENET, *precisions, *where, *counts]
        case _:
            cpu = ["--cpu"] if setting.cpu else []
            return [sys.executable, str(Path(__file__)), "--look", name, "--output", str(setting.output), *cpu]


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
        process = subprocess.Popen(
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
    given = os.environ.items()
    kept = {key: value for key, value in given if key != "APO_BENCH_STORE" and not key.startswith("PYTEST_")}
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
        print(f"gpu: {error}")
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
        parser.error(f"--seconds must be a number above 0 (got {options.seconds:g})")
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
