"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), read by torchvision, which checks every file's MD5 before it unpickles it.

The last 5,000 training images validate; 45,000 train. Published results usually train on all 50,000.
"""

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from apo_bench.data.examples import Batch, Dataset, Examples, Splits
from apo_bench.data.images import channel_moments, verified_md5s
from apo_bench.data.location import data_folder
from apo_bench.errors import DataError

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

_VALIDATION = 5_000


def _class(name: str) -> "type[CIFAR10]":
    from torchvision import datasets  # 0.5 s

    classes: dict[str, type[CIFAR10]] = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}
    return classes[name]


def _how_to_fix(name: str) -> str:
    cls = _class(name)
    return (
        f"run `apo-bench data fetch {name}`, or unpack {cls.filename} so that {data_folder() / cls.base_folder} exists "
        "($APO_BENCH_DATA names another folder)"
    )


def load(name: str) -> Splits:
    """Read the splits: images ``(n, 3, 32, 32)`` float32, standardized by channel over the training images.

    Raises:
        DataError: The files are missing or their checksums do not hold.
    """
    digest(name)
    root = _root(name, data_folder())
    train, test = (_class(name)(str(root), train=part) for part in (True, False))
    images = np.moveaxis(train.data, 3, 1)
    mean, std = channel_moments(images[:-_VALIDATION])
    labels = np.asarray(train.targets)
    return Splits(
        train=_examples(images[:-_VALIDATION], labels[:-_VALIDATION], mean, std),
        validation=_examples(images[-_VALIDATION:], labels[-_VALIDATION:], mean, std),
        test=_examples(np.moveaxis(test.data, 3, 1), np.asarray(test.targets), mean, std),
    )


def digest(name: str) -> str:
    """Check every file and return a hash of their checksums.

    Raises:
        DataError: A file is missing or its checksum does not hold.
    """
    return _digest(name, data_folder())


@functools.cache
def _digest(name: str, folder: Path) -> str:
    cls = _class(name)
    expected = [*cls.train_list, *cls.test_list, [cls.meta["filename"], cls.meta["md5"]]]
    base = _root(name, folder) / cls.base_folder
    if not base.is_dir():
        raise DataError(f"{name} is not in {folder}; {_how_to_fix(name)}")
    return verified_md5s(name, [(base / file, md5) for file, md5 in expected], _how_to_fix(name))


def _root(name: str, folder: Path) -> Path:
    """Where the unpacked folder lies: in the data folder, or in a folder of the archive's name that a browser made."""
    cls = _class(name)
    first = f"{cls.base_folder}/{cls.train_list[0][0]}"
    inner = sorted(path.parent.parent for path in folder.glob(f"*/{first}"))
    return inner[0] if inner and not (folder / first).exists() else folder


def fetch(name: str) -> None:
    """Download and unpack into the data folder.

    Raises:
        DataError: The download fails.
    """
    try:
        data_folder().mkdir(parents=True, exist_ok=True)
        _class(name)(str(data_folder()), download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(f"cannot download {_class(name).url} ({error}); {_how_to_fix(name)}") from error
    _digest.cache_clear()


def _examples(images: NDArray[np.uint8], labels: NDArray[np.int64], mean: torch.Tensor, std: torch.Tensor) -> Examples:
    pixels = torch.from_numpy(images.astype(np.float32)).div_(255.0)
    return Examples((pixels.sub_(mean).div_(std),), torch.from_numpy(labels).long())


def _blank(n: int) -> Batch:
    return Batch((torch.zeros(n, 3, 32, 32),), torch.zeros(n, dtype=torch.int64))


def _dataset(name: str) -> Dataset:
    return Dataset(
        name=name,
        load=functools.partial(load, name),
        digest=functools.partial(digest, name),
        fetch=functools.partial(fetch, name),
        sizes=(45_000, _VALIDATION, 10_000),
        blank=_blank,
    )


CIFAR10_DATA = _dataset("cifar10")
CIFAR100_DATA = _dataset("cifar100")
