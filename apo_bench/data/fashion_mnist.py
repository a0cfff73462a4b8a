"""Fashion-MNIST-20k, embedded in the package: real images on a machine without a network.

The first 20,000 training images of Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017), of which the last 2,000
validate, and all 10,000 test images. Not Fashion-MNIST: a third of its training set.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from apo_bench.data.checksums import verified_digest
from apo_bench.data.examples import Dataset, Examples, Splits
from apo_bench.data.mnist import blank, pixels

_FOLDER = Path(__file__).parent / "embedded" / "fashion-mnist-20k"
_TRAIN = 18_000
_MEAN, _STD = 0.28560, 0.35331
"""Of the 18,000 training images, pixels in [0, 1]."""


def _images(name: str) -> NDArray[np.uint8]:
    return np.asarray(np.load(_FOLDER / f"{name}.npy", mmap_mode="r", allow_pickle=False))


def _examples(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Examples:
    pixels = torch.from_numpy(images.astype(np.float32)).unsqueeze(1)
    return Examples(
        (pixels.div_(255.0).sub_(_MEAN).div_(_STD),),
        torch.from_numpy(labels.astype(np.int64)),
    )


def load() -> Splits:
    """Read the splits: images ``(n, 1, 28, 28)`` float32, standardized by the training images; labels int64.

    Raises:
        DataError: A file is missing or its checksum does not hold.
    """
    digest()
    images, labels = _images("train-images"), _images("train-labels")
    return Splits(
        train=_examples(images[:_TRAIN], labels[:_TRAIN]),
        validation=_examples(images[_TRAIN:], labels[_TRAIN:]),
        test=_examples(_images("test-images"), _images("test-labels")),
    )


def digest() -> str:
    """Verify the files and return a hash of all of them.

    Raises:
        DataError: A file is missing or its checksum does not hold.
    """
    return verified_digest(_FOLDER)


def _verified_images() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    digest()
    return _images("train-images"), _images("test-images")


FASHION_MNIST_20K = Dataset(
    name="fashion-mnist-20k", load=load, digest=digest, sizes=(_TRAIN, 2_000, 10_000), blank=blank
)
FASHION_MNIST_20K_PIXELS = pixels("fashion-mnist-20k", _verified_images, _TRAIN, FASHION_MNIST_20K)
"""The same images as their own targets."""
