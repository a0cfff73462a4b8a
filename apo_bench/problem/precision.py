"""How each precision is realized on a device: storage, autocast, loss scaling, emulation.

=========  =======  ========  ============  =========================================
name       storage  autocast  loss scaling  remarks
=========  =======  ========  ============  =========================================
fp64       float64  no        no            for checks against theory; slow on most GPUs
fp32       float32  no        no            TF32 off
tf32       float32  no        no            TF32 matrix units, CUDA only
bf16       float32  bfloat16  no            master weights in float32
fp16       float32  float16   dynamic       master weights in float32
pure-bf16  bf16     no        no            parameters, gradients and state in 16 bit
pure-fp16  fp16     no        dynamic       parameters, gradients and state in 16 bit
=========  =======  ========  ============  =========================================

Parameters, buffers and inputs have the same format, whatever they come in: real numbers the storage format, complex
numbers the complex format of its width (complex128 for float64, complex64 for float32; none for 16 bit, where a complex
model is refused), integers and booleans their own. In the pure formats the parameters and buffers of normalization
layers are float32.
"""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from apo_bench.errors import UsageError
from apo_bench.problem.emulation import EmulatedProducts
from apo_bench.records.facts import PrecisionBackend, PrecisionFacts
from apo_bench.records.spec import Precision

_REAL = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
_SIXTEEN_BIT = 2
"""Bytes."""
_NORMALIZATIONS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)  # noqa: SLF001 - the public base class of all


@dataclasses.dataclass(frozen=True)
class _Format:
    storage: torch.dtype = torch.float32
    autocast: torch.dtype | None = None
    loss_scaling: bool = False
    tf32: bool = False


_FORMATS = {
    Precision.FP64: _Format(storage=torch.float64),
    Precision.FP32: _Format(),
    Precision.TF32: _Format(tf32=True),
    Precision.BF16: _Format(autocast=torch.bfloat16),
    Precision.FP16: _Format(autocast=torch.float16, loss_scaling=True),
    Precision.PURE_BF16: _Format(storage=torch.bfloat16),
    Precision.PURE_FP16: _Format(storage=torch.float16, loss_scaling=True),
}


