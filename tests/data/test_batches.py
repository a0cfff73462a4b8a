"""Embedded data, checksums, batch streams, augmentation."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from apo_bench.data import fashion_mnist
from apo_bench.data.batches import BatchStream, crop_and_flip
from apo_bench.data.checksums import verified_digest
from apo_bench.data.examples import Batch, Dataset, Examples
from apo_bench.data.fashion_mnist import FASHION_MNIST_20K, FASHION_MNIST_20K_PIXELS
from apo_bench.data.linear_map import LINEAR_MAP
from apo_bench.data.regression import CONCRETE, MEATS
from apo_bench.errors import DataError
from apo_bench.tasks.reconstruction import fashion_mnist_20k_autoencoder


def test_fashion_mnist_20k() -> None:
    splits = fashion_mnist.load()
    assert [len(split) for split in (splits.train, splits.validation, splits.test)] == [18_000, 2_000, 10_000]
    (images,) = splits.train.inputs
    assert images.shape == (18_000, 1, 28, 28)
    assert float(images.mean()) == pytest.approx(0.0, abs=1e-3)
    assert float(images.std()) == pytest.approx(1.0, abs=1e-3)
    assert splits.test.targets.bincount().tolist() == [1000] * 10


def test_validation_is_the_end_of_the_training_file() -> None:
    splits = fashion_mnist.load()
    raw = np.load(fashion_mnist._FOLDER / "train-labels.npy")
    assert splits.train.targets.tolist() + splits.validation.targets.tolist() == raw.tolist()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(fashion_mnist._FOLDER, tmp_path / "data")


def test_the_digest_stands_for_the_contents(folder: Path) -> None:
    assert verified_digest(folder) == hashlib.sha256((folder / "SHA256SUMS").read_bytes()).hexdigest()


def test_a_damaged_file_is_one_line(folder: Path) -> None:
    with (folder / "test-labels.npy").open("r+b") as file:
        file.seek(500)
        file.write(b"\xff")
    with pytest.raises(DataError, match=r"test-labels.npy is damaged .*; reinstall"):
        verified_digest(folder)


def test_a_missing_file_is_one_line(folder: Path) -> None:
    (folder / "test-labels.npy").unlink()
    with pytest.raises(DataError, match=r"test-labels.npy cannot be read .*; reinstall"):
        verified_digest(folder)


EMBEDDED = [FASHION_MNIST_20K, FASHION_MNIST_20K_PIXELS, CONCRETE, MEATS, LINEAR_MAP]


@pytest.mark.parametrize("dataset", EMBEDDED, ids=lambda dataset: dataset.name)
def test_sizes_and_blank_batches_are_those_of_the_data(dataset: Dataset) -> None:
    splits = dataset.load()
    assert (len(splits.train), len(splits.validation), len(splits.test)) == dataset.sizes
    assert dataset.blank is not None
    blank, real = dataset.blank(3), splits.train.slice(0, 3)
    assert len(blank.inputs) == len(real.inputs)
    for made, read in zip((*blank.inputs, blank.targets), (*real.inputs, real.targets), strict=True):
        assert (made.shape, made.dtype) == (read.shape, read.dtype)
        assert not made.any()


def test_pixels_are_their_own_targets() -> None:
    pixels, images = FASHION_MNIST_20K_PIXELS.load().validation, fashion_mnist.load().validation
    assert torch.equal(pixels.inputs[0], pixels.targets)
    assert (float(pixels.targets.min()), float(pixels.targets.max())) == (0.0, 1.0)
    restored = images.inputs[0].flatten(1) * fashion_mnist._STD + fashion_mnist._MEAN
    torch.testing.assert_close(pixels.targets, restored, rtol=0, atol=1e-5)


def test_the_trivial_predictor_of_the_autoencoder_is_the_mean_image() -> None:
    splits = FASHION_MNIST_20K_PIXELS.load()
    mean, pixels = splits.train.targets.mean(0), splits.validation.targets
    logits = torch.logit(mean).expand_as(pixels)
    task = fashion_mnist_20k_autoencoder()
    assert task.trivial == pytest.approx(float(task.objective.loss(logits, Batch((), pixels))), abs=0.01)


def _stream(seed: int, n: int = 10, batch: int = 3) -> BatchStream:
    numbers = torch.arange(n)
    return BatchStream(Examples((numbers.float(),), numbers), batch, torch.Generator().manual_seed(seed))


def test_a_pass_has_every_example_at_most_once_and_all_batches_are_full() -> None:
    stream = _stream(0)
    passes = [torch.cat([stream.draw().targets for _ in range(3)]) for _ in range(20)]
    assert all(len(set(one.tolist())) == 9 for one in passes)
    left_out = {(set(range(10)) - set(one.tolist())).pop() for one in passes}
    assert len(left_out) > 3
    assert len({tuple(one.tolist()) for one in passes}) == 20


def test_inputs_and_targets_stay_together() -> None:
    stream = _stream(1)
    for _ in range(10):
        batch = stream.draw()
        assert batch.inputs[0].long().tolist() == batch.targets.tolist()


def test_a_batch_larger_than_the_split_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        _stream(0, n=2)


def test_parts_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="disagree"):
        Examples((torch.zeros(3),), torch.zeros(4))


def test_crop_and_flip_equals_the_slow_way() -> None:
    images = torch.randn(16, 3, 8, 8)
    got = crop_and_flip(2)(images, torch.Generator().manual_seed(3))
    source = torch.Generator().manual_seed(3)
    draws = torch.randint(0, 5, (2, 16, 1), generator=source)
    flips = torch.randint(0, 2, (16, 1), generator=source)
    assert 0 < int(flips.sum()) < 16
    for image, new, down, across, flip in zip(images, got, draws[0], draws[1], flips, strict=True):
        padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
        crop = padded[:, int(down) : int(down) + 8, int(across) : int(across) + 8]
        assert torch.equal(new, crop.flip(-1) if flip else crop)
