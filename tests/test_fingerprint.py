"""A run is reused only while its code and data are unchanged; other edits do not matter."""

import sys
from pathlib import Path

import pytest

from apo_bench import fingerprint
from apo_bench.fingerprint import source_hash


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
    for cached in (fingerprint.source_hash, fingerprint._root, fingerprint._source):
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
        source_hash.__wrapped__(fingerprint.HARNESS)
    finally:
        fingerprint._source = original
    assert root is not None
    assert "apo_bench.training.precision" in seen
    assert not any("report" in name or "evidence" in name for name in seen)
