"""What a run was made on."""

import functools
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from operator import attrgetter
from pathlib import Path, PurePath

import msgspec
import torch

from apo_bench.measure.nvml import open_card
from apo_bench.records.facts import Environment
from apo_bench.records.spec import Device

_SWITCHES = (
    "backends.fp32_precision",
    "backends.cuda.matmul.fp32_precision",
    "backends.cuda.matmul.allow_fp16_accumulation",
    "backends.cuda.matmul.allow_fp16_reduced_precision_reduction",
    "backends.cuda.matmul.allow_bf16_reduced_precision_reduction",
    "backends.cudnn.enabled",
    "backends.cudnn.benchmark",
    "backends.cudnn.deterministic",
    "backends.cudnn.fp32_precision",
    "backends.cudnn.conv.fp32_precision",
    "backends.cudnn.rnn.fp32_precision",
    "backends.mkldnn.enabled",
    "backends.mkldnn.deterministic",
    "backends.mkldnn.fp32_precision",
    "backends.mkldnn.matmul.fp32_precision",
    "backends.mkldnn.conv.fp32_precision",
    "backends.mkldnn.rnn.fp32_precision",
    "utils.deterministic.fill_uninitialized_memory",
)
"""Attributes of torch. ``allow_tf32`` and `torch.get_float32_matmul_precision` are not among them: they are the older
names of the ``fp32_precision`` switches, and torch raises when the older are read after the newer alone were set."""
_QUESTIONS = (
    "is_deterministic_algorithms_warn_only_enabled",
    "get_default_dtype",
    "get_num_interop_threads",
    "backends.cuda.flash_sdp_enabled",
    "backends.cuda.mem_efficient_sdp_enabled",
    "backends.cuda.math_sdp_enabled",
    "backends.cuda.cudnn_sdp_enabled",
)
"""Functions of torch that tell a switch."""
_PACKAGES = ("numpy", "pytorch-optimizer", "schedulefree")
_ALLOCATOR_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
_PRELOAD = "LD_PRELOAD"
_PREFIXES = (
    "OMP_",
    "MKL_",
    "KMP_",
    "OPENBLAS_",
    "GOMP_",
    "CUDA_",
    "CUBLAS_",
    "CUDNN_",
    "NVIDIA_TF32_OVERRIDE",
    "PYTORCH_",
    "TORCH_",
    "ATEN_",
    _PRELOAD,
)
"""How the names of the recorded environment variables begin; any other may hold a secret and is never read."""
_CONFIDENTIAL = ("TOKEN", "SECRET", "PASSWORD", "CREDENTIAL", "KEY")
"""Parts of a name that tell of a secret, whatever it begins with."""
_A_PATH = "(a path)"


_CHANGES = ("status", "--porcelain")


class Build(msgspec.Struct, frozen=True):
    """Revision of the code, as hexadecimal digits, and whether it was changed since; `None` where it is not known."""

    git_sha: str | None = None
    dirty: bool | None = None


def environment(
    device: torch.device,
    plugins: Iterable[str] = (),
    co_scheduled: int | None = None,
    threads_from: str | None = None,
) -> Environment:
    """Describe this process, its machine and ``device``, as they are now.

    Args:
        device: Where the run was made.
        plugins: Distributions that brought the run's task and optimizer.
        co_scheduled: How many other runs the same command may have in flight meanwhile.
        threads_from: What said how many CPU threads torch has (`apo_bench.measure.cores`).
    """
    code = build()
    cuda = device.type == "cuda"
    card = open_card(device)
    return Environment(
        apo_bench=version("apo-bench"),
        git_sha=code.git_sha,
        dirty=code.dirty,
        python=platform.python_version(),
        torch=str(torch.__version__),
        platform=platform.platform(),
        device_name=device_name(Device(device.type)),
        cpu_count=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        deterministic=torch.are_deterministic_algorithms_enabled(),
        cuda=torch.version.cuda if cuda else None,
        cudnn=torch.backends.cudnn.version() if cuda else None,
        driver=card.driver_version() if card else None,
        allocator=_allocator(os.environ) if cuda else None,
        flags=_flags(),
        variables=_variables(os.environ),
        packages=_packages(plugins),
        co_scheduled=co_scheduled,
        threads_from=threads_from,
    )


def device_name(device: Device) -> str:
    """What records call the present card, or the processor."""
    return torch.cuda.get_device_name() if device is Device.CUDA else _processor()


@functools.cache
def build() -> Build:
    """The code of this process. Asked early, it is what was loaded, whatever is edited while a run goes on."""
    return build_of(Path(__file__).parent.parent)


def build_of(package: Path) -> Build:
    """Revision of a package's code: of the checkout that it lies in, else as it was written into the wheel.

    A checkout tells its own (an editable installation would tell the revision at which it was made); where git cannot
    be asked about it, nothing is known.
    """
    if (package.parent / ".git").exists():
        try:
            revision, changes = (_git(package.parent, *asked) for asked in (("rev-parse", "HEAD"), _CHANGES))
        except (OSError, subprocess.CalledProcessError):
            return Build()
        return Build(git_sha=revision, dirty=bool(changes))
    path = package / "_build.json"
    return msgspec.json.decode(path.read_bytes(), type=Build) if path.exists() else Build()


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # of another repository
    return subprocess.run(command, check=True, capture_output=True, text=True, env=kept).stdout.strip()  # noqa: S603 - git


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _allocator(variables: Mapping[str, str]) -> str:
    """Backend of torch's CUDA allocator, and its settings where the user gave some."""
    settings = [variables[name] for name in _ALLOCATOR_SETTINGS if variables.get(name)]
    return ", ".join([torch.cuda.get_allocator_backend(), *settings])


def _flags() -> dict[str, str]:
    """Switches by their name in torch; one that this version of torch lacks is left out."""
    flags: dict[str, str] = {}
    for name in (*_SWITCHES, *_QUESTIONS):
        try:
            value = attrgetter(name)(torch)
        except AttributeError:
            continue
        flags[name] = str(value() if name in _QUESTIONS else value)
    return flags


def _variables(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that change numbers or speed, without secrets and without anyone's folders.

    A value with a slash is a path or an address: it changes no number and may name a user or a project, so only that it
    is set is recorded. Of preloaded libraries the file names are kept, for these tell which memory allocator or which
    OpenMP is in place of the usual one.
    """
    recorded: dict[str, str] = {}
    for name in sorted(variables):
        if not name.startswith(_PREFIXES) or any(part in name for part in _CONFIDENTIAL):
            continue
        value = variables[name]
        if name == _PRELOAD:
            value = " ".join(PurePath(library).name for library in re.split(r"[\s:]+", value) if library)
        recorded[name] = _A_PATH if "/" in value else value
    return recorded


def _packages(plugins: Iterable[str]) -> dict[str, str]:
    """Versions of the distributions that are installed, by name; nothing is imported."""
    versions: dict[str, str] = {}
    for name in sorted({*_PACKAGES, *plugins} - {"apo-bench"}):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
