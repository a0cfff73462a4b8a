"""The installed command in a folder of its own, with plugins installed for one test."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

COMMAND = str(Path(sys.executable).with_name("apo-bench"))


class Shell:
    """Runs the installed command in a folder of its own, with plugins of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plugins = folder / "site"
        self.plugins.mkdir()
        self._started: list[subprocess.Popen[str]] = []

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a user who has installed the plugins."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("APO_BENCH")}
        return kept | {
            "PYTHONPATH": str(self.plugins),
            "APO_BENCH_DATA": str(self.folder / "data"),
            "COLUMNS": "200",
            "NO_COLOR": "1",
            "WANDB_API_KEY": "",
            "NETRC": str(self.folder / "none"),
        }

    def install(self, name: str, source: str, entry_points: str) -> Path:
        """Install a distribution of one module, as pip would lay it out; returns the module's file."""
        module = self.plugins / f"{name}.py"
        module.write_text(source, encoding="utf-8")
        metadata = self.plugins / f"{name}-1.0.dist-info"
        metadata.mkdir(exist_ok=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
        (metadata / "entry_points.txt").write_text(entry_points, encoding="utf-8")
        return module

    def __call__(self, *arguments: str, status: int = 0, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run ``apo-bench`` and hold it to an exit status."""
        done = subprocess.run(
            [COMMAND, *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
        )
        assert done.returncode == status, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start ``apo-bench`` in a process group of its own and return at once."""
        process = subprocess.Popen(
            [COMMAND, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def stop(self) -> None:
        """Kill what is still running."""
        for process in self._started:
            process.kill()
            process.communicate()


TINY_TASK = '''
import torch
from torch import nn
from apo_bench import Accuracy, CrossEntropy, Dataset, Examples, Splits, Task


def examples(seed, n):
    source = torch.Generator().manual_seed(seed)
    points = torch.randn(n, 8, generator=source)
    return Examples((points,), (points[:, :4].sum(1) > points[:, 4:].sum(1)).long())


def load():
    return Splits(examples(0, 512), examples(1, 200), examples(2, 200))


def tiny():
    """A linearly separable problem."""
    return Task(
        dataset=Dataset("tiny", load, lambda: "tiny-1"),
        model_name="mlp",
        model=lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)),
        objective=CrossEntropy(),
        metric=Accuracy(),
        batch_size=32,
    )
'''


def optimizer_plugin(body: Sequence[str]) -> str:
    """Source of a plugin whose optimizer is SGD with ``body`` executed at each step."""
    indented = "\n".join(f"        {line}" for line in body)
    return f'''
import dataclasses, os, signal, time
import torch
from apo_bench import Competitor, TorchRule, hyperparameter


class Rule(TorchRule):
    steps = 0

    def step(self, batch):
        self.steps += 1
{indented}
        return super().step(batch)


@dataclasses.dataclass(frozen=True)
class Plug:
    """A plugin."""
    lr: float = hyperparameter(0.1)


plug = Competitor(Plug, lambda problem, h: Rule(problem, torch.optim.SGD(problem.parameters, lr=h.lr)))
'''
