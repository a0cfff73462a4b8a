"""One generator a purpose, derived by name: adding a purpose never changes the numbers of another.

Neither the optimizer nor the precision enters, so all competitors of a (task, seed) start from the same
weights and see the same batches.
"""

import hashlib
from collections.abc import Mapping
from enum import StrEnum

import torch
from torch import Tensor


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


def random_state(device: torch.device) -> dict[str, Tensor]:
    """State of torch's global generators that a network on ``device`` uses."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Take up a saved state of torch's global generators."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
