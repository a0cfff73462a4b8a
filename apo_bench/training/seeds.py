"""One generator a purpose, derived by name: adding a purpose never changes the numbers of another.

Neither the optimizer nor the precision enters, so all competitors of a (task, seed) start from the same
weights and see the same batches.
"""

import hashlib
from enum import StrEnum

import torch


class Purpose(StrEnum):
    """What randomness is used for."""

    INITIALIZATION = "initialization"
    BATCH_ORDER = "batch-order"
    AUGMENTATION = "augmentation"
    ADDITIONAL_BATCH_ORDER = "additional-batch-order"
    ADDITIONAL_AUGMENTATION = "additional-augmentation"
    NETWORK = "network"


def derive(seed: int, task: str, purpose: Purpose) -> int:
    """Return a 63-bit seed for one purpose of one (task, seed)."""
    digest = hashlib.sha256(f"{task}\0{seed}\0{purpose}".encode()).digest()
    return int.from_bytes(digest[:8]) >> 1


def generator(seed: int, task: str, purpose: Purpose) -> torch.Generator:
    """Return a CPU generator for one purpose of one (task, seed)."""
    return torch.Generator().manual_seed(derive(seed, task, purpose))
