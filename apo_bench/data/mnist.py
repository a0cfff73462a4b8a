"""MNIST (LeCun et al., 1998) and Fashion-MNIST (Xiao et al., 2017) from their original four files.

Names, mirrors and MD5s are torchvision's; a file's MD5 is checked before it is unpacked. The last 5,000 training images
validate and 55,000 train. `pixels` makes the same images the targets of an autoencoder.
"""

import functools
import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from apo_bench.data.bounded import TooLargeError, read_at_most
from apo_bench.data.download import download
from apo_bench.data.examples import Batch, Dataset, Examples, Splits
from apo_bench.data.images import channel_moments, verified_md5s
from apo_bench.data.location import data_folder
from apo_bench.errors import DataError

if TYPE_CHECKING:
    from torchvision import datasets

_TRAIN, _VALIDATION, _TEST = 55_000, 5_000, 10_000
_SIDE = 28
_ROOM = 1024
"""Bytes beyond those that a file should have, so that its dimensions are what is said to be wrong."""
_UNSIGNED_BYTES = 0x08
"""Third byte of an IDX file: the type of its numbers. The fourth is the number of dimensions."""


class Raw(NamedTuple):
    """Images ``(n, 28, 28)`` uint8 and labels ``(n,)`` uint8, the validation images at the end of the training's."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.uint8]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.uint8]


def _class(name: str) -> "type[datasets.MNIST]":
    from torchvision import datasets  # 0.5 s

    classes: dict[str, type[datasets.MNIST]] = {"mnist": datasets.MNIST, "fashion-mnist": datasets.FashionMNIST}
    return classes[name]


def raw(name: str) -> Raw:
    """Read the four files as they are.

    Raises:
        DataError: A file is missing, its checksum does not hold, or it is not what it should be.
    """
    digest(name)
    files = [data_folder() / name / file for file, _ in _class(name).resources]
    counts = (_TRAIN + _VALIDATION, _TEST)
    arrays = [
        _idx(file, (counts[place // 2],) if place % 2 else (counts[place // 2], _SIDE, _SIDE), name)
        for place, file in enumerate(files)
    ]
    return Raw(*arrays)


def load(name: str) -> Splits:
    """Read the splits: images ``(n, 1, 28, 28)`` float32, standardized over the training images; labels int64.

    Raises:
        DataError: As `raw`.
    """
    read = raw(name)
    mean, std = channel_moments(read.train_images[:_TRAIN, None])
    inputs = [_in_unit_interval(images).sub_(mean).div_(std) for images in (read.train_images, read.test_images)]
    labels = [torch.from_numpy(part.astype(np.int64)) for part in (read.train_labels, read.test_labels)]
    return Splits(
        train=Examples((inputs[0][:_TRAIN],), labels[0][:_TRAIN]),
        validation=Examples((inputs[0][_TRAIN:],), labels[0][_TRAIN:]),
        test=Examples((inputs[1],), labels[1]),
    )


def digest(name: str) -> str:
    """Check every file and return a hash of their checksums.

    Raises:
        DataError: A file is missing or its checksum does not hold.
    """
    return _digest(name, data_folder())


@functools.cache
def _digest(name: str, folder: Path) -> str:
    files = [(folder / name / file, md5) for file, md5 in _class(name).resources]
    return verified_md5s(name, files, _how_to_fix(name))


def _how_to_fix(name: str) -> str:
    return (
        f"run `apo-bench data fetch {name}`, or put its four original .gz files into {data_folder() / name} "
        "($APO_BENCH_DATA names another folder)"
    )


def fetch(name: str) -> None:
    """Download the files that are missing or damaged into the data folder.

    Raises:
        DataError: The download fails.
    """
    cls = _class(name)
    for file, md5 in cls.resources:
        urls = [f"{mirror}{file}" for mirror in cls.mirrors]
        download(urls, data_folder() / name / file, checksum=f"md5:{md5}")
    _digest.cache_clear()


def _idx(file: Path, shape: tuple[int, ...], name: str) -> NDArray[np.uint8]:
    """Unpack an IDX file: two zero bytes, type, number of dimensions, each in 4 bytes (high one first), numbers."""
    most = 4 + 4 * len(shape) + int(np.prod(shape)) + _ROOM
    try:
        with gzip.open(file) as unpacked:
            content = read_at_most(unpacked, most, file.name)
    except (OSError, EOFError, zlib.error, TooLargeError) as error:
        raise DataError(f"{name}: {file} cannot be unpacked ({error}); {_how_to_fix(name)}") from error
    header = bytes([0, 0, _UNSIGNED_BYTES, len(shape)])
    if content[:4] != header:
        raise DataError(f"{name}: {file} starts with {content[:4].hex()}, expected {header.hex()}; {_how_to_fix(name)}")
    start = 4 + 4 * len(shape)
    found = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4))
    if found != shape:
        raise DataError(f"{name}: {file} has the dimensions {found}, expected {shape}; {_how_to_fix(name)}")
    if len(content) != start + int(np.prod(shape)):
        raise DataError(
            f"{name}: {file} has {len(content) - start} numbers, expected {int(np.prod(shape))}; {_how_to_fix(name)}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _in_unit_interval(images: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(images.astype(np.float32)).unsqueeze(1).div_(255.0)


def pixels(
    name: str,
    read: Callable[[], tuple[NDArray[np.uint8], NDArray[np.uint8]]],
    train: int,
    like: Dataset,
) -> Dataset:
    """Images that are their own targets: inputs and targets ``(n, 784)`` float32 in [0, 1], the same tensor.

    Args:
        name: Of the dataset; that of ``like`` where both are the same files.
        read: Training images, those that validate at their end, and test images, ``(n, 28, 28)`` uint8.
        train: Number of images that train.
        like: The dataset whose files, sizes and download these are.
    """

    def load_pixels() -> Splits:
        images, test = (_in_unit_interval(part).flatten(1) for part in read())
        parts = (images[:train], images[train:], test)
        return Splits(*(Examples((part,), part) for part in parts))

    def blank(n: int) -> Batch:
        return Batch((torch.zeros(n, _SIDE * _SIDE),), torch.zeros(n, _SIDE * _SIDE))

    return Dataset(name=name, load=load_pixels, digest=like.digest, fetch=like.fetch, sizes=like.sizes, blank=blank)


def blank(n: int) -> Batch:
    """Images and labels, all zero."""
    return Batch((torch.zeros(n, 1, _SIDE, _SIDE),), torch.zeros(n, dtype=torch.int64))


def _dataset(name: str) -> Dataset:
    return Dataset(
        name=name,
        load=functools.partial(load, name),
        digest=functools.partial(digest, name),
        fetch=functools.partial(fetch, name),
        sizes=(_TRAIN, _VALIDATION, _TEST),
        blank=blank,
    )


def _images_of(name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    read = raw(name)
    return read.train_images, read.test_images


MNIST = _dataset("mnist")
FASHION_MNIST = _dataset("fashion-mnist")
MNIST_PIXELS, FASHION_MNIST_PIXELS = (
    pixels(dataset.name, functools.partial(_images_of, dataset.name), _TRAIN, dataset)
    for dataset in (MNIST, FASHION_MNIST)
)
