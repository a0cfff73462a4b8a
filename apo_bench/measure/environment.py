"""What a run was made on."""

import functools
import os
import platform
from importlib.metadata import version
from pathlib import Path

import msgspec
import torch

from apo_bench.record import Environment
from apo_bench.spec import Device


class _Build(msgspec.Struct):
    git_sha: str | None = None
    dirty: bool | None = None


def environment(device: torch.device) -> Environment:
    """Describe this process, its machine and ``device``."""
    build = _build()
    cuda = device.type == "cuda"
    return Environment(
        apo_bench=version("apo-bench"),
        git_sha=build.git_sha,
        dirty=build.dirty,
        python=platform.python_version(),
        torch=str(torch.__version__),
        platform=platform.platform(),
        device_name=device_name(Device(device.type)),
        cpu_count=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        deterministic=torch.are_deterministic_algorithms_enabled(),
        cuda=torch.version.cuda if cuda else None,
        cudnn=torch.backends.cudnn.version() if cuda else None,  # type: ignore[no-untyped-call]
    )


def device_name(device: Device) -> str:
    """What records call the present card, or the processor."""
    return torch.cuda.get_device_name() if device is Device.CUDA else _processor()


@functools.cache
def _build() -> _Build:
    """What was written into the wheel when it was built."""
    path = Path(__file__).parent.parent / "_build.json"
    return msgspec.json.decode(path.read_bytes(), type=_Build) if path.exists() else _Build()


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
