"""Checkpoints of a run in flight: one safetensors file, nested state as JSON in its header. No pickle.

A checkpoint belongs to one run, one code and one data: it carries an ``identity`` and is ignored under another. It
carries the SHA-256 of the whole file, in which 64 zeros stand for the digest itself: a number that the disk or a copy
changed would make another result, and nobody would know.
"""

import dataclasses
import json
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from apo_bench.files import CHECKPOINT, write_durably
from apo_bench.store.sealed import DIGEST, PLACEHOLDER, DamagedError, check_digest, sealed


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
            NotStorableError: The state holds an object that would not come back as it was.
        """
        tensors: dict[str, Tensor] = {}
        skeleton = json.dumps(_take_apart(state, tensors))
        header = {"identity": self.identity, "state": skeleton, DIGEST: PLACEHOLDER}
        write_durably(self.folder / CHECKPOINT, sealed(safetensors.torch.save(tensors, header)))

    def load(self, remark: Callable[[str], None] = lambda _: None) -> dict[str, Any] | None:
        """Read the checkpoint; `None` when there is none of this identity, or it cannot be read.

        Args:
            remark: Told in a line why the checkpoint that is there is none.
        """
        try:
            return self._read()
        except FileNotFoundError:
            return None
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the file, the run begins again
            line = next(iter(str(error).splitlines()), "") or type(error).__name__
            remark(f"the checkpoint cannot be read ({line[:_SHOWN]}); the run begins again")
            return None

    def _read(self) -> dict[str, Any] | None:
        """What the file holds; `None` under another identity.

        Raises:
            OSError: It is not there, or the disk does not give it.
            Exception: It is damaged.
        """
        path = self.folder / CHECKPOINT
        check_digest(path)
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata()
            if header["identity"] != self.identity:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        state = _put_together(json.loads(header["state"]), tensors)
        if not isinstance(state, dict):
            raise DamagedError("it holds no state")
        return state


class NotStorableError(TypeError):
    """A state holds something that a checkpoint cannot."""


_SHOWN = 300
_DTYPES = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}


def _take_apart(value: Any, tensors: dict[str, Tensor]) -> Any:  # noqa: PLR0911 - a case a kind
    """JSON form of nested state; tensors move to ``tensors``.

    Raises:
        NotStorableError: There is an object in it of a type that would not come back as it was.
    """
    if value is None or type(value) in {bool, int, float, str}:
        return value
    parts = _parts(value)
    if parts is not None:
        kind, inside, *more = parts
        return {kind: [[_take_apart(part, tensors) for part in inside], *more]}
    match value:
        case Tensor():
            return _take_apart_tensor(value, tensors)
        case np.ndarray() | np.generic() if value.dtype.kind in "biufc":
            own = np.array(value, copy=True)
            name = str(len(tensors))
            tensors[name] = torch.from_numpy(own.reshape(-1).view(np.uint8).copy())
            return {"array": [name, own.dtype.str, list(own.shape), isinstance(value, np.generic)]}
        case torch.dtype():
            return {"dtype": str(value)}
        case torch.device():
            return {"device": str(value)}
        case torch.Generator():
            return {"generator": [str(value.device), _take_apart_tensor(value.get_state(), tensors)]}
        case complex():
            return {"complex": [value.real, value.imag]}
        case bytes():
            return {"bytes": value.hex()}
    raise NotStorableError(
        f"a checkpoint holds tensors, arrays, numbers, strings and containers of them, not {type(value).__name__}"
    )


def _parts(value: Any) -> tuple[Any, ...] | None:
    """Name, contents and further facts of a container; `None` for anything else, and for containers with a meaning."""
    if isinstance(value, Mapping):  # also such as OrderedDict: state is looked up by key
        return "mapping", [item for pair in value.items() for item in pair]
    kinds: dict[type, str] = {tuple: "tuple", list: "list", set: "set", frozenset: "frozenset", torch.Size: "size"}
    if type(value) in kinds:
        return kinds[type(value)], value
    return ("deque", value, value.maxlen) if type(value) is deque else None


def _take_apart_tensor(value: Tensor, tensors: dict[str, Tensor]) -> Any:
    if value.layout is not torch.strided or value.is_quantized or value.is_meta:
        raise NotStorableError(f"a checkpoint holds dense tensors, not one of layout {value.layout}")
    kept = value.detach().resolve_conj().resolve_neg().to("cpu", copy=True)
    name = str(len(tensors))
    if kept.is_complex():
        tensors[name] = torch.view_as_real(kept).contiguous()
        return {"complex tensor": [name, list(kept.stride())]}
    tensors[name] = kept.contiguous()
    return {"tensor": [name, list(kept.stride())]}


def _put_together(value: Any, tensors: Mapping[str, Tensor]) -> Any:  # noqa: C901, PLR0911 - a case a kind
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    match kind:
        case "tensor" | "complex tensor":
            name, stride = content
            tensor = torch.view_as_complex(tensors[name]) if kind == "complex tensor" else tensors[name]
            # The order in memory decides how a product rounds, hence whether the run continues to the bit.
            return torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype).copy_(tensor)
        case "array":
            name, dtype, shape, is_scalar = content
            array = tensors[name].numpy().view(np.dtype(dtype)).reshape(shape).copy()
            return array[()] if is_scalar else array
        case "dtype":
            return _DTYPES[content]
        case "device":
            return torch.device(content)
        case "generator":
            device, state = content
            generator = torch.Generator(device)
            generator.set_state(_put_together(state, tensors))
            return generator
        case "complex":
            return complex(*content)
        case "bytes":
            return bytes.fromhex(content)
    parts, *more = content
    inside = [_put_together(part, tensors) for part in parts]
    if kind == "mapping":
        return dict(zip(inside[::2], inside[1::2], strict=True))
    if kind == "deque":
        return deque(inside, *more)
    return {"tuple": tuple, "list": list, "set": set, "frozenset": frozenset, "size": torch.Size}[kind](inside)
