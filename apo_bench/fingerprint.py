"""Which code a run depends on: hashes of a module's source, of the sources it imports, and of library versions.

Found from the source text alone, so that nothing is imported. The result decides whether a finished run is
reused: an edited optimizer runs anew, an edited report does not.
"""

import ast
import functools
import hashlib
import importlib.util
import json
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions, version
from pathlib import Path

from apo_bench.record import Fingerprint
from apo_bench.registry import Registered

_OWN = "apo_bench"
_VERSION = "=="
_SEPARATE = {"torch"}
"""Packages with a place of their own in a fingerprint."""
HARNESS = "apo_bench.training.trainer"


def fingerprint(task: Registered, optimizer: Registered, data: str) -> Fingerprint:
    """Fingerprint of a run of ``optimizer`` on ``task`` whose dataset has the digest ``data``."""
    return Fingerprint(
        harness=source_hash(HARNESS),
        task=source_hash(task.module, beside=HARNESS),
        optimizer=source_hash(optimizer.module, beside=HARNESS),
        torch=_installed("torch"),
        data=data,
    )


@functools.cache
def source_hash(module: str, beside: str | None = None) -> str:
    """Hash what ``module`` is made of, without what ``beside`` is made of and which is hashed there.

    These are its source and the sources that it imports of its own top-level package, of this one, and of packages that
    are installed to be edited or not installed at all; and, where something stands ``beside`` it, the versions of other
    packages. A module without Python source (an extension) counts by its name alone; changing it goes unnoticed.
    """
    parts = dict(_closure(module, beside))
    for name in _closure(beside) if beside is not None else [name for name in parts if _VERSION in name]:
        if name != module:
            parts.pop(name, None)
    digest = hashlib.sha256()
    for name in sorted(parts):
        digest.update(f"{name}\0{parts[name]}\n".encode())
    return digest.hexdigest()[:16]


@functools.cache
def _closure(module: str, beside: str | None = None) -> dict[str, str]:
    """By name of a module the hash of its source; libraries stand by name and version.

    Those that ``beside`` imports too stand by name alone, all of them where there is none: looking them up takes time.
    """
    followed = {module.partition(".")[0], _OWN}
    common = _closure(beside) if beside is not None else None
    parts: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in parts:
            continue
        path = _source(name)
        parts[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path else ""
        for found in _imports(name) if path else ():
            top = found.partition(".")[0]
            if top in _SEPARATE or top in sys.stdlib_module_names:
                continue
            own = top in followed
            if not own and (common is None or f"{top}{_VERSION}" in common):
                parts[f"{top}{_VERSION}"] = ""
            elif own or _distribution(top) is None or _is_edited(top):
                if found not in parts and _source(found):
                    waiting.append(found)
            elif (library := _distribution(top)) is not None:
                parts[f"{library.name}{_VERSION}{library.version}"] = ""
    return parts


@functools.cache
def _root(top: str) -> Path | None:
    """Folder that holds the top-level package or module ``top``; finding it imports nothing."""
    spec = importlib.util.find_spec(top)
    if spec is None:
        return None
    if spec.submodule_search_locations:  # a package, with or without __init__.py
        return Path(next(iter(spec.submodule_search_locations))).parent
    return Path(spec.origin).parent if spec.origin else None


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


@functools.cache
def _imports(module: str) -> tuple[str, ...]:
    """Names of modules, or of names in them, that ``module`` imports anywhere in its source."""
    path = _source(module)
    if path is None:
        return ()
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    names: dict[str, None] = {}
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names |= dict.fromkeys(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*parents, *(node.module or "").split(".")]).strip(".")
            names |= dict.fromkeys([base, *(f"{base}.{alias.name}" for alias in node.names)])
    return tuple(names)


@functools.cache
def _distribution(top: str) -> Distribution | None:
    """The distribution that brought the top-level package ``top``."""
    try:
        return distribution(top)  # most have the package's name; asking all of them takes half a second
    except PackageNotFoundError:
        names = packages_distributions().get(top)
        return distribution(names[0]) if names else None


@functools.cache
def _is_edited(top: str) -> bool:
    """Whether a package is installed so that its source can be edited, where its version says nothing of it."""
    found = _distribution(top)
    text = found.read_text("direct_url.json") if found else None
    return bool(text and json.loads(text).get("dir_info", {}).get("editable"))


def _installed(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"
