"""Which rows of a layer reach the loss. Those of padding and of examples without a label enter no factor.

The block of a layer in the Fisher matrix of the mean loss over N terms is

    F = N Σ_nr ĝ_nr ĝ_nrᵀ ⊗ x_nr x_nrᵀ,    which KFAC factors as    A = mean of x xᵀ,    G = N Σ_nr ĝ_nr ĝ_nrᵀ.

A row whose output no term of the loss depends on has ĝ = 0 at all weights. It adds nothing to F nor to G, and so A must
be the mean over the other rows only: then a padded batch has the factors of its examples without padding.

ĝ = 0 alone does not tell such a row: the units behind it may all be off in this batch. So the network is asked, once
for each estimate, on the examples that the factors are estimated from:

- An output counts where the gradient of the loss at random outputs is not zero. Of a target that is ignored it is zero,
  and of any other it is zero with probability 0.
- A row counts where the gradient of ⟨v, f⟩ arrives, with v standard normal on the outputs that count and 0 elsewhere:
  that gradient is linear in v, and so it is zero with probability 0, unless all outputs that count have a zero
  derivative there. In this pass gates (ReLU and its kind, dropout) let all gradients through, their values unchanged;
  zero derivatives that remain come from the structure: positions that are masked in attention, or never read. Attention
  itself (torch's function) lets them through to every query, key and value that it lets see each other, as a softmax
  has no derivative where it has one key to choose from, or where it has chosen.

A network in which no example has more than one row (an image is one row of a convolution) is not run again: there the
rows of an example count where one of its outputs does. Not told apart are the places of one image, and rows that a
router sends (`Free`). A gate by hand, such as ``x * (x > 0)``, is taken for a mask where it shuts all units of a row.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from apo_bench import Batch, Problem
from baselines.kfac.examples import Arrangement, Free, RowsApart, lead_of_call, rows_of_call, without_zeros
from baselines.kfac.hooks import Call, recording

Reach = Sequence[Tensor] | Tensor
"""Whether rows count: for every call of a layer a vector over its rows, or one vector over the examples."""


def reach(
    problem: Problem,
    layer_of: Mapping[nn.Module, int],
    calls: Sequence[Call],
    arrangements: Mapping[int, Arrangement],
    outputs: Tensor,
    part: Batch,
    size: int,
) -> dict[int, Reach]:
    """Find the rows that reach the loss, by the layer's number; a layer all of whose rows do is left out.

    Args:
        problem: Whose network and loss are asked.
        layer_of: Number of the layer by its module.
        calls: Of a pass over a batch.
        arrangements: How their rows belong to examples.
        outputs: Of the network for ``part``.
        part: The first examples of the batch.
        size: Examples of the batch.
    """
    found = [place for place, arrangement in arrangements.items() if not isinstance(arrangement, Free)]
    if not found:
        return {}
    counted = counted_outputs(problem, outputs, part)
    rows = dict.fromkeys(arrangements, 0)
    for call in calls:
        rows[layer_of[call.module]] = rows.get(layer_of[call.module], 0) + prod(lead_of_call(call.module, call.inputs))
    if all(rows[place] <= size for place in found):
        counted_B = counted.flatten(1).any(1)
        return {} if bool(counted_B.all()) else dict.fromkeys(found, counted_B)
    traced = _traced(problem, layer_of, part, counted)
    return {place: traced[place] for place in found if place in traced and not bool(torch.cat([*traced[place]]).all())}


def counted_outputs(problem: Problem, outputs: Tensor, batch: Batch) -> Tensor:
    """Which outputs the loss depends on, in their shape: those with a gradient where the outputs are random."""
    wide = torch.promote_types(outputs.dtype, torch.float32)
    random = _normal(outputs.shape, outputs.device, wide).requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(problem.loss(random, batch), random)
    return gradient != 0


def _traced(
    problem: Problem, layer_of: Mapping[nn.Module, int], part: Batch, counted: Tensor
) -> dict[int, list[Tensor]]:
    """Run the examples once more with open gates, and see where gradients from the counted outputs arrive."""
    with (
        problem.lookahead(),
        without_zeros(problem.model),
        RowsApart(),
        _OpenGates(),
        recording(layer_of) as calls,
    ):
        outputs = problem.outputs(part, eager=True)
        direction = _normal(outputs.shape, outputs.device, outputs.dtype) * counted
        edges = [call.output for call in calls]
        with problem.precision.arithmetic():
            gradients = torch.autograd.grad(outputs, edges, direction, allow_unused=True) if edges else ()
    traced: dict[int, list[Tensor]] = {}
    for call, value in zip(calls, gradients, strict=True):
        gradient = call.shaped(value)
        if gradient is None:
            rows = prod(lead_of_call(call.module, call.inputs))
            arrives = torch.zeros(rows, dtype=torch.bool, device=outputs.device)
        else:  # what is not a number may be anything, and is not zero
            arrives = (rows_of_call(call.module, gradient).flatten(1) != 0).any(1)
        traced.setdefault(layer_of[call.module], []).append(arrives)
    return traced


def _normal(shape: torch.Size, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The same standard normal numbers each time."""
    return torch.randn(shape, generator=torch.Generator(device).manual_seed(0), device=device).to(dtype)


