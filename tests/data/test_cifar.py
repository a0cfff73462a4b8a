"""CIFAR through torchvision, on small files in the same format; no pickle is loaded before its checksum holds."""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from apo_bench.data import cifar
from apo_bench.errors import DataError

COARSE = {"cifar10": "labels", "cifar100": "fine_labels"}


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("exploded", "w"))


def _write(path: Path, content: object) -> str:
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()  # noqa: S324 - the checksum that torchvision uses


@pytest.fixture(params=["cifar10", "cifar100"])
def small(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """The same layout with 60 training and 20 test images, whose checksums torchvision is told to expect."""
    name = request.param
    monkeypatch.setenv("APO_BENCH_DATA", str(tmp_path))
    monkeypatch.setattr(cifar, "_VALIDATION", 10)
    monkeypatch.chdir(tmp_path)
    cifar._digest.cache_clear()
    cls = cifar._class(name)
    base = tmp_path / cls.base_folder
    base.mkdir()
    source = np.random.default_rng(0)
    parts = {"train_list": cls.train_list, "test_list": cls.test_list}
    for attribute, files in parts.items():
        rows = 60 // len(files) if attribute == "train_list" else 20
        sums = []
        for file, _ in files:
            images = source.integers(0, 256, (rows, 3072), dtype=np.uint8)
            labels = source.integers(0, 10, rows).tolist()
            sums.append([file, _write(base / file, {"data": images, COARSE[name]: labels})])
        monkeypatch.setattr(cls, attribute, sums)
    meta = dict(cls.meta)
    meta["md5"] = _write(base / meta["filename"], {meta["key"]: [f"class {i}" for i in range(10)]})
    monkeypatch.setattr(cls, "meta", meta)
    return name, base


def test_splits(small: tuple[str, Path]) -> None:
    name, base = small
    splits = cifar.load(name)
    assert [len(split) for split in (splits.train, splits.validation, splits.test)] == [50, 10, 20]
    (images,) = splits.train.inputs
    assert images.shape == (50, 3, 32, 32)
    assert images.dtype == torch.float32
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(images.std((0, 2, 3), correction=0), torch.ones(3), rtol=0, atol=1e-5)
    first = pickle.loads((base / cifar._class(name).train_list[0][0]).read_bytes())  # noqa: S301 - written above
    red = torch.from_numpy(first["data"][0, :1024].astype(np.float32))
    correlation = torch.corrcoef(torch.stack([images[0, 0].flatten(), red]))[0, 1]
    assert correlation.item() == pytest.approx(1.0, abs=1e-5)
    assert splits.train.targets[0].item() == first[COARSE[name]][0]
    blank = cifar._blank(2)
    assert (blank.inputs[0].shape[1:], blank.inputs[0].dtype) == (images.shape[1:], images.dtype)
    assert blank.targets.dtype == splits.train.targets.dtype


def test_the_digest_changes_with_the_expected_checksums(
    small: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, base = small
    before = cifar.digest(name)
    cls = cifar._class(name)
    file = cls.test_list[0][0]
    monkeypatch.setattr(cls, "test_list", [[file, _write(base / file, {"other": 1})]])
    cifar._digest.cache_clear()
    assert cifar.digest(name) != before


def test_a_damaged_file_is_one_line_and_its_pickle_is_not_loaded(small: tuple[str, Path]) -> None:
    name, base = small
    _write(base / cifar._class(name).test_list[0][0], Bomb())
    with pytest.raises(DataError, match=r"is damaged \(its MD5 does not hold\); run `apo-bench data fetch"):
        cifar.load(name)
    assert not Path("exploded").exists()


def test_a_missing_file_is_one_line(small: tuple[str, Path]) -> None:
    name, base = small
    (base / cifar._class(name).train_list[0][0]).unlink()
    with pytest.raises(DataError, match="is missing; run `apo-bench data fetch"):
        cifar.load(name)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_absent_data_are_one_line_with_the_place(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APO_BENCH_DATA", str(tmp_path))
    with pytest.raises(DataError) as caught:
        cifar.load(name)
    (line,) = str(caught.value).splitlines()
    assert f"apo-bench data fetch {name}" in line
    assert str(tmp_path) in line


def test_a_download_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APO_BENCH_DATA", str(tmp_path))
    monkeypatch.setattr(cifar._class("cifar10"), "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    with pytest.raises(
        DataError, match=r"cannot download http://127\.0\.0\.1:9/.*; run `apo-bench data fetch cifar10`, or"
    ):
        cifar.fetch("cifar10")


@pytest.mark.parametrize("around", ["cifar-python", "the same"])
def test_a_folder_that_a_browser_made_around_it_is_looked_into(small: tuple[str, Path], around: str) -> None:
    name, base = small
    images = cifar.load(name).train.inputs[0]
    moved = base.rename(base.with_name("moved"))
    outer = base.with_name(base.name if around == "the same" else around)
    outer.mkdir()
    moved.rename(outer / base.name)
    cifar._digest.cache_clear()
    assert torch.equal(cifar.load(name).train.inputs[0], images)
