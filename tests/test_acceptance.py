"""The GPU acceptance script: its limits, its checks, and the whole of it on a CPU."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from test_leaderboard import record
from test_probe import flat, made_probe

from apo_bench.record import Cost, Diverged, PrecisionBackend, RunRecord
from apo_bench.spec import Precision

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "benchmarks" / "gpu_acceptance.py"


def _script() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_acceptance", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_acceptance"] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


acceptance = _script()


def test_a_part_that_hangs_is_killed_with_its_children() -> None:
    child = "import subprocess,sys;subprocess.run([sys.executable,'-c','import time;time.sleep(60)'])"
    start = time.monotonic()
    part = acceptance.run("suite", [sys.executable, "-c", child], 1.0)
    assert part.verdict == "timed out"
    assert time.monotonic() - start < 20


def test_exit_status_and_last_words_are_kept() -> None:
    part = acceptance.run("suite", [sys.executable, "-c", "print('so it was'); raise SystemExit(3)"], 30.0)
    assert (part.verdict, part.status, part.said) == ("failed", 3, "so it was")


def cells() -> list[RunRecord]:
    """Emulated fp16 and fp32 of all four, as a CPU yields them."""
    made = []
    for name in acceptance.OPTIMIZERS:
        for precision in (Precision.FP32, Precision.FP16):
            backend = PrecisionBackend.EMULATED if precision is Precision.FP16 else PrecisionBackend.NATIVE
            run = record(name, 0, 80.0, precision=precision, backend=backend)
            made.append(
                _with_cost(run, phases={"forward": 1.0}, flops_per_step=1e6, bytes_by_purpose={"parameters": 4})
            )
    return made


def _with_cost(run: RunRecord, **fields: Any) -> RunRecord:
    assert isinstance(run.cost, Cost)
    return msgspec.structs.replace(run, cost=msgspec.structs.replace(run.cost, **fields))


def failing(records: list[RunRecord], device: str = "cpu") -> set[str]:
    return {name for name, (passed, _) in acceptance.check_runs(records, device).items() if not passed}


def test_whole_records_pass_and_each_fault_is_found() -> None:
    whole = cells()
    assert failing(whole) == set()
    assert failing(whole[1:]) == {"every cell has a run"}
    diverged = msgspec.structs.replace(whole[0], outcome=Diverged(step=3, reason="loss"))
    assert failing([diverged, *whole[1:]]) == {"no run failed or diverged"}
    assert failing([_with_cost(whole[0], phases={"forward": 3.0}), *whole[1:]]) == {"phases within the training clock"}
    assert failing([_with_cost(whole[0], flops_per_step=None), *whole[1:]]) == {"FLOPs of a step"}
    assert failing([_with_cost(whole[0], peak_memory_bytes=None), *whole[1:]]) == {"peak memory"}
    on_a_card = failing(whole, "cuda")
    assert {"device", "fp16 is native on a card, emulated without", "driver"} <= on_a_card
    assert "reserved memory is no less than allocated" in on_a_card


def test_a_probe_must_cover_all_optimizers_with_intervals() -> None:
    times = [[4.0] * 2] * 3
    whole = made_probe({name: {"plain": (1.0, times)} for name in acceptance.OPTIMIZERS})
    assert all(passed for passed, _ in acceptance.check_probes([whole], "cpu", ("fp32",)).values())
    assert not acceptance.check_probes([flat()], "cpu", ("fp32",))["fp32: all optimizers"][0]
    assert not acceptance.check_probes([whole], "cpu", ("fp32", "fp16"))["fp16: all optimizers"][0]
    once = made_probe({name: {"plain": (1.0, times[:1])} for name in acceptance.OPTIMIZERS})
    assert not acceptance.check_probes([once], "cpu", ("fp32",))["fp32: ratios with intervals"][0]


def test_a_cards_readings_are_judged() -> None:
    read = {"driver": "1", "energy_joules": 200.0, "clock_mhz": (300, 1900), "throttle_reasons": [],
            "foreign_processes": 0, "process_memory_bytes": 500, "allocated_bytes": 400}  # fmt: skip
    assert all(passed for passed, _ in acceptance.check_card(read, "cuda").values())
    for fault in ({"driver": None}, {"energy_joules": 0.1}, {"process_memory_bytes": 300}):
        assert not all(passed for passed, _ in acceptance.check_card(read | fault, "cuda").values())
    assert acceptance.check_card({}, "cpu") == {"no card": (True, {})}


def test_what_is_known_is_written_after_every_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = acceptance.Acceptance(tmp_path, "cpu", 60.0)
    monkeypatch.setattr(one, "doctor", lambda limit: acceptance.Part("doctor", "passed"))

    def card(limit: float) -> Any:
        assert len(json.loads((tmp_path / "acceptance.json").read_text())["parts"]) == 1
        return acceptance.Part("card", "passed", checks={"no card": (False, 1)})

    monkeypatch.setattr(one, "card", card)
    assert not one.all(["doctor", "card"])
    written = json.loads((tmp_path / "acceptance.json").read_text())
    assert [part["verdict"] for part in written["parts"]] == ["passed", "failed"]
    assert written["passed"] is False
    assert written["environment"]["torch"]


def test_without_a_card_it_says_so() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a card")
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--cpu exercises the script" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_of_it_passes_on_a_cpu_without_wandb(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "wandb.py").write_text("raise ImportError('no wandb here')\n", encoding="utf-8")
    done = subprocess.run(
        [
            sys.executable,
            str(SCRIPT),
            "--cpu",
            "--output",
            str(tmp_path / "out"),
            "--parts",
            "suite,probe,card",
            "--seconds",
            "800",
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(blocked)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads((tmp_path / "out" / "acceptance.json").read_text())
    assert written["passed"] is True
    assert [part["name"] for part in written["parts"]] == ["suite", "probe", "card"]


def _claims_of_cuda(page: str) -> list[str]:
    """Tasks that a page's headings claim to show on a CUDA device, as leaderboards put it."""
    return re.findall(r"^#+ (\S+) on cuda(?:,.*)?$", page, flags=re.MULTILINE)


def _unsupported(page: Path) -> list[str]:
    claims = _claims_of_cuda(page.read_text(encoding="utf-8"))
    runs = page.parent / "runs.csv"
    if not claims:
        return []
    import pandas as pd

    made = pd.read_csv(runs) if runs.is_file() else pd.DataFrame({"task": [], "device": []})
    on_cuda = set(made[made["device"] == "cuda"]["task"])
    return [claim for claim in claims if claim not in on_cuda]


def test_a_gpu_row_is_shown_only_from_records_made_on_cuda(tmp_path: Path) -> None:
    pages = [ROOT / "README.md", *ROOT.glob("reports/**/*.md")]
    assert {str(page): _unsupported(page) for page in pages if _unsupported(page)} == {}
    page = tmp_path / "leaderboard.md"
    page.write_text("## cifar10.lenet on cuda, 5 epochs\n", encoding="utf-8")
    assert _unsupported(page)
    (tmp_path / "runs.csv").write_text("task,device\ncifar10.lenet,cpu\n", encoding="utf-8")
    assert _unsupported(page)
    (tmp_path / "runs.csv").write_text("task,device\ncifar10.lenet,cuda\n", encoding="utf-8")
    assert not _unsupported(page)
