"""A run is reused only while its code and data are unchanged; other edits do not matter."""

import json
import sys
from pathlib import Path

import pytest

from apo_bench.planning import fingerprint
from apo_bench.planning.fingerprint import source_hash
from apo_bench.plugins.registry import optimizers


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "plug"
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").write_text("", encoding="utf-8")
    (folder / "inner" / "__init__.py").write_text("from .deep import x\n", encoding="utf-8")
    (folder / "inner" / "deep.py").write_text("import torch\nfrom ..shared import y\nx = 1\n", encoding="utf-8")
    (folder / "shared.py").write_text("y = 1\n", encoding="utf-8")
    (folder / "main.py").write_text("from plug import inner\nimport plug.shared\n", encoding="utf-8")
    (folder / "unrelated.py").write_text("z = 1\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    _forget()
    return folder


def _forget() -> None:
    for value in vars(fingerprint).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()


def _hash(package: Path, **files: str) -> str:
    """Hash of ``plug.main`` once these modules have these sources."""
    for name, source in files.items():
        path = package.joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(source, encoding="utf-8")
    _forget()
    return source_hash("plug.main")


@pytest.mark.parametrize("edited", ["main.py", "inner/__init__.py", "inner/deep.py", "shared.py"])
def test_an_edit_of_anything_imported_changes_the_hash(package: Path, edited: str) -> None:
    before = source_hash("plug.main")
    with (package / edited).open("a", encoding="utf-8") as file:
        file.write("edited = 1\n")
    _forget()
    assert source_hash("plug.main") != before
    assert "plug" not in sys.modules


_RULE = """
from plug.shared import y

RATE = 0.1


class Rule:
    def step(self, rate: float = 0.5) -> float:
        return rate * RATE * y
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("RATE = 0.1", "RATE = 0.2"),
        ("RATE = 0.1", "RATE = '0.1'"),
        ("RATE = 0.1", "RATE = None"),
        ("RATE = 0.1", "RATE = 0.1\nimport os"),
        ("rate: float = 0.5", "rate: float = 0.25"),
        ("return rate * RATE * y", "return rate + RATE * y"),
        ("return rate", "return - rate"),
        ("class Rule:", "class Rule(dict):"),
        ("    def step", "    @staticmethod\n    def step"),
        ("import y", "import x as y"),
    ],
)
def test_a_change_of_behaviour_changes_the_hash(package: Path, old: str, new: str) -> None:
    before = _hash(package, main=_RULE)
    assert old in _RULE
    assert _hash(package, main=_RULE.replace(old, new)) != before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("RATE = 0.1", "RATE = 0.1  # a comment"),
        ("RATE = 0.1", "RATE = (0.1)"),
        ("RATE = 0.1", 'RATE = 0.1\n"""What the constant is."""'),
        ("class Rule:", 'class Rule:\n    """What it does."""\n'),
        (
            "    def step(self, rate: float = 0.5) -> float:",
            "    def step(\n        self, rate: float = .5\n    ) -> float:",
        ),
        ("float:\n", 'float:\n        """What it returns."""\n'),
        ("\nfrom plug", '"""What the module is."""\nfrom plug'),
        ("from plug.shared import y", "from .shared import y"),
    ],
)
def test_words_and_layout_do_not(package: Path, old: str, new: str) -> None:
    before = _hash(package, main=_RULE)
    assert old in _RULE
    assert _hash(package, main=_RULE.replace(old, new)) == before


def test_what_only_a_type_checker_imports_does_not(package: Path) -> None:
    source = "from typing import TYPE_CHECKING\n"
    before = _hash(package, main=source)
    assert _hash(package, main=f"{source}if TYPE_CHECKING:\n    from plug.unrelated import z\n") == before


def test_a_module_that_moves_or_gets_another_name_keeps_the_hash(package: Path) -> None:
    before = _hash(package, main=_RULE)
    (package / "shared.py").unlink()
    moved = _RULE.replace("plug.shared", "plug.deep.elsewhere")
    assert _hash(package, **{"deep.elsewhere": "y = 1\n", "main": moved}) == before
    assert _hash(package, **{"deep.elsewhere": "y = 2\n"}) != before


def test_the_module_that_is_hashed_may_move_itself(package: Path) -> None:
    before = _hash(package, main=_RULE)
    _hash(package, other=_RULE)
    assert source_hash("plug.other") == before


def test_the_same_name_from_another_module_changes_the_hash(package: Path) -> None:
    """Both modules are read either way; which of their names is meant decides."""
    both = "import plug.one, plug.two\nfrom plug.{} import build\n"
    before = _hash(package, one="build = 1\n", two="build = 2\n", main=both.format("one"))
    assert _hash(package, main=both.format("two")) != before


def test_a_name_that_a_package_passes_on_counts_where_it_is_defined(package: Path) -> None:
    before = _hash(package, main="from plug.inner import x\n")
    assert _hash(package, main="from plug.inner.deep import x\n") == before


def test_a_module_that_is_imported_by_the_name_in_a_string_is_read(package: Path) -> None:
    source = "import importlib\nimportlib.import_module('plug.unrelated')\n"
    before = _hash(package, main=source)
    assert _hash(package, unrelated="z = 2\n") != before
    assert _hash(package, elsewhere="z = 1\n", main=source.replace("unrelated", "elsewhere")) == before


def test_modules_that_import_each_other_have_a_hash(package: Path) -> None:
    one, two = "from plug.two import b\na = 1\n", "from plug.one import a\nb = 1\n"
    before = _hash(package, one=one, two=two, main="import plug.one\n")
    assert _hash(package, two=two.replace("1", "2")) != before


def test_another_attribute_of_a_module_is_another_optimizer(package: Path) -> None:
    _hash(package, main="def one(): ...\ndef two(): ...\n")
    assert source_hash("plug.main", "one") != source_hash("plug.main", "two")


def test_nobody_depends_on_what_else_our_packages_bring_together() -> None:
    """KFAC does not run again because APO has changed, nor anybody because the package has one more public name."""
    _forget()
    own = fingerprint._closure("baselines.kfac", fingerprint.HARNESS)
    assert "apo_bench.optim.layers" in own
    assert "apo_bench.optim.apo_p" not in own
    assert "apo_bench" not in own


def test_the_hash_is_the_same_for_every_version_of_python(package: Path) -> None:
    """Version 3.12 has more fields in a function, and an empty string in some formatted ones."""
    source = "def f(x, *, w=8):\n    return f'{x:{w}} {x!r:>{w}}'\n"
    assert _hash(package, main=source) == "c08c14e703c2401b"


def test_an_edit_elsewhere_does_not(package: Path) -> None:
    before = source_hash("plug.main")
    (package / "unrelated.py").write_text("z = 2\n", encoding="utf-8")
    _forget()
    assert source_hash("plug.main") == before


def test_the_harness_depends_on_training_and_not_on_reports() -> None:
    _forget()
    root = fingerprint._root("apo_bench")
    seen: list[str] = []

    def spy(module: str) -> Path | None:
        seen.append(module)
        return original(module)

    original = fingerprint._source
    fingerprint._source = spy  # type: ignore[assignment] # a spy in its place
    try:
        fingerprint._closure.__wrapped__(fingerprint.HARNESS)
    finally:
        fingerprint._source = original
    assert root is not None
    assert "apo_bench.problem.precision" in seen
    assert not any("report" in name or "evidence" in name for name in seen)


def test_code_of_this_package_that_a_plugin_alone_uses_is_in_its_hash(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "apo_bench.optim.layers" in fingerprint._closure("baselines.kfac")
    assert "apo_bench.optim.layers" not in fingerprint._closure(fingerprint.HARNESS)
    before = source_hash("baselines.kfac", beside=fingerprint.HARNESS)
    changed = dict(fingerprint._closure("baselines.kfac")) | {"apo_bench.optim.layers": "edited"}
    original = fingerprint._closure
    monkeypatch.setattr(
        fingerprint,
        "_closure",
        lambda name, beside=None: changed if name == "baselines.kfac" else original(name, beside),
    )
    fingerprint.source_hash.cache_clear()
    assert source_hash("baselines.kfac", beside=fingerprint.HARNESS) != before


def test_what_the_harness_is_made_of_is_not_counted_twice() -> None:
    _forget()
    own = fingerprint._closure("baselines.first_order").keys() - fingerprint._closure(fingerprint.HARNESS).keys()
    assert own == {"baselines.first_order", "baselines"}


def _install(folder: Path, name: str, source: str, version: str, **direct_url: object) -> None:
    module = folder / f"{name}.py"
    module.write_text(source, encoding="utf-8")
    metadata = folder / f"{name}-0.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    if direct_url:
        (metadata / "direct_url.json").write_text(json.dumps(direct_url), encoding="utf-8")
    _forget()


def _adapter(package: Path) -> str:
    (package / "main.py").write_text("def build():\n    import someones_library\n", encoding="utf-8")
    _forget()
    return source_hash("plug.main", beside=fingerprint.HARNESS)


def test_another_version_of_a_library_changes_the_hash_and_an_edit_of_it_does_not(package: Path) -> None:
    folder = package.parent
    _install(folder, "someones_library", "x = 1\n", "1.0")
    before = _adapter(package)
    _install(folder, "someones_library", "x = 2\n", "1.0")
    assert _adapter(package) == before
    _install(folder, "someones_library", "x = 2\n", "1.1")
    assert _adapter(package) != before


def test_an_edit_of_a_library_that_is_installed_to_be_edited_changes_the_hash(package: Path) -> None:
    folder = package.parent
    _install(folder, "someones_library", "x = 1\n", "1.0", url="file:///x", dir_info={"editable": True})
    before = _adapter(package)
    _install(folder, "someones_library", "x = 2\n", "1.0", url="file:///x", dir_info={"editable": True})
    assert _adapter(package) != before


def test_a_package_without_init_is_read_too(package: Path) -> None:
    folder = package.parent / "bare"
    folder.mkdir()
    (folder / "optimizer.py").write_text("x = 1\n", encoding="utf-8")
    _forget()
    before = source_hash("bare.optimizer")
    (folder / "optimizer.py").write_text("x = 2\n", encoding="utf-8")
    _forget()
    assert source_hash("bare.optimizer") != before


@pytest.mark.parametrize(
    ("optimizer", "library"), [("soap", "pytorch-optimizer"), ("schedule-free-adamw", "schedulefree")]
)
def test_our_adapters_depend_on_their_libraries(optimizer: str, library: str) -> None:
    _forget()
    parts = fingerprint._closure(optimizers()[optimizer].module)
    assert any(part.replace("_", "-").startswith(f"{library}==") for part in parts)


def test_a_module_that_no_distribution_owns_is_read(package: Path) -> None:
    """So are ours where this package is installed to be edited, and a plugin builds on one of them."""
    (package.parent / "someones_library.py").write_text("x = 1\n", encoding="utf-8")
    before = _adapter(package)
    (package.parent / "someones_library.py").write_text("x = 2\n", encoding="utf-8")
    assert _adapter(package) != before
