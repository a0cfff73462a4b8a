"""``apo-bench doctor``: what works here, what does not, and how to fix it."""

import argparse
import dataclasses
import importlib.util
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from apo_bench.cli.options import add_json, add_store
from apo_bench.errors import ApoBenchError, last_line
from apo_bench.say import say, show_json

HELP = "check torch, CUDA, NVML, W&B, data and the store"

State = Literal["ok", "absent", "broken"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_json(parser)
    add_store(parser)


def call(options: argparse.Namespace) -> int:
    """Print one line a check; status 1 when something that is needed does not work."""
    checks = examine(options.store.absolute())  # before a plugin changes the folder
    if options.json:
        show_json([{"name": c.name, "state": c.state, "message": c.message} for c in checks])
    else:
        for check in checks:
            say(f"{check.state:8} {check.name:10} {check.message}")
    return 1 if any(check.state == "broken" for check in checks) else 0


@dataclasses.dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: What was checked.
        state: ``absent`` is something optional that is not there, ``broken`` something needed that does not work.
        message: What was found, and how to fix it.
    """

    name: str
    state: State
    message: str


def examine(store: Path) -> list[Check]:
    """Check everything, each by itself."""
    probes: dict[str, Callable[[], Iterator[Check]]] = {
        "torch": _torch,
        "cuda": _cuda,
        "nvml": _nvml,
        "compiler": _compiler,
        "wandb": _wandb,
        "plugins": _plugins,
        "data": _data,
        "store": lambda: _store(store),
    }
    found: list[Check] = []
    for name, probe in probes.items():
        try:
            found += probe()
        except Exception as error:  # noqa: BLE001 - a check that fails is a finding
            found.append(Check(name, "broken", last_line(error)))
    return found


def _torch() -> Iterator[Check]:
    import torch

    from apo_bench.measure.cores import threads_of_a_run

    identity = torch.eye(2)
    if not torch.equal(identity @ identity, identity):
        yield Check("torch", "broken", f"{torch.__version__} multiplies wrongly; reinstall it")
        return
    threads = threads_of_a_run()
    yield Check("torch", "ok", f"{torch.__version__}, {threads.count} threads ({threads.source})")


def _cuda() -> Iterator[Check]:
    import torch

    if not torch.cuda.is_available():
        yield Check("cuda", "absent", "torch finds no CUDA device; runs use the CPU")
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield Check("cuda", "ok", f"{index}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB")


def _nvml() -> Iterator[Check]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        yield Check("nvml", "absent", f"{error}; memory and energy of the card are not recorded")
        return
    yield Check("nvml", "ok", f"driver {pynvml.nvmlSystemGetDriverVersion()}")
    pynvml.nvmlShutdown()


def _compiler() -> Iterator[Check]:
    path = next((found for found in map(shutil.which, ("g++", "clang++", "c++")) if found), None)
    if path is None:
        yield Check("compiler", "absent", "no C++ compiler; --compile needs one on a CPU")
    else:
        yield Check("compiler", "ok", f"{path} for --compile")


def _wandb() -> Iterator[Check]:
    if importlib.util.find_spec("wandb") is None:
        yield Check("wandb", "absent", "not installed; `pip install wandb` for `apo-bench wandb push`")
        return
    from apo_bench.session.wandb import logged_in

    state = "logged in" if logged_in() else "not logged in, so offline; `wandb login` to change that"
    yield Check("wandb", "ok", state)


def _plugins() -> Iterator[Check]:
    from apo_bench.plugins.registry import optimizers, tasks

    registered = {"tasks": tasks(), "optimizers": optimizers()}
    lines = [line for registry in registered.values() for line in registry.refused]
    for kind, registry in registered.items():
        for name in registry.names():
            try:
                registry[name].task() if kind == "tasks" else registry[name].load()
            except ApoBenchError as error:
                lines.append(str(error))
    for line in dict.fromkeys(lines):  # a list of entry points that cannot be read is none of either kind
        yield Check("plugins", "broken", line)
    if not lines:
        counts = ", ".join(f"{len(registry.names())} {kind}" for kind, registry in registered.items())
        yield Check("plugins", "ok", counts)


def _data() -> Iterator[Check]:
    from apo_bench.plugins.datasets import datasets, what_is_wrong

    for dataset in datasets().values():
        wrong = what_is_wrong(dataset)
        yield Check("data", "ok" if wrong is None else "absent", wrong or dataset.name)


def _store(path: Path) -> Iterator[Check]:
    from apo_bench.store.store import Store

    if not (path / "runs").is_dir():
        yield Check("store", "absent", f"no results at {path} yet")
        return
    store = Store(path, create=True)
    scan = store.scan()
    for found in (*scan.unreadable, *store.in_flight().unreadable):
        state: State = "absent" if found.is_newer else "broken"
        yield Check(
            "store", state, f"{'of a later version' if found.is_newer else 'damaged'}: {found.path} ({found.reason})"
        )
    yield Check("store", "ok", f"{path}: {len(scan.records)} records, writable")
