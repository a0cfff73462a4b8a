"""What the loaders of image files share: checksums before anything is read, and the moments of pixels."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from apo_bench.errors import DataError

_IDX = bytes([0, 0, 8])
"""How a file of images or labels begins once it is unpacked."""


def verified_md5s(name: str, files: Sequence[tuple[Path, str]], how_to_fix: str) -> str:
    """Hold every file to its published MD5 and return a hash of all of them.

    Args:
        name: Of the dataset, for the message.
        files: Paths and MD5s in hexadecimal digits.
        how_to_fix: What to do about a file that is missing or damaged.

    Raises:
        DataError: A file is missing or its MD5 does not hold.
    """
    from torchvision.datasets.utils import check_integrity  # 0.5 s

    for path, md5 in files:
        if not check_integrity(str(path), md5):
            raise DataError(f"{name}: {path} is {_state(path)}; {how_to_fix}")
    return hashlib.sha256("".join(md5 for _, md5 in files).encode()).hexdigest()


def _state(path: Path) -> str:
    """What is wrong with a file that is not the one that was published."""
    if not path.exists():
        unpacked = path.with_suffix("")
        beside = f", and {unpacked.name} lies beside it: a browser has unpacked it"
        return f"missing{beside if path.suffix == '.gz' and unpacked.exists() else ''}"
    if path.suffix == ".gz" and path.is_file():
        with path.open("rb") as file:
            if file.read(len(_IDX)) == _IDX:
                return "not compressed: a browser has unpacked it and kept the name"
    return "damaged (its MD5 does not hold)"


def channel_moments(images_NCHW: NDArray[np.uint8]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each channel, pixels in [0, 1], exactly, from histograms.

    Returns:
        Two float32 tensors ``(channels, 1, 1)``, which act on images as they are.
    """
    levels = np.arange(256) / 255.0
    means, deviations = [], []
    for channel in range(images_NCHW.shape[1]):
        weights = np.bincount(images_NCHW[:, channel].ravel(), minlength=256) / images_NCHW[:, channel].size
        means.append(weights @ levels)
        deviations.append(np.sqrt(weights @ (levels - means[-1]) ** 2))
    mean, deviation = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (means, deviations))
    return mean, deviation
