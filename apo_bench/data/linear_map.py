"""A linear map of condition number 1e10 and its values at random inputs: t = A x, x ~ N(0, I), without noise.

From a talk by Rahimi and Recht (2017), recalled: x in R^6, t in R^10, 1,000 examples to train with. The singular values
are ours: from 1 to 1e-10, equally spaced in their logarithm.
"""

import functools
import hashlib
import json

import numpy as np
import torch
from numpy.typing import NDArray

from apo_bench.data.examples import Batch, Dataset, Examples, Splits

_INPUTS, _OUTPUTS = 6, 10
_CONDITION = 1e10
_EXAMPLES = 1_000
"""In each split."""
_SEED = 2_017
_VERSION = 1
"""Counts the ways in which the numbers were made from the constants."""


def matrix() -> NDArray[np.float64]:
    """A = U Σ Vᵀ of shape (10, 6), with random orthonormal U and V and Σ from 1 to 1e-10."""
    source = np.random.default_rng([_SEED, 0])
    left, right = (_orthonormal(source.standard_normal((rows, _INPUTS))) for rows in (_OUTPUTS, _INPUTS))
    singular = np.geomspace(1.0, 1.0 / _CONDITION, _INPUTS)
    product: NDArray[np.float64] = (left * singular) @ right.T
    return product


def _orthonormal(gaussian: NDArray[np.float64]) -> NDArray[np.float64]:
    q, r = np.linalg.qr(gaussian)
    return np.asarray(q * np.sign(np.diag(r)))  # QR leaves the signs to the library


def load() -> Splits:
    """Make the splits: inputs ``(1000, 6)`` float32, targets ``(1000, 10)`` float64.

    The targets are A times the inputs as they are after rounding to float32, so that no rounding of the data makes the
    map unlearnable; the loss, with outputs in float32 and targets in float64, is a float64 scalar.
    """
    return Splits(*(_examples(split) for split in (1, 2, 3)))


def _examples(split: int) -> Examples:
    inputs = np.random.default_rng([_SEED, split]).standard_normal((_EXAMPLES, _INPUTS)).astype(np.float32)
    return Examples((torch.from_numpy(inputs),), torch.from_numpy(inputs.astype(np.float64) @ matrix().T))


@functools.cache
def digest() -> str:
    """Hash of the constants from which the numbers are made: there is no file."""
    constants = [_INPUTS, _OUTPUTS, _CONDITION, _EXAMPLES, _SEED, _VERSION]
    return hashlib.sha256(json.dumps(constants).encode()).hexdigest()


def _blank(n: int) -> Batch:
    return Batch((torch.zeros(n, _INPUTS),), torch.zeros(n, _OUTPUTS, dtype=torch.float64))


LINEAR_MAP = Dataset(
    name="linear-map-1e10",
    load=load,
    digest=digest,
    sizes=(_EXAMPLES, _EXAMPLES, _EXAMPLES),
    blank=_blank,
)
