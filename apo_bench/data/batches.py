"""Streams of training batches: permutations of the training set, gathered and augmented on the device."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from apo_bench.data.examples import Batch, Examples
from apo_bench.data.transfer import pinned, send

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
"""From images ``(batch, channel, height, width)`` and a CPU generator to images of the same shape."""

_POOL = 32
"""Batches within which sequences are sorted by length."""


class BatchStream:
    """An endless sequence of equally large batches, reshuffled at every pass.

    The examples that do not fill a batch are left out of that pass, others in each, so that every step of every
    run sees the same batch size. All randomness comes from CPU generators: the sequence is the same on every
    device.

    Args:
        examples: The split, on the device where the batches are wanted.
        batch_size: Examples a batch.
        order: Source of the permutations.
        augmentation: Applied to the first input.
        augmentation_source: Source of the augmentation's randomness; needed with `augmentation`.

    Raises:
        ValueError: The split is smaller than a batch.
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        order: torch.Generator,
        augmentation: Augmentation | None = None,
        augmentation_source: torch.Generator | None = None,
    ) -> None:
        if not 0 < batch_size <= len(examples):
            raise ValueError(f"batch size {batch_size} does not fit a split of {len(examples)} examples")
        self._examples = examples
        self._batch_size = batch_size
        self._order = order
        self._augmentation = augmentation
        self._augmentation_source = augmentation_source or torch.Generator()
        self.batches_per_pass = len(examples) // batch_size
        self._position = self.batches_per_pass
        self._permutation = torch.empty(0, dtype=torch.int64)

    def state_dict(self) -> dict[str, Any]:
        """Where in the sequence the stream stands."""
        return {
            "order": self._order.get_state(),
            "augmentation": self._augmentation_source.get_state(),
            "position": self._position,
            "permutation": self._permutation,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved place."""
        self._order.set_state(state["order"])
        self._augmentation_source.set_state(state["augmentation"])
        self._position = state["position"]
        self._permutation = pinned(state["permutation"], self._examples.targets.device)

    def draw(self) -> Batch:
        """Return the next batch."""
        if self._position == self.batches_per_pass:
            arranged = self._arranged(torch.randperm(len(self._examples), generator=self._order))
            self._permutation = pinned(arranged, self._examples.targets.device)
            self._position = 0
        start = self._position * self._batch_size
        self._position += 1
        batch = self._examples.take(self._permutation[start : start + self._batch_size])
        if self._augmentation is None:
            return batch
        first = self._augmentation(batch.inputs[0], self._augmentation_source)
        return Batch((first, *batch.inputs[1:]), batch.targets)

    def _arranged(self, permutation_N: Tensor) -> Tensor:
        """The permutation itself; for sequences its batches hold examples of about the same length, in random order.

        Sorted within pools of some batches only, so that each pass makes other batches.
        """
        lengths_NP = self._examples.lengths_NP
        if lengths_NP is None:
            return permutation_N
        used = self.batches_per_pass * self._batch_size
        longest = lengths_NP.sum(1)
        pools = torch.split(permutation_N[:used], _POOL * self._batch_size)
        arranged = torch.cat([pool[longest[pool].argsort(stable=True)] for pool in pools])
        batches = arranged.view(self.batches_per_pass, self._batch_size)
        return batches[torch.randperm(self.batches_per_pass, generator=self._order)].flatten()


def crop_and_flip(padding: int) -> Augmentation:
    """Random translation by up to ``padding`` pixels (zeros move in) and random horizontal flip, per image.

    The usual augmentation of CIFAR (He et al., 2016, section 4.2, with padding 4).
    """

    def augment(images_BCHW: Tensor, source: torch.Generator) -> Tensor:
        batch, _, height, width = images_BCHW.shape
        device = images_BCHW.device
        draws = send(torch.randint(0, 2 * padding + 1, (2, batch, 1), generator=source), device)
        flip_B1 = send(torch.randint(0, 2, (batch, 1), generator=source), device).to(torch.bool)
        rows_BH = draws[0] + torch.arange(height, device=device)
        across_W = torch.arange(width, device=device)
        columns_BW = draws[1] + torch.where(flip_B1, across_W.flip(0), across_W)
        padded = torch.nn.functional.pad(images_BCHW, (padding,) * 4)
        image_B11 = torch.arange(batch, device=device)[:, None, None]
        return padded[image_B11, :, rows_BH[:, :, None], columns_BW[:, None, :]].permute(0, 3, 1, 2)

    return augment
