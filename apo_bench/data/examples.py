"""Examples as tensors: a split is a value, a dataset is a named way to get its three splits."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Some examples.

    Attributes:
        inputs: What the model is called with, each with the batch as first dimension.
        targets: What the objective compares the outputs with, the batch first.
    """

    inputs: tuple[Tensor, ...]
    targets: Tensor

    @property
    def size(self) -> int:
        """Number of examples."""
        return self.targets.shape[0]


@dataclasses.dataclass(frozen=True)
class Examples:
    """All examples of one split.

    Attributes:
        inputs: As in `Batch`, over the whole split.
        targets: As in `Batch`.
    """

    inputs: tuple[Tensor, ...]
    targets: Tensor

    def __post_init__(self) -> None:
        """Refuse a split whose parts disagree in length."""
        sizes = {tensor.shape[0] for tensor in (*self.inputs, self.targets)}
        if len(sizes) != 1:
            raise ValueError(f"inputs and targets disagree in length: {sorted(sizes)}")

    def __len__(self) -> int:
        return self.targets.shape[0]

    def to(self, device: torch.device) -> "Examples":
        """Return the same examples on ``device``."""
        return Examples(tuple(part.to(device) for part in self.inputs), self.targets.to(device))

    def take(self, index_B: Tensor) -> Batch:
        """Return the examples at ``index_B``, a vector of positions on the same device."""
        return Batch(
            tuple(part.index_select(0, index_B) for part in self.inputs),
            self.targets.index_select(0, index_B),
        )

    def slice(self, start: int, stop: int) -> Batch:
        """Return the examples from ``start`` up to ``stop`` without copying."""
        return Batch(tuple(part[start:stop] for part in self.inputs), self.targets[start:stop])


@dataclasses.dataclass(frozen=True)
class Splits:
    """The three splits; validation is for tuning, targets and curves, test for the reported score alone."""

    train: Examples
    validation: Examples
    test: Examples

    def to(self, device: torch.device) -> "Splits":
        """Return the same splits on ``device``."""
        return Splits(self.train.to(device), self.validation.to(device), self.test.to(device))


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A named dataset.

    Attributes:
        name: As printed in leaderboards.
        load: Reads the splits into CPU memory.
        digest: Cheap hash of the files `load` reads, checked; a finished run is reused only while it is unchanged.
        fetch: Downloads the files; `None` where there is nothing to download.
    """

    name: str
    load: Callable[[], Splits]
    digest: Callable[[], str]
    fetch: Callable[[], None] | None = None
