"""Checkpoints of a run in flight: one safetensors file, nested state as JSON in its header. No pickle.

A checkpoint belongs to one run, one code and one data: it carries an ``identity`` and is ignored under another.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from apo_bench.files import CHECKPOINT, write_durably


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Where and how often a run is saved.

    Attributes:
        folder: Holds the file.
        identity: What the state belongs to.
        every_seconds: Shortest time between two saves.
    """

    folder: Path
    identity: str
    every_seconds: float = 60.0

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint.

        Raises:
            OSError: The disk is full or gone; the old checkpoint stays.
        """
        tensors: dict[str, Tensor] = {}
        skeleton = json.dumps(_take_apart(state, tensors))
        header = {"identity": self.identity, "state": skeleton}
        write_durably(self.folder / CHECKPOINT, safetensors.torch.save(tensors, header))

    def load(self) -> dict[str, Any] | None:
        """Read the checkpoint; `None` when there is none of this identity, or it is damaged."""
        path = self.folder / CHECKPOINT
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                header = file.metadata()
                if header["identity"] != self.identity:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (OSError, KeyError, TypeError, safetensors.SafetensorError):
            return None
        state: dict[str, Any] = _put_together(json.loads(header["state"]), tensors)
        return state


def _take_apart(value: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON form of nested state; tensors move to ``tensors``."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        kept = value.detach().to("cpu", copy=True)
        tensors[name] = kept.contiguous()
        return {"tensor": [name, list(kept.stride())]}
    if isinstance(value, Mapping):
        return {"mapping": [[_take_apart(part, tensors) for part in item] for item in value.items()]}
    if isinstance(value, tuple | list):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_take_apart(part, tensors) for part in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint holds tensors, mappings, sequences and scalars, not {type(value).__name__}")


def _put_together(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, parts),) = value.items()
    if kind == "tensor":
        name, stride = parts
        tensor = tensors[name]
        # The order in memory decides how a product rounds, hence whether the run continues to the bit.
        return torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype).copy_(tensor)
    if kind == "mapping":
        return {_put_together(key, tensors): _put_together(part, tensors) for key, part in parts}
    sequence = [_put_together(part, tensors) for part in parts]
    return tuple(sequence) if kind == "tuple" else sequence
