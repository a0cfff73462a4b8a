"""Examples as tensors: a split is a value, a dataset is a named way to get its three splits."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from apo_bench.data.transfer import send


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
        lengths_NP: For padded sequences, how many positions of the second dimension count, for each example and each
            of its parts, the inputs in their order and then the targets; on the CPU. Batches are cut to their longest
            example, and `BatchStream` puts examples of about the same length together.
    """

    inputs: tuple[Tensor, ...]
    targets: Tensor
    lengths_NP: Tensor | None = None

    def __post_init__(self) -> None:
        """Refuse a split whose parts disagree in length."""
        inputs: object = self.inputs  # what a plugin passes, whatever its type
        if torch.is_tensor(inputs):
            raise ValueError("inputs is a tensor, not a tuple of tensors; write Examples((x,), targets)")
        sizes = {tensor.shape[0] for tensor in (*self.inputs, self.targets)}
        if self.lengths_NP is not None:
            sizes.add(self.lengths_NP.shape[0])
        if len(sizes) != 1:
            raise ValueError(f"inputs and targets disagree in length: {sorted(sizes)}")

    def __len__(self) -> int:
        return self.targets.shape[0]

    def to(self, device: torch.device) -> "Examples":
        """Return the same examples on ``device``."""
        return Examples(tuple(part.to(device) for part in self.inputs), self.targets.to(device), self.lengths_NP)

    def take(self, index_B: Tensor) -> Batch:
        """Return the examples at ``index_B``, a vector of positions on the CPU."""
        there = send(index_B, self.targets.device)
        cut = self._cut(None if self.lengths_NP is None else self.lengths_NP[index_B])
        parts = [part.index_select(0, there) for part in cut]
        return Batch(tuple(parts[:-1]), parts[-1])

    def slice(self, start: int, stop: int) -> Batch:
        """Return the examples from ``start`` up to ``stop`` without copying."""
        cut = self._cut(None if self.lengths_NP is None else self.lengths_NP[start:stop])
        parts = [part[start:stop] for part in cut]
        return Batch(tuple(parts[:-1]), parts[-1])

    def _cut(self, lengths_BP: Tensor | None) -> list[Tensor]:
        """All parts, cut to the longest of the given examples."""
        parts = [*self.inputs, self.targets]
        if lengths_BP is None:
            return parts
        longest: list[int] = lengths_BP.amax(0).tolist()
        return [part[:, :length] for part, length in zip(parts, longest, strict=True)]


@dataclasses.dataclass(frozen=True)
class Splits:
    """The three splits; validation is for tuning, targets and curves, test for the reported score only."""

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
        sizes: Number of training, validation and test examples, where it is known without loading.
        blank: Makes a batch of that many examples in the shapes and formats of the data, without their content: what a
            network costs is counted on it, with no data at hand.
    """

    name: str
    load: Callable[[], Splits]
    digest: Callable[[], str]
    fetch: Callable[[], None] | None = None
    sizes: tuple[int, int, int] | None = None
    blank: Callable[[int], Batch] | None = None