class PrecisionPolicy:
    """A precision on a device.

    Args:
        precision: Which.
        device: Where.
        backend: `EMULATED` computes 16-bit products in float32 and rounds. By default native, but on a CPU emulated in
            fp16, and in bf16 where the processor has no instructions for it.

    Raises:
        UsageError: The device has no such precision.
    """

    def __init__(self, precision: Precision, device: torch.device, backend: PrecisionBackend | None = None) -> None:
        self.precision = precision
        self.device = device
        self._format = _FORMATS[precision]
        if self._format.tf32 and device.type != "cuda":
            raise UsageError(f"precision 'tf32' needs a CUDA device, not {device.type!r}; use fp32 there")
        if backend is None:
            emulate = device.type == "cpu" and not _cpu_multiplies(self.compute_dtype)
            backend = PrecisionBackend.EMULATED if emulate else PrecisionBackend.NATIVE
        self.backend = backend

    @property
    def compute_dtype(self) -> torch.dtype:
        """Format of the outputs of matrix products and convolutions."""
        return self._format.autocast or self._format.storage

    @property
    def storage_dtype(self) -> torch.dtype:
        """Format in which parameters are stored, but for those of normalization layers."""
        return self._format.storage

    @property
    def loss_scaling(self) -> bool:
        """Whether losses are scaled before the backward pass."""
        return self._format.loss_scaling

    def prepare(self, model: nn.Module) -> PrecisionFacts:
        """Put the model's parameters and buffers into their storage format, in place.

        In the pure formats normalization layers stay in float32, as their statistics need it.

        Returns:
            What the record says about the precision.

        Raises:
            UsageError: The model has complex numbers, and the precision no format for them.
        """
        kept_modules = []
        converted: dict[int, Tensor] = {}  # modules may share a buffer
        for name, module in model.named_modules():
            storage = self._format.storage
            if storage.itemsize == _SIXTEEN_BIT and isinstance(module, _NORMALIZATIONS):
                kept_modules.append(name)
                storage = torch.float32
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(self._stored(parameter.dtype, storage))
            for buffer_name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
                dtype = self._stored(buffer.dtype, storage)
                if dtype != buffer.dtype:
                    module._buffers[buffer_name] = converted.setdefault(id(buffer), buffer.to(dtype))  # noqa: SLF001
        if self._format.storage == torch.float32:
            kept = ("parameters", "gradients", "optimizer state") if self._format.autocast else ()
            return PrecisionFacts(backend=self.backend, kept_fp32=(*kept, "loss") if kept else ())
        if self._format.storage == torch.float64:
            return PrecisionFacts(backend=self.backend, kept_fp32=())
        return PrecisionFacts(backend=self.backend, kept_fp32=(*kept_modules, "loss"))

    def check(self, model: nn.Module) -> None:
        """Find parameters that are not stored in this precision's format: what is recorded as it would be another.

        Raises:
            UsageError: There is one.
        """
        for name, module in model.named_modules():
            is_wide = self._format.storage.itemsize == _SIXTEEN_BIT and isinstance(module, _NORMALIZATIONS)
            storage = torch.float32 if is_wide else self._format.storage
            for own, parameter in module.named_parameters(recurse=False):
                expected = self._stored(parameter.dtype, storage)
                if parameter.dtype != expected:
                    raise UsageError(
                        f"parameter {f'{name}.{own}'.lstrip('.')!r} is {parameter.dtype}, and precision "
                        f"{str(self.precision)!r} stores {expected}; call PrecisionPolicy.prepare(model) before"
                    )

    def cast(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return real and complex inputs in the storage format, and others as they are.

        Raises:
            UsageError: An input is complex, and the precision has no format for it.
        """
        storage = self._format.storage
        return tuple(part if part.dtype == storage else part.to(self._stored(part.dtype, storage)) for part in inputs)

    def _stored(self, dtype: torch.dtype, storage: torch.dtype) -> torch.dtype:
        """The format in which numbers of a format are stored."""
        if dtype.is_complex:
            if storage.itemsize == _SIXTEEN_BIT:
                raise UsageError(f"precision {str(self.precision)!r} has no complex numbers; use fp32 or fp64")
            return torch.complex128 if storage == torch.float64 else torch.complex64
        return storage if dtype in _REAL else dtype

    def forward(self) -> contextlib.AbstractContextManager[object]:
        """Context of a forward pass: arithmetic and autocast."""
        return self.arithmetic() if self._format.autocast is None else self._autocast(self._format.autocast)

    @contextlib.contextmanager
    def _autocast(self, dtype: torch.dtype) -> Iterator[None]:
        with self.arithmetic(), torch.autocast(self.device.type, dtype):
            yield

    def arithmetic(self) -> contextlib.AbstractContextManager[object]:
        """Context of any other matrix product in this precision, the backward pass included."""
        if self.backend is PrecisionBackend.EMULATED:
            return EmulatedProducts()  # type: ignore[no-untyped-call] # torch leaves it untyped
        return contextlib.nullcontext()

    def apply_flags(self) -> None:
        """Set this process's TF32 switches; a run's process calls it once, before any product.

        Each has two names. Where they disagree torch raises when the older is read, as `torch.backends.cudnn.flags`
        and `torch.compile` do: the older are set first, since setting them changes the newer.
        """
        chosen = "tf32" if self._format.tf32 else "ieee"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that they are the older
            torch.set_float32_matmul_precision("high" if self._format.tf32 else "highest")  # also of a CPU's oneDNN
            torch.backends.cudnn.allow_tf32 = self._format.tf32
        torch.backends.cuda.matmul.fp32_precision = chosen
        # both of cuDNN: where they differ, torch refuses to read the older name that covers both
        torch.backends.cudnn.conv.fp32_precision = chosen  # type: ignore[attr-defined]
        torch.backends.cudnn.rnn.fp32_precision = chosen  # type: ignore[attr-defined]


def _cpu_multiplies(dtype: torch.dtype) -> bool:
    """Whether this processor has instructions that make products of this format faster than those of float32."""
    if dtype in {torch.float32, torch.float64}:
        return True
    if dtype is torch.float16:
        return False  # products may be fast (AMX), the convolution's backward pass is not
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # torch has no public name for them
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)


class LossScale:
    """Dynamic loss scale of one stream of gradients (Micikevicius et al., 2018, section 3.2).

    Halved when a gradient overflows, doubled after ``growth_interval`` finite ones in a row.
    """

    def __init__(self, initial: float = 2.0**16, growth_interval: int = 2000) -> None:
        self.value = initial
        self.growth_interval = growth_interval
        self._finite_in_a_row = 0

    def update(self, *, finite: bool) -> None:
        """Learn from the last backward pass."""
        if not finite:
            self.value *= 0.5
            self._finite_in_a_row = 0
            return
        self._finite_in_a_row += 1
        if self._finite_in_a_row == self.growth_interval:
            self.value *= 2.0
            self._finite_in_a_row = 0

    def state_dict(self) -> dict[str, float]:
        """The scale and its counter."""
        return {"value": self.value, "finite_in_a_row": self._finite_in_a_row}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Take up a saved state."""
        self.value = state["value"]
        self._finite_in_a_row = int(state["finite_in_a_row"])
