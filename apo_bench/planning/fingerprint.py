"""Which code a run depends on: hashes of what modules do, of what they import, and of library versions.

Found from the source text only, so that nothing is imported. The result decides whether a finished run is reused: an
edited optimizer runs again, an edited report does not.

A module counts by its syntax tree without docstrings, comments and imports of modules that are hashed themselves. Such
an import counts by the name that it binds and by the content of the module that defines it. So an edited constant,
default or line changes the hash. Another layout of files, another module name, a docstring or a comment does not.
"""

import ast
import dataclasses
import functools
import hashlib
import importlib.util
import json
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions, version
from pathlib import Path

from apo_bench.plugins.registry import Registered
from apo_bench.records.run import Fingerprint

HARNESS = "apo_bench.training.trainer"
_OWN = "apo_bench"
"""Its packages compute nothing: what is imported from their ``__init__`` counts where it is defined."""
_VERSION = "=="
_SEPARATE = {"torch"}
"""Packages with a place of their own in a fingerprint."""
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_UNWRITTEN = {"ctx", "kind", "type_comment", "type_ignores"}
"""Fields of syntax trees that say nothing, or nothing new."""


def fingerprint(task: Registered, optimizer: Registered, data: str) -> Fingerprint:
    """Fingerprint of a run of ``optimizer`` on ``task`` whose dataset has the digest ``data``."""
    return Fingerprint(
        harness=source_hash(HARNESS),
        task=source_hash(task.module, task.attribute, beside=HARNESS),
        optimizer=source_hash(optimizer.module, optimizer.attribute, beside=HARNESS),
        torch=_installed("torch"),
        data=data,
    )


@functools.cache
def source_hash(module: str, attribute: str = "", *, beside: str | None = None) -> str:
    """Hash what ``module`` is made of, without what ``beside`` is made of and which is hashed there.

    These are its source and the sources that it imports of its own top-level package, of this one, and of packages that
    are installed to be edited or not installed at all; and, where something stands ``beside`` it, the versions of other
    packages. A module without Python source (an extension) counts by its name only: changing it goes unnoticed.

    Args:
        module: Where to begin.
        attribute: What is used of it; another attribute has another hash.
        beside: The module whose parts are left out.

    Returns:
        16 hexadecimal digits; they do not depend on the version of Python.
    """
    parts = dict(_closure(module, beside))
    for name in _closure(beside) if beside is not None else [name for name in parts if _VERSION in name]:
        if name != module:
            parts.pop(name, None)
    return _digest([attribute, *sorted(content or name for name, content in parts.items() if content != _EMPTY)])[:16]


@functools.cache
def _closure(module: str, beside: str | None = None) -> dict[str, str]:
    """By name of a module the hash of its content; libraries stand by name and version, with no hash.

    Those that ``beside`` imports too stand by name only, all of them where there is none: looking them up takes time.
    """
    followed = frozenset({module.partition(".")[0], _OWN})
    common = None if beside is None else frozenset(name for name in _closure(beside) if name.endswith(_VERSION))
    scope = _Scope(followed, common)
    parts: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in parts or _is_door(name):
            continue
        parts[name] = _content(name, scope)
        waiting += _packages(name)
        if _source(name) is None:
            continue
        waiting += _named_modules(name, scope)
        for found in _imports(name):
            if found.is_checked_only:
                continue
            if scope.holds(found.module):
                waiting += _needed(found, scope)
            elif (library := _library(found.module.partition(".")[0], common)) is not None:
                parts[library] = ""
    return parts


@dataclasses.dataclass(frozen=True)
class _Scope:
    """Which packages count by their source.

    Attributes:
        followed: Top-level packages that do.
        common: Libraries, as `_closure` names them, that do not; without them no other package does.
    """

    followed: frozenset[str]
    common: frozenset[str] | None

    def holds(self, module: str) -> bool:
        """Whether a module counts by its source."""
        top = module.partition(".")[0]
        if top in self.followed:
            return True
        if self.common is None or f"{top}{_VERSION}" in self.common or _is_apart(top):
            return False
        return _root(top) is not None and (_distribution(top) is None or _is_edited(top))


