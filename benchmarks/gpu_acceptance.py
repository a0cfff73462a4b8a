"""Accept a CUDA card, or rather this package on it: its GPU tests, a suite, a probe and the card's own readings.

For someone with one card and a fresh clone, in at most 9 minutes:

    pip install -e . pytest pytest-timeout
    python benchmarks/gpu_acceptance.py [--output gpu-acceptance] [--seconds 540] [--parts tests,suite] [--cpu]

Needs neither wandb nor a network. Every part has a limit of its own; one that runs over is killed with all its
processes, and the next begins. ``OUTPUT/acceptance.json`` is written anew after every part, so that a kill leaves what
is known. The exit status is 0 only if everything passed. ``--cpu`` exercises the same parts without a card: GPU tests
then skip, fp16 is emulated, and there is no card to read.
"""

import argparse
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SCHEMA = 1
OPTIMIZERS = ("sgdm", "adam", "kfac", "apo-p")
SHARES = {"doctor": 0.08, "tests": 0.3, "suite": 0.42, "probe": 0.15, "card": 0.05}
"""Parts in their order, with the share of the whole time that each may take."""
_NO_TESTS_RAN = 5
"""Pytest's exit status where everything was deselected."""
_LAST_LINES = 15


@dataclasses.dataclass
class Part:
    """What became of one part.

    Attributes:
        name: One of `SHARES`.
        verdict: ``passed``, ``failed``, ``timed out`` or ``not run``.
        seconds: How long it took.
        status: Exit status of its process; `None` without one.
        said: Its last lines, or why it was not run.
        checks: What was looked at in what it made: passed or not, and the value.
    """

    name: str
    verdict: str = "not run"
    seconds: float = 0.0
    status: int | None = None
    said: str = ""
    checks: dict[str, tuple[bool, Any]] = dataclasses.field(default_factory=dict)

    def settle(self) -> None:
        """Fail where a check did not hold."""
        if self.verdict == "passed" and not all(passed for passed, _ in self.checks.values()):
            self.verdict = "failed"


