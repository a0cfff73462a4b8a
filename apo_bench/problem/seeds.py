"""One generator a purpose, derived by name: adding a purpose never changes the numbers of another.

Neither the optimizer nor the precision enters, so all competitors of a (task, seed) start from the same
weights and see the same batches.
"""

import contextlib
import hashlib
import random
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

import numpy as np
import torch


class Purpose(StrEnum):
    """What randomness is used for."""

    INITIALIZATION = "initialization"
    BATCH_ORDER = "batch-order"
    AUGMENTATION = "augmentation"
    ADDITIONAL_BATCH_ORDER = "additional-batch-order"
    ADDITIONAL_AUGMENTATION = "additional-augmentation"
    NETWORK = "network"
    UPDATE_RULE = "update-rule"


def derive(seed: int, task: str, purpose: str) -> int:
    """Return a 63-bit seed for one purpose of one (task, seed)."""
    digest = hashlib.sha256(f"{task}\0{seed}\0{purpose}".encode()).digest()
    return int.from_bytes(digest[:8]) >> 1


def generator(seed: int, task: str, purpose: Purpose) -> torch.Generator:
    """Return a CPU generator for one purpose of one (task, seed)."""
    return torch.Generator().manual_seed(derive(seed, task, purpose))


def seed_everything(seed: int) -> None:
    """Seed all global generators from which a network may draw: torch's, Python's and NumPy's."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the generator that a model draws from when it says np.random


def random_state(device: torch.device) -> dict[str, Any]:
    """State of the global generators that a network on ``device`` may use: torch's, Python's and NumPy's."""
    state: dict[str, Any] = {
        "cpu": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=True),  # noqa: NPY002
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Take up a saved state of the global generators."""
    torch.set_rng_state(state["cpu"])
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


@contextlib.contextmanager
def preserved_random_state(device: torch.device) -> Iterator[None]:
    """Draw without a trace: afterwards the global generators are as before."""
    before = random_state(device)
    try:
        yield
    finally:
        restore_random_state(before, device)