@dataclasses.dataclass(frozen=True)
class _Import:
    """One name that a module imports.

    Attributes:
        module: Absolute name of the module.
        name: What is taken of it; empty for the module itself.
        bound: What it is called afterwards.
        is_checked_only: Whether only a type checker sees it.
    """

    module: str
    name: str
    bound: str
    is_checked_only: bool


def _needed(found: _Import, scope: _Scope) -> Iterator[str]:
    """Modules that an import depends on: the one that is named, and the one that defines what is taken of it."""
    target = _definition(found.module, found.name, scope)
    if not target.name and _is_door(target.module):  # any name of it may be used
        yield from (_definition(one.module, one.name, scope).module for one in _imports(target.module))
    yield target.module
    if _source(found.module) is not None:
        yield found.module


@functools.cache
def _is_door(module: str) -> bool:
    """Whether a module is one of our packages, which only bring names together."""
    path = _source(module) if module.partition(".")[0] == _OWN else None
    return path is not None and path.name == "__init__.py" and (module == _OWN or _only_imports(module))


def _only_imports(module: str) -> bool:
    tree = _tree(module)
    return tree is not None and all(
        isinstance(statement, ast.Import | ast.ImportFrom)
        or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        or (isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__")
        for statement in tree.body
    )


def _definition(module: str, name: str, scope: _Scope) -> _Import:
    """Follow a name through modules that import it themselves, to the one that defines it."""
    seen = set()
    while name and _source(module) is not None and (module, name) not in seen:
        seen.add((module, name))
        again = next((one for one in _imports(module) if one.bound == name and scope.holds(one.module)), None)
        if again is None:
            break
        module, name = again.module, again.name
    return _Import(module, name, name, is_checked_only=False)


def _content(module: str, scope: _Scope) -> str:
    """Hash of what a module does and of what its imported names mean; empty for a module without source.

    A name that is imported counts by the own content of the module that defines it, so that circles end.
    """
    own = _own_content(module, scope)
    meanings = {f"module@{_own_content(name, scope)}" for name in _named_modules(module, scope)}
    for found in _imports(module):
        if scope.holds(found.module) and not found.is_checked_only:
            target = _definition(found.module, found.name, scope)
            meanings.add(f"{found.bound}={target.name}@{_own_content(target.module, scope) or target.module}")
    return _digest([own, *sorted(meanings)]) if meanings else own


@functools.cache
def _own_content(module: str, scope: _Scope) -> str:
    """Hash of a module's syntax tree without what it imports of the scope."""
    tree = _tree(module)
    if tree is None:
        return ""
    written: list[str] = []
    _write(tree, scope, written)
    return _digest(written)


def _write(node: object, scope: _Scope, written: list[str]) -> None:
    """Write what counts of a syntax tree; fields that are empty are left out, as a later Python has more of them."""
    if isinstance(node, ast.AST):
        if isinstance(node, ast.Constant) and _is_module(node.value, scope):
            written.append("module")
            return
        written.append(f"{type(node).__name__}(")
        for name, field in ast.iter_fields(node):
            value = list(_kept(field, scope)) if isinstance(field, list) else field
            if isinstance(node, ast.JoinedStr):  # Python 3.12 ends some of them with an empty string
                value = [part for part in node.values if getattr(part, "value", None) != ""]
            if value is not None and value != [] and name not in _UNWRITTEN:
                written.append(f"{name}=")
                _write(value, scope, written)
        written.append(")")
    elif isinstance(node, list):
        written.append("[")
        for item in node:
            _write(item, scope, written)
            written.append(",")
        written.append("]")
    else:
        written.append(f"{type(node).__name__} {node!r}")


def _kept(items: Iterable[object], scope: _Scope) -> Iterator[object]:
    """What counts of a list of statements: no docstring, no import of the scope, nothing for type checkers only."""
    for item in items:
        match item:
            case ast.Expr(value=ast.Constant(value=str())):
                pass
            case ast.If() if _is_for_checkers(item):
                yield from _kept(item.orelse, scope)
            case ast.Import():
                others = [alias for alias in item.names if not scope.holds(alias.name)]
                if others:
                    yield ast.Import(names=others)
            case ast.ImportFrom() if item.level or scope.holds(item.module or ""):
                pass
            case _:
                yield item


def _is_for_checkers(statement: ast.If) -> bool:
    match statement.test:
        case ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING"):
            return True
    return False


@functools.cache
def _tree(module: str) -> ast.Module | None:
    path = _source(module)
    return None if path is None else ast.parse(path.read_bytes())


@functools.cache
def _nodes(module: str) -> tuple[ast.AST, ...]:
    """Those nodes of a module's syntax tree that imports, or names of modules, may be in."""
    tree = _tree(module)
    if tree is None:
        return ()
    kinds = (ast.Import, ast.ImportFrom, ast.If, ast.Constant)
    return tuple(node for node in ast.walk(tree) if isinstance(node, kinds))


@functools.cache
def _imports(module: str) -> tuple[_Import, ...]:
    """All names that a module imports anywhere in its source, in their order."""
    path = _source(module)
    if path is None:
        return ()
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    nodes = _nodes(module)
    for_checkers = {
        inner
        for node in nodes
        if isinstance(node, ast.If) and _is_for_checkers(node)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found = []
    for node in nodes:
        checked = node in for_checkers
        if isinstance(node, ast.Import):
            found += [_Import(alias.name, "", alias.asname or alias.name, checked) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*parents, *(node.module or "").split(".")]).strip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                is_module = _root(base.partition(".")[0]) is not None and _source(inner) is not None
                where, name = (inner, "") if is_module else (base, alias.name)
                found.append(_Import(where, name, alias.asname or alias.name, checked))
    return tuple(found)


@functools.cache
def _named_modules(module: str, scope: _Scope) -> tuple[str, ...]:
    """Modules of the scope whose names stand in a module's strings: they may be imported by name."""
    constants = (node.value for node in _nodes(module) if isinstance(node, ast.Constant))
    return tuple(dict.fromkeys(str(value) for value in constants if _is_module(value, scope)))


def _is_module(value: object, scope: _Scope) -> bool:
    """Whether a constant is the name of a module of the scope."""
    if not isinstance(value, str) or value.partition(".")[0] not in scope.followed:
        return False
    return _DOTTED.fullmatch(value) is not None and _source(value) is not None


def _packages(module: str) -> Iterable[str]:
    """The packages that a module lies in, whose ``__init__`` is run before it."""
    parts = module.split(".")
    names = (".".join(parts[:length]) for length in range(1, len(parts)))
    return (name for name in names if _source(name) is not None)


def _library(top: str, common: frozenset[str] | None) -> str | None:
    """How a library stands in a closure; `None` for the standard library, and for what is not installed."""
    if _is_apart(top):
        return None
    if common is None or f"{top}{_VERSION}" in common:
        return f"{top}{_VERSION}"
    found = _distribution(top)
    return None if found is None else f"{found.name}{_VERSION}{found.version}"


def _is_apart(top: str) -> bool:
    """Whether a package counts elsewhere: by the version of torch, or with the version of Python."""
    return top in _SEPARATE or top in sys.stdlib_module_names


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode(errors="surrogatepass") + b"\0")
    return digest.hexdigest()


_EMPTY = _digest(["Module(", ")"])  # as `_write` writes it
"""Content of a module that does nothing."""


@functools.cache
def _root(top: str) -> Path | None:
    """Folder that holds the top-level package or module ``top``; finding it imports nothing."""
    spec = importlib.util.find_spec(top) if top else None
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


@functools.cache
def _installed(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"
