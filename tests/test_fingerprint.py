"""A run is reused only while its code and data are unchanged; other edits do not matter."""

import json
import sys
from pathlib import Path

import pytest

from apo_bench import fingerprint
from apo_bench.fingerprint import source_hash
from apo_bench.registry import optimizers


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
    for cached in (
        fingerprint.source_hash,
        fingerprint._closure,
        fingerprint._root,
        fingerprint._source,
        fingerprint._imports,
        fingerprint._distribution,
        fingerprint._is_edited,
    ):
        cached.cache_clear()


@pytest.mark.parametrize("edited", ["main.py", "inner/__init__.py", "inner/deep.py", "shared.py"])
def test_an_edit_of_anything_imported_changes_the_hash(package: Path, edited: str) -> None:
    before = source_hash("plug.main")
    with (package / edited).open("a", encoding="utf-8") as file:
        file.write("# edited\n")
    _forget()
    assert source_hash("plug.main") != before
    assert "plug" not in sys.modules


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
    fingerprint._source = spy  # type: ignore[assignment]
    try:
        fingerprint._closure.__wrapped__(fingerprint.HARNESS)
    finally:
        fingerprint._source = original
    assert root is not None
    assert "apo_bench.training.precision" in seen
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
    assert own == {"baselines.first_order", "apo_bench"}


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
