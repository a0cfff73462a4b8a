"""The acceptance needs what the page about it installs and nothing else: no other tool of ours, no git, no network."""

import json
import os
import re
import subprocess
from pathlib import Path

import gpu as acceptance
import pytest
from support.fresh import ROOT, fresh_python

FORMER = ROOT / "benchmarks" / "gpu_acceptance.py"
SCRIPT = Path(acceptance.__file__)
_UNREACHABLE = """
import socket, sys

sys.modules["wandb"] = None


def refuse(self, address):
    if self.family != socket.AF_UNIX:
        raise OSError(101, "Network is unreachable")
    return connect(self, address)


connect, socket.socket.connect = socket.socket.connect, refuse
"""
"""Run by every interpreter that starts: `wandb` is absent, and so is the network."""


def accepted(tmp_path: Path, script: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], Path]:
    """What the script does in a fresh environment, and its folder."""
    page = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    (installed,) = re.findall(r"^pip install -e \. (.+?) && python tests/acceptance/gpu\.py$", page, flags=re.MULTILINE)
    python = fresh_python(tmp_path / "env", *installed.split())
    stub, output, home = tmp_path / "stub", tmp_path / "output", tmp_path / "home"
    for folder in (stub, home):
        folder.mkdir()
    (stub / "sitecustomize.py").write_text(_UNREACHABLE, encoding="utf-8")
    done = subprocess.run(
        [python, script, "--cpu", "--output", output, *arguments],
        env={"PATH": str(home), "HOME": str(home), "PYTHONPATH": str(stub), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    return done, output


@pytest.mark.parametrize("script", [SCRIPT, FORMER])
def test_the_tests_of_a_card_are_collected_where_only_the_named_tools_are(tmp_path: Path, script: Path) -> None:
    """None of beartype, curvlinops and pytest-xdist is there; and what pytest was told elsewhere does not matter."""
    done, output = accepted(tmp_path, script, "--parts", "tests")
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads((output / "acceptance.json").read_bytes())
    assert document["verdict"] == "passed as far as asked for"
    assert document["revision"] is None
    (checked,) = (part["checks"] for part in document["parts"] if part["name"] == "tests")
    assert checked[0]["value"]["skipped"] > 100


def test_a_fresh_environment_lacks_what_it_should_lack(tmp_path: Path) -> None:
    python = fresh_python(tmp_path / "env", "pytest", "pytest-timeout")
    names = ("apo_bench", "torch", "pytest", "pytest_timeout", "beartype", "curvlinops", "xdist", "mypy")
    source = f"import importlib.util as u; print(*[name for name in {names} if u.find_spec(name)])"
    printed = subprocess.check_output([python, "-c", source], text=True, env={"HOME": os.devnull}, cwd=tmp_path)
    assert printed.split() == list(names[:4])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_script_passes_on_a_cpu_in_a_fresh_environment_without_wandb(tmp_path: Path) -> None:
    done, output = accepted(tmp_path, FORMER, "--seconds", "800")
    assert done.returncode == 0, done.stdout + done.stderr
    text = (output / "acceptance.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    document = json.loads(text)
    assert document["verdict"] == "passed"
    assert document["environment"]["torch"]
    parts = {part["name"]: part for part in document["parts"]}
    assert list(parts) == list(acceptance.SHARES)
    assert any(line.startswith("absent   wandb") for line in parts["doctor"]["last_lines"])
    assert parts["tests"]["reason"] == "all tests of a card are skipped, as expected without one"
    assert len(parts["records"]["values"]["runs"]) == 8
    assert {run["backend"] for run in parts["records"]["values"]["runs"]} == {"native", "emulated"}
    (probe,) = parts["records"]["values"]["probes"]
    assert set(probe["competitors"]) == set(acceptance.OPTIMIZERS)
    assert parts["card"]["values"]["busy"]["energy_joules"] is None
