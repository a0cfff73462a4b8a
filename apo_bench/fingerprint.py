"""Which code a run depends on: hashes of a module's source and of what it imports from its own package.

Found from the source text alone, so that nothing is imported. The result decides whether a finished run is
reused: an edited optimizer runs anew, an edited report does not.
"""

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from apo_bench.record import Fingerprint
from apo_bench.registry import Registered

HARNESS = "apo_bench.training.trainer"


def fingerprint(task: Registered, optimizer: Registered, data: str) -> Fingerprint:
    """Fingerprint of a run of ``optimizer`` on ``task`` whose dataset has the digest ``data``."""
    return Fingerprint(
        harness=source_hash(HARNESS),
        task=source_hash(task.module),
        optimizer=source_hash(optimizer.module),
        torch=_installed("torch"),
        data=data,
    )


@functools.cache
def source_hash(module: str) -> str:
    """Hash the sources of ``module`` and of all modules of its own top-level package that it imports.

    A module without Python source (an extension) counts by its name alone; changing it goes unnoticed.
    """
    sources: dict[str, bytes] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in sources:
            continue
        path = _source(name)
        sources[name] = path.read_bytes() if path else b""
        if path:
            waiting += [found for found in _imports(path, name) if found not in sources and _source(found)]
    digest = hashlib.sha256()
    for name in sorted(sources):
        digest.update(f"{name}\0{hashlib.sha256(sources[name]).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


@functools.cache
def _root(top: str) -> Path | None:
    """Folder that holds the top-level package or module ``top``; finding it imports nothing."""
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        return None
    origin = Path(spec.origin)
    return origin.parent.parent if spec.submodule_search_locations else origin.parent


@functools.cache
def _source(module: str) -> Path | None:
    parts = module.split(".")
    root = _root(parts[0])
    if root is None:
        return None
    base = root.joinpath(*parts)
    for path in (base.with_name(f"{base.name}.py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _imports(path: Path, module: str) -> Iterator[str]:
    """Names of modules that ``module`` may import from its own top-level package."""
    top = module.partition(".")[0]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*parents, *(node.module or "").split(".")]).strip(".")
            found = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in found if name == top or name.startswith(f"{top}."))


def _installed(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"
