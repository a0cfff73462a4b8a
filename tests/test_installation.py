"""What a user gets from the wheel."""

import os
import subprocess
import sys
import time
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path

import pytest

import apo_bench

ROOT = Path(__file__).parents[1]
INSTALLED = pytest.mark.skipif("APO_BENCH_INSTALLED" not in os.environ, reason="only tox runs against the wheel")


@INSTALLED
def test_tests_run_against_the_installed_wheel() -> None:
    assert "site-packages" in Path(apo_bench.__file__).parts


@pytest.mark.parametrize(
    ("folder", "words", "file"),
    [
        ("fashion-mnist-20k", "Copyright © 2017 Zalando SE", "train-images.npy"),
        ("libreoffice-help-de-en", "Mozilla Public License, v. 2.0", "tokenizer.json"),
        ("regression", "Copyright (c) 2023 modeldata authors", "meats.csv"),
    ],
)
def test_embedded_data_come_with_their_notice(folder: str, words: str, file: str) -> None:
    embedded = files("apo_bench") / "data" / "embedded" / folder
    assert words in (embedded / "NOTICE").read_text(encoding="utf-8")
    assert (embedded / file).is_file()


@INSTALLED
def test_the_wheel_holds_the_packages_and_nothing_else() -> None:
    """What lies outside the packages (tests, docs, reports) would be installed beside everybody's modules."""
    installed = distribution("apo-bench").files or []
    tops = {path.parts[0] for path in installed if path.parts[0] not in {"..", "__pycache__"}}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"apo_bench", "baselines"}
    names = {str(path) for path in installed}
    assert "apo_bench/py.typed" in names
    for source in (*(ROOT / "apo_bench").rglob("*.py"), *(ROOT / "baselines").rglob("*.py")):
        assert str(source.relative_to(ROOT)) in names


def test_public_names_are_the_lazy_ones() -> None:
    assert set(apo_bench.__all__) == set(apo_bench._HOME)
    for name in apo_bench.__all__:
        assert getattr(apo_bench, name) is not None


@pytest.mark.parametrize(
    "module",
    [
        "apo_bench",
        "apo_bench.cli.main",
        "apo_bench.store.store",
        "apo_bench.plugins.registry",
        "apo_bench.evidence.leaderboard",
        "apo_bench.render.leaderboard",
        "apo_bench.planning.plan",
        "apo_bench.planning.cost",
        "apo_bench.execution.local",
        "apo_bench.session.run",
    ],
)
def test_reading_side_imports_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit(any(name in sys.modules for name in ('torch', 'pandas', 'wandb')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.timing
@pytest.mark.parametrize("arguments", [["--help"], ["list"]])
def test_answers_within_300_ms(arguments: list[str]) -> None:
    command = [str(Path(sys.executable).with_name("apo-bench")), *arguments]
    times = []
    for _ in range(7):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.3, times