class _Through(torch.autograd.Function):
    """A function of a tensor, of its shape, whose gradient is passed through as it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        version = x._version  # noqa: SLF001 - tells a change in place
        out = function(x)
        if out is not x:
            return out
        if x._version == version:  # noqa: SLF001 - likewise
            return x.view_as(x)
        ctx.mark_dirty(x)  # changed in place
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004 - the signature of torch
        return gradients[0], None


class _OpenGates(TorchFunctionMode):
    """While active, gates let all gradients through; their values are as they were."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace the gradient of gates, and pass everything else through."""
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return _open_attention(func(*args, **kwargs), *args, **kwargs)
        x = args[0] if args else kwargs.get("input")
        if func not in _GATES or not isinstance(x, Tensor) or not x.requires_grad:
            return func(*args, **kwargs)
        others = {name: value for name, value in kwargs.items() if name != "input"}
        return _Through.apply(x, lambda own: func(own, *args[1:], **others))


def _open_attention(
    attended: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,  # noqa: ARG001 - the signature of torch
    is_causal: bool = False,  # noqa: FBT001, FBT002 - likewise
    **others: Any,
) -> Tensor:
    """Attention's result, with the gradient of a sum over all that each query is let see."""
    if others.get("enable_gqa"):  # fewer keys than queries have heads
        return attended
    seen = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device)
    if is_causal:
        seen = seen.tril()
    if attn_mask is not None:
        seen = seen & (attn_mask if attn_mask.dtype is torch.bool else attn_mask > _MASKED)
    open_ones = seen.to(query.dtype)
    both = query.sum(-1, keepdim=True) * seen.any(-1, keepdim=True) + open_ones @ key.sum(-1, keepdim=True)
    through = open_ones @ value + both
    return attended.detach() + (through - through.detach())


_MASKED = -1e4
"""What is added to a score so that its exponential is 0, in place of minus infinity."""
_GATES: frozenset[Callable[..., Any]] = frozenset(
    getattr(owner, name)
    for owner in (torch, Tensor, F)
    for name in (
        *("relu", "relu_", "relu6", "threshold", "threshold_", "hardtanh", "hardtanh_", "hardswish", "hardsigmoid"),
        *("softshrink", "hardshrink", "clamp", "clamp_", "clamp_min", "clamp_min_", "clamp_max", "clamp_max_"),
        *("clip", "clip_", "dropout", "dropout_", "dropout1d", "dropout2d", "dropout3d", "feature_dropout"),
        *("alpha_dropout", "feature_alpha_dropout"),
    )
    if hasattr(owner, name)
)
"""Functions of one tensor, elementwise, with a derivative that is zero somewhere."""
