"""The environment of a record: versions, switches, revision, and no secrets."""

import os
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from support.devices import CPU

from apo_bench.measure import environment as environment_module
from apo_bench.measure.environment import Build, build_of, environment


def test_the_environment_names_versions_and_threads() -> None:
    made = environment(CPU)
    assert made.torch == torch.__version__
    assert made.threads == torch.get_num_threads()
    assert made.device_name
    assert made.cuda is None
    assert (made.driver, made.allocator, made.co_scheduled) == (None, None, None)


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_the_environment_names_switches_as_they_are_now(precision: str) -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = precision
    try:
        flags = environment(CPU).flags
    finally:
        matmul.fp32_precision = before
    assert flags["backends.cuda.matmul.fp32_precision"] == precision
    assert flags["backends.cudnn.deterministic"] == str(torch.backends.cudnn.deterministic)
    assert flags["get_default_dtype"] == "torch.float32"


def test_every_switch_exists_in_this_torch() -> None:
    names = {*environment_module._SWITCHES, *environment_module._QUESTIONS}
    assert set(environment(CPU).flags) == names


def test_the_environment_holds_no_variable_that_may_be_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "OMP_NUM_THREADS": "3",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "NVIDIA_TF32_OVERRIDE": "0",
        "CUDA_HOME": "/home/alice/cuda",
        "LD_PRELOAD": "/home/alice/lib/libtcmalloc.so.4:/opt/libiomp5.so libm.so",
        "AWS_SECRET": "hush",
        "WANDB_API_KEY": "hush",
        "TORCH_HUB_TOKEN": "hush",
        "MY_OMP_NUM_THREADS": "hush",
        "HOME": "/home/alice",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    variables = environment(CPU).variables
    assert {name: variables[name] for name in given if name in variables} == {
        "OMP_NUM_THREADS": "3",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "NVIDIA_TF32_OVERRIDE": "0",
        "CUDA_HOME": "(a path)",
        "LD_PRELOAD": "libtcmalloc.so.4 libiomp5.so libm.so",
    }
    assert all(name.startswith(environment_module._PREFIXES) for name in variables)
    assert "alice" not in str(variables)


def test_the_environment_names_the_packages_a_run_computes_with() -> None:
    packages = environment(CPU, plugins=("apo-bench", "msgspec", "not-installed")).packages
    assert packages == {
        "numpy": version("numpy"),
        "pytorch-optimizer": version("pytorch-optimizer"),
        "schedulefree": version("schedulefree"),
        "msgspec": version("msgspec"),
    }


def test_the_environment_tells_how_many_runs_were_scheduled_beside() -> None:
    assert environment(CPU, co_scheduled=3).co_scheduled == 3


def _checkout(folder: Path) -> tuple[Path, str]:
    """A package in a repository with one commit."""
    package = folder / "package"
    package.mkdir()
    (package / "code.py").write_text("x = 1\n", encoding="utf-8")
    (package / "_build.json").write_text('{"git_sha": "0123", "dirty": true}', encoding="utf-8")
    (folder / ".gitignore").write_text("_build.json\n", encoding="utf-8")

    def git(*arguments: str) -> str:
        who = {f"GIT_{role}_{what}": "a@b" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        who |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        done = subprocess.run(
            ["git", "-C", folder, *arguments],  # noqa: S607 - git is git
            check=True,
            capture_output=True,
            text=True,
            env=kept | who,
        )
        return done.stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    return package, git("rev-parse", "HEAD")


def test_a_checkout_tells_its_own_revision_and_whether_it_was_changed(tmp_path: Path) -> None:
    """An editable installation has a file too, of the revision at which it was made."""
    package, revision = _checkout(tmp_path)
    assert build_of(package) == Build(revision, dirty=False)
    (package / "code.py").write_text("x = 2\n", encoding="utf-8")
    assert build_of(package) == Build(revision, dirty=True)


def test_a_wheel_tells_the_revision_it_was_built_from(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    assert build_of(package) == Build()
    (package / "_build.json").write_text('{"git_sha": "0123", "dirty": true}', encoding="utf-8")
    assert build_of(package) == Build("0123", dirty=True)


def test_a_checkout_of_which_git_tells_nothing_is_not_taken_for_an_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, _ = _checkout(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build_of(package) == Build()
