"""MNIST and Fashion-MNIST on small files in the original format; nothing is unpacked before its checksum holds."""

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from apo_bench.data import mnist
from apo_bench.errors import DataError
from apo_bench.plugins.task import Task
from apo_bench.tasks.images import fashion_mnist_20k_mlp, mnist_mlp
from apo_bench.tasks.reconstruction import (
    fashion_mnist_20k_autoencoder,
    fashion_mnist_autoencoder,
    mnist_autoencoder,
)


def _idx(array: np.ndarray) -> bytes:
    dimensions = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + dimensions + array.tobytes()


class Small:
    """Four small files whose checksums torchvision is told to expect."""

    def __init__(self, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.name, self.folder, self._monkeypatch = name, folder / name, monkeypatch
        self.folder.mkdir()
        source = np.random.default_rng(0)
        self.arrays = [
            source.integers(0, high, shape, dtype=np.uint8)
            for high, shape in ((256, (60, 28, 28)), (10, (60,)), (256, (20, 28, 28)), (10, (20,)))
        ]
        self.files = [self.folder / file for file, _ in mnist._class(name).resources]
        for file, array in zip(self.files, self.arrays, strict=True):
            file.write_bytes(gzip.compress(_idx(array)))
        self.expect()

    def expect(self) -> None:
        """Take the checksums of the files as they are for the right ones."""
        sums = [(file.name, hashlib.md5(file.read_bytes()).hexdigest()) for file in self.files]  # noqa: S324 - torchvision's
        self._monkeypatch.setattr(mnist._class(self.name), "resources", sums)
        mnist._digest.cache_clear()


@pytest.fixture(params=["mnist", "fashion-mnist"])
def small(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    monkeypatch.setenv("APO_BENCH_DATA", str(tmp_path))
    for constant, value in {"_TRAIN": 50, "_VALIDATION": 10, "_TEST": 20}.items():
        monkeypatch.setattr(mnist, constant, value)
    return Small(request.param, tmp_path, monkeypatch)


def test_splits(small: Small) -> None:
    splits = mnist.load(small.name)
    assert [len(split) for split in (splits.train, splits.validation, splits.test)] == [50, 10, 20]
    (images,) = splits.train.inputs
    assert float(images.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(images.std(correction=0)) == pytest.approx(1.0, abs=1e-5)
    raw = torch.from_numpy(small.arrays[0][:50].astype(np.float32)).unsqueeze(1)
    assert torch.corrcoef(torch.stack([images.flatten(), raw.flatten()]))[0, 1] == pytest.approx(1.0, abs=1e-5)
    labels = [split.targets.tolist() for split in (splits.train, splits.validation, splits.test)]
    assert labels == [small.arrays[1][:50].tolist(), small.arrays[1][50:].tolist(), small.arrays[3].tolist()]
    blank, real = mnist.blank(3), splits.train.slice(0, 3)
    assert (blank.inputs[0].shape, blank.inputs[0].dtype) == (real.inputs[0].shape, real.inputs[0].dtype)
    assert (blank.targets.shape, blank.targets.dtype) == (real.targets.shape, real.targets.dtype)


def test_pixels(small: Small) -> None:
    dataset = {"mnist": mnist.MNIST, "fashion-mnist": mnist.FASHION_MNIST}[small.name]
    made = mnist.pixels(small.name, lambda: mnist._images_of(small.name), 50, dataset)
    splits = made.load()
    assert [len(split) for split in (splits.train, splits.validation, splits.test)] == [50, 10, 20]
    assert torch.equal(splits.validation.inputs[0], splits.validation.targets)
    expected = torch.from_numpy(small.arrays[0][50:].reshape(10, 784) / np.float32(255))
    torch.testing.assert_close(splits.validation.targets, expected)
    assert made.digest() == mnist.digest(small.name)


def test_the_digest_changes_with_the_files(small: Small) -> None:
    before = mnist.digest(small.name)
    small.files[3].write_bytes(gzip.compress(_idx(small.arrays[3][::-1].copy())))
    small.expect()
    assert mnist.digest(small.name) != before


def test_a_damaged_file_is_one_line_and_is_not_unpacked(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    small.files[0].write_bytes(b"no images")
    monkeypatch.setattr(gzip, "decompress", lambda _: pytest.fail("unpacked"))
    with pytest.raises(DataError, match=r"is damaged \(its MD5 does not hold\); run `apo-bench data fetch"):
        mnist.load(small.name)


def test_a_missing_file_is_one_line(small: Small) -> None:
    small.files[2].unlink()
    with pytest.raises(DataError, match=rf"is missing; run `apo-bench data fetch {small.name}`"):
        mnist.load(small.name)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: b"\x00\x00\x0d\x03" + content[4:], "starts with 00000d03, expected 00000803"),
        (lambda content: content[:-1], "has 47039 numbers, expected 47040"),
        (lambda content: content + b"x", "has 47041 numbers, expected 47040"),
        (lambda content: content[:7] + b"\x3d" + content[8:], r"has the dimensions \(61, 28, 28\), expected"),
        (lambda content: b"", "starts with , expected"),
    ],
)
def test_files_of_another_format_are_one_line(small: Small, damage: Callable[[bytes], bytes], message: str) -> None:
    small.files[0].write_bytes(gzip.compress(damage(_idx(small.arrays[0]))))
    small.expect()
    with pytest.raises(DataError, match=message) as caught:
        mnist.load(small.name)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_unpacks_to_more_than_it_can_have_is_one_line(small: Small) -> None:
    small.files[0].write_bytes(gzip.compress(_idx(small.arrays[0]) + bytes(2**26)))
    small.expect()
    with pytest.raises(DataError, match=r"unpacks to more than [0-9,]+ bytes"):
        mnist.load(small.name)


@pytest.mark.parametrize("damage", [lambda content: content[:100], lambda _: b"plain text"])
def test_a_file_that_cannot_be_unpacked_is_one_line(small: Small, damage: Callable[[bytes], bytes]) -> None:
    small.files[0].write_bytes(damage(small.files[0].read_bytes()))
    small.expect()
    with pytest.raises(DataError, match="cannot be unpacked"):
        mnist.load(small.name)


def test_a_download_that_fails_is_one_line_with_every_mirror(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    small.files[0].unlink()
    monkeypatch.setattr(mnist._class(small.name), "mirrors", ["http://127.0.0.1:9/a/", "http://127.0.0.1:9/b/"])
    with pytest.raises(DataError, match=r"cannot download http://127\.0\.0\.1:9/a/train.*9/b/train") as caught:
        mnist.fetch(small.name)
    assert len(str(caught.value).splitlines()) == 1


def test_nothing_is_downloaded_where_all_is_there(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist._class(small.name), "mirrors", ["http://127.0.0.1:9/"])
    mnist.fetch(small.name)


@pytest.mark.parametrize(
    "make",
    [mnist_mlp, fashion_mnist_20k_mlp, mnist_autoencoder, fashion_mnist_autoencoder, fashion_mnist_20k_autoencoder],
)
def test_networks_fit_their_data(make: Callable[[], Task]) -> None:
    task = make()
    assert task.dataset.blank is not None
    batch = task.dataset.blank(2)
    assert task.objective.loss(task.model()(*batch.inputs), batch).isfinite()
    assert task.source


def test_files_that_a_browser_has_unpacked_are_told_from_damaged_ones(small: Small) -> None:
    first = small.files[0]
    first.write_bytes(gzip.decompress(first.read_bytes()))
    with pytest.raises(DataError, match="is not compressed: a browser has unpacked it and kept the name; run"):
        mnist.load(small.name)
    first.rename(first.with_suffix(""))
    with pytest.raises(DataError, match="is missing, and train-images-idx3-ubyte lies beside it: a browser has unpack"):
        mnist.load(small.name)
