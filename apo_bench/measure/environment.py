"""What a run was made on."""

import functools
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from apo_bench.record import Environment


def environment(device: torch.device) -> Environment:
    """Describe this process, its machine and ``device``."""
    build = _build()
    cuda = device.type == "cuda"
    return Environment(
        apo_bench=version("apo-bench"),
        git_sha=build["git_sha"],
        dirty=build["dirty"],
        python=platform.python_version(),
        torch=str(torch.__version__),
        platform=platform.platform(),
        device_name=torch.cuda.get_device_name(device) if cuda else _processor(),
        cpu_count=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        deterministic=torch.are_deterministic_algorithms_enabled(),
        cuda=torch.version.cuda if cuda else None,
        cudnn=torch.backends.cudnn.version() if cuda else None,
    )


@functools.cache
def _build() -> dict[str, object]:
    """Git revision written into the wheel when it was built."""
    path = Path(__file__).parent.parent / "_build.json"
    if not path.exists():
        return {"git_sha": None, "dirty": None}
    built: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return built


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