def run(name: str, command: Iterable[str], limit: float) -> Part:
    """Run a command in a process group of its own, within a limit in seconds."""
    start = time.monotonic()
    environment = {**os.environ, "WANDB_MODE": "disabled"}
    process = subprocess.Popen(  # noqa: S603 - our own commands
        list(command), cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    verdict = "passed"
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        verdict = "timed out"
    if verdict == "passed" and process.returncode != 0:
        verdict = "failed"
    said = "\n".join(output.replace(str(ROOT), ".").splitlines()[-_LAST_LINES:])
    return Part(name, verdict, time.monotonic() - start, process.returncode, said)


class Acceptance:
    """One acceptance.

    Args:
        output: Folder of the store and of ``acceptance.json``.
        device: ``cuda`` or ``cpu``.
        seconds: For all parts together.
    """

    def __init__(self, output: Path, device: str, seconds: float) -> None:
        self.output = output
        self.store = output / "store"
        self.device = device
        self.seconds = seconds
        self.started_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.parts: list[Part] = []

    def all(self, names: Iterable[str]) -> bool:
        """Run the parts; whether all passed."""
        do: dict[str, Callable[[float], Part]] = {
            "doctor": self.doctor,
            "tests": self.tests,
            "suite": self.suite,
            "probe": self.probe,
            "card": self.card,
        }
        start = time.monotonic()
        for name in names:
            left = self.seconds - (time.monotonic() - start)
            part = do[name](min(left, SHARES[name] * self.seconds)) if left > 0 else Part(name, said="no time was left")
            part.settle()
            self.parts.append(part)
            self.write()
            failed = [check for check, (passed, _) in part.checks.items() if not passed]
            print(f"{part.name}: {part.verdict}, {part.seconds:.0f} s{' | ' + '; '.join(failed) if failed else ''}")
            if part.verdict != "passed":
                print("  " + part.said.replace("\n", "\n  "))
        return self.passed

    @property
    def passed(self) -> bool:
        """Whether every part passed."""
        return all(part.verdict == "passed" for part in self.parts)

    def write(self) -> None:
        """Write what is known."""
        import msgspec
        import torch

        from apo_bench.files import write_durably
        from apo_bench.measure.environment import environment

        known = {
            "schema": SCHEMA,
            "started_at": self.started_at,
            "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "device": self.device,
            "passed": self.passed,
            "environment": msgspec.to_builtins(environment(torch.device(self.device))),
            "parts": [dataclasses.asdict(part) for part in self.parts],
        }
        write_durably(self.output / "acceptance.json", json.dumps(known, indent=1, default=str).encode() + b"\n")

    def doctor(self, limit: float) -> Part:
        """What works here."""
        return run("doctor", [*_apo_bench(), "doctor", "--store", str(self.store)], limit)

    def tests(self, limit: float) -> Part:
        """The tests that only a card can pass."""
        missing = [name for name in ("pytest", "pytest_timeout") if find_spec(name) is None]
        if missing:
            return Part("tests", said="pytest is not complete here; pip install pytest pytest-timeout")
        part = run("tests", [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests"], limit)
        if part.status == _NO_TESTS_RAN:
            part.verdict = "failed"
        skipped = "passed" not in part.said.splitlines()[-1] if part.said else True
        if self.device == "cuda":
            part.checks["GPU tests ran"] = (not skipped, part.said.splitlines()[-1] if part.said else "")
        return part

    def suite(self, limit: float) -> Part:
        """A suite at smoke, in both precisions."""
        part = run("suite", [*self._select("run"), "--precisions", "fp32,fp16", "--yes"], limit)
        if part.verdict == "passed":
            from apo_bench.store import Store

            part.checks = check_runs(list(Store(self.store).scan().newest().values()), self.device)
        return part

    def probe(self, limit: float) -> Part:
        """What steps cost: the first network of the suite."""
        few = ["--tasks", "fashion-mnist-20k.lenet", "--processes", "3", "--rounds", "4", "--again"]
        part = run("probe", [*self._select("probe"), "--precisions", "fp32,fp16", *few], limit)
        if part.verdict == "passed":
            from apo_bench.store import Store

            expected = ("fp32", "fp16") if self.device == "cuda" else ("fp32",)
            part.checks = check_probes(Store(self.store).scan().probes, self.device, expected)
        return part

    def card(self, limit: float) -> Part:
        """Read the card, idle and at work."""
        part = run("card", [sys.executable, __file__, "--read-card", self.device], limit)
        if part.verdict == "passed":
            read = json.loads(part.said.splitlines()[-1])
            part.checks = check_card(read, self.device)
        return part

    def _select(self, command: str) -> list[str]:
        return [*_apo_bench(), command, "--suite", "classification", "--scale", "smoke", "--device", self.device,
                "--optimizers", ",".join(OPTIMIZERS), "--store", str(self.store)]  # fmt: skip


def _apo_bench() -> list[str]:
    return [sys.executable, "-m", "apo_bench"]


def check_runs(records: Iterable[Any], device: str) -> dict[str, tuple[bool, Any]]:
    """Hold the records of runs to what a card must yield."""
    runs = list(records)
    costs = [record.cost for record in runs if record.cost]
    bad = [f"{record.spec.title}: {record.outcome}" for record in runs if record.outcome.__class__.__name__ in _BAD]
    cells = {(record.spec.optimizer.name, str(record.spec.precision)) for record in runs}
    wanted = {(name, precision) for name in OPTIMIZERS for precision in ("fp32", "fp16")}
    fp16 = {str(record.precision.backend) for record in runs if record.precision and record.spec.precision == "fp16"}
    found: dict[str, tuple[bool, Any]] = {
        "every cell has a run": (wanted <= cells, sorted(wanted - cells)),
        "no run failed or diverged": (not bad, bad),
        "device": ({str(record.spec.device) for record in runs} == {device}, device),
        "fp16 is native on a card, emulated without": (
            fp16 == {"native" if device == "cuda" else "emulated"},
            sorted(fp16),
        ),
        "peak memory": (all(cost.peak_memory_bytes for cost in costs), [cost.peak_memory_bytes for cost in costs]),
        "phases within the training clock": (
            all(0 < sum(cost.phases.values()) <= 1.01 * cost.train_seconds for cost in costs),
            [round(sum(cost.phases.values()) / cost.train_seconds, 3) for cost in costs],
        ),
        "FLOPs of a step": (all(cost.flops_per_step for cost in costs), [cost.flops_per_step for cost in costs]),
        "bytes by purpose": (all(cost.bytes_by_purpose.get("parameters") for cost in costs), None),
    }
    if device == "cuda":
        reserved = [cost.peak_reserved_bytes for cost in costs]
        energy = [cost.energy_joules for cost in costs]
        found["reserved memory is no less than allocated"] = (
            all(cost.peak_reserved_bytes and cost.peak_reserved_bytes >= cost.peak_memory_bytes for cost in costs),
            reserved,
        )
        found["energy, where the card counts it"] = (all(one is None or one > 0 for one in energy), energy)
        found["driver"] = (all(record.environment and record.environment.driver for record in runs), None)
    return found


_BAD = ("Diverged", "OutOfMemory", "Crashed", "Interrupted")


def check_probes(probes: Iterable[Any], device: str, precisions: Iterable[str]) -> dict[str, tuple[bool, Any]]:
    """Hold the records of probes to what they must cover."""
    from apo_bench.evidence.probes import step_costs

    found: dict[str, tuple[bool, Any]] = {}
    newest = {str(record.spec.precision): record for record in probes if record.spec.device == device}
    for precision in precisions:
        record = newest.get(precision)
        costs = {probed.optimizer.name: cost for probed, cost in step_costs(record)} if record else {}
        found[f"{precision}: all optimizers"] = (set(OPTIMIZERS) <= set(costs), sorted(costs))
        ratios = {name: (cost.ratio, cost.low, cost.high, cost.flags) for name, cost in costs.items()}
        found[f"{precision}: ratios with intervals"] = (all(cost.low is not None for cost in costs.values()), ratios)
    return found


def check_card(read: dict[str, Any], device: str) -> dict[str, tuple[bool, Any]]:
    """Hold a card's readings to what a second of work must show."""
    if device != "cuda":
        return {"no card": (read == {}, read)}
    energy, memory = read["energy_joules"], read["process_memory_bytes"]
    return {
        "driver": (bool(read["driver"]), read["driver"]),
        "energy of a second of work, where it is counted": (energy is None or energy > 1, energy),
        "clock": (read["clock_mhz"] is None or read["clock_mhz"][1] > 0, read["clock_mhz"]),
        "memory by the driver is no less than the allocator's, where it tells": (
            memory is None or memory >= read["allocated_bytes"],
            (memory, read["allocated_bytes"]),
        ),
        "other processes": (True, read["foreign_processes"]),
        "reasons for lowered clocks": (True, read["throttle_reasons"]),
    }


def read_card(device: str) -> dict[str, Any]:
    """Readings of the card around some seconds of matrix products; nothing without one."""
    if device != "cuda":
        return {}
    import torch

    from apo_bench.measure.card import CardUse
    from apo_bench.measure.nvml import open_card

    place = torch.device("cuda", 0)
    matrix = torch.randn(4096, 4096, device=place)
    card = open_card(place)
    use = CardUse(card)
    use.start()
    stop = time.monotonic() + 2.0
    while time.monotonic() < stop:
        for _ in range(10):
            torch.mm(matrix, matrix)
        torch.cuda.synchronize(place)
    use.sample()
    use.finish()
    return {
        "driver": card.driver_version() if card else None,
        "energy_joules": use.energy_joules,
        "clock_mhz": use.clock_mhz,
        "throttle_reasons": use.throttle_reasons,
        "foreign_processes": use.foreign_processes,
        "process_memory_bytes": use.process_memory_bytes,
        "allocated_bytes": torch.cuda.memory_allocated(place),
    }


def main() -> int:
    """Run the parts; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("gpu-acceptance"))
    parser.add_argument("--seconds", type=float, default=540.0)
    parser.add_argument("--parts", default=",".join(SHARES))
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--read-card", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read_card:
        print(json.dumps(read_card(options.read_card)))
        return 0
    names = options.parts.split(",")
    unknown = [name for name in names if name not in SHARES]
    if unknown or options.seconds <= 0:
        print(f"--parts {options.parts} --seconds {options.seconds}: give some of {', '.join(SHARES)}; seconds above 0")
        return 2
    try:
        version("apo-bench")
    except PackageNotFoundError:
        print("apo-bench is not installed, so that its optimizers cannot be found; pip install -e .")
        return 2
    import torch

    device = "cpu" if options.cpu else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        print("torch finds no CUDA device; --cpu exercises the script without one")
        return 2
    output = options.output.resolve()
    shutil.rmtree(output / "store", ignore_errors=True)  # an acceptance is of this card, now
    output.mkdir(parents=True, exist_ok=True)
    acceptance = Acceptance(output, device, options.seconds)
    passed = acceptance.all(names)
    print(f"{'accepted' if passed else 'NOT accepted'}: {options.output}/acceptance.json")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
