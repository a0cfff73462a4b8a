"""Which of the rows that a layer sees belong to which example.

A network may flatten its positions into the batch, put them first, join views along the batch, or call a layer for
one example at a time. Shapes do not tell these apart, and so the network is asked: one more pass, two backward passes
from some of the examples and from the others, and a row belongs where its gradient comes from. What was found holds as
long as the shapes do; a pass takes place in the first step, and later only for shapes that are new.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from apo_bench import Batch, Problem, UsageError
from baselines.kfac.hooks import Call, recording


class Layout(NamedTuple):
    """Rows in the order (outer, example, inner).

    Attributes:
        outer: Rows before the examples: positions that come first, views joined along the batch.
        examples: Size of the batch.
        inner: Rows of an example that stand together.
    """

    outer: int
    examples: int
    inner: int

    def first(self, module: nn.Module, tensor: Tensor, count: int) -> Tensor:
        """What belongs to the first ``count`` examples, one example behind the other."""
        if self.outer == 1 and tensor.ndim >= _least_ndim(module) and tensor.shape[0] == self.examples:
            return tensor[:count]
        rows = rows_of_call(module, tensor)
        if self.outer == 1:
            return rows[: count * self.inner]
        rows_OEI = rows.reshape(*self, *rows.shape[1:])
        return rows_OEI[:, :count].transpose(0, 1).flatten(0, 2)


class Each(NamedTuple):
    """Every call of a layer has a layout of its own; `None` where the loss does not depend on the call."""

    layouts: tuple[Layout | None, ...]


class Joint(NamedTuple):
    """The rows of all calls, one call behind the other, have a layout: a call for each example."""

    layout: Layout


class Free(NamedTuple):
    """Every row belongs to one example, but nobody knows to which: a router sends them."""


Arrangement = Each | Joint | Free
_Leads = tuple[tuple[int, ...], ...]


class _Traced(NamedTuple):
    """A call in the traced pass.

    Attributes:
        lead: Its dimensions that count rows.
        chosen: Squared gradient of each row from the chosen examples.
        others: The same from the others.
        connected: Whether the outputs depend on it at all.
    """

    lead: tuple[int, ...]
    chosen: Tensor
    others: Tensor
    connected: bool


class Examples:
    """Finds the arrangement of every layer's rows, and remembers it.

    Args:
        problem: Whose network is asked.
        layers: Number of the layer by its module; a weight shared by several modules is one layer.
    """

    def __init__(self, problem: Problem, layers: Mapping[nn.Module, int]) -> None:
        self.problem = problem
        self.layers = layers
        self._axes: dict[int, tuple[int, ...]] = {}
        self._exact: dict[tuple[int, int, _Leads], Arrangement] = {}
        self._free: set[int] = set()
        self._unseen: Counter[int] = Counter()

    def of(self, calls: Sequence[Call], batch: Batch) -> dict[int, Arrangement]:
        """Arrangement of the rows of every layer that is called with any, by its number.

        Raises:
            UsageError: Several examples share a row of a layer.
        """
        leads = self._leads(calls)
        found = {layer: self._known(layer, shapes, batch.size) for layer, shapes in leads.items()}
        if any(arrangement is None for arrangement in found.values()):
            learned = self._learn(batch)
            for layer, shapes in leads.items():
                if found[layer] is None:
                    found[layer] = self._known(layer, shapes, batch.size) or learned.get((layer, shapes))
        return {layer: arrangement or Free() for layer, arrangement in found.items()}

    def name(self, layer: int) -> str:
        """A layer's name in the model, for messages."""
        names = (name for name, module in self.problem.model.named_modules() if self.layers.get(module) == layer)
        return next(names) or type(self.problem.model).__name__

    def _leads(self, calls: Sequence[Call]) -> dict[int, _Leads]:
        leads: dict[int, list[tuple[int, ...]]] = {}
        for call in calls:
            leads.setdefault(self.layers[call.module], []).append(lead_of_call(call.module, call.inputs))
        return {layer: tuple(shapes) for layer, shapes in leads.items() if any(prod(lead) for lead in shapes)}

    def _known(self, layer: int, leads: _Leads, size: int) -> Arrangement | None:
        if size == 1:  # whatever there is belongs to the only example
            return Each(tuple(Layout(1, 1, prod(lead)) for lead in leads))
        if layer in self._free:
            return Free()
        axes = self._axes.get(layer)
        if axes is not None and len(axes) == len(leads):
            layouts = [_along(axis, lead, size) for axis, lead in zip(axes, leads, strict=True)]
            if all(layouts):
                return Each(tuple(layouts))
        return self._exact.get((layer, size, leads))

    def _learn(self, batch: Batch) -> dict[tuple[int, _Leads], Arrangement]:
        """Trace a batch and remember what it shows.

        Returns:
            What could not be seen, as no gradient arrived: an arrangement that the shapes allow, for this time only.
        """
        size = batch.size
        chosen_B = torch.zeros(size, dtype=torch.bool)
        chosen_B[torch.randperm(size, generator=torch.Generator().manual_seed(size))[: size // 2]] = True
        guesses: dict[tuple[int, _Leads], Arrangement] = {}
        for layer, traced in self._trace(batch, chosen_B).items():
            leads = tuple(call.lead for call in traced)
            arrangement = self._arrangement(layer, traced, chosen_B)
            if any(call.connected for call in traced) and not any(_is_reached(call) for call in traced):
                self._unseen[layer] += 1
                if self._unseen[layer] < _ATTEMPTS:
                    guesses[layer, leads] = arrangement
                    continue
            self._remember(layer, leads, size, arrangement)
        return guesses

    def _remember(self, layer: int, leads: _Leads, size: int, arrangement: Arrangement) -> None:
        if isinstance(arrangement, Free):
            self._free.add(layer)
            return
        self._exact[layer, size, leads] = arrangement
        if isinstance(arrangement, Each):
            pairs = zip(arrangement.layouts, leads, strict=True)
            axes = [None if layout is None else _axis(layout, lead) for layout, lead in pairs]
            whole = [axis for axis in axes if axis is not None]
            if len(whole) == len(leads):
                self._axes[layer] = tuple(whole)

    def _arrangement(self, layer: int, traced: Sequence[_Traced], chosen_B: Tensor) -> Arrangement:
        layouts = [_layout(call, chosen_B) for call in traced]
        alone = [layout for layout, call in zip(layouts, traced, strict=True) if _is_reached(call)]
        if all(alone) and (any(layouts) or not any(call.connected for call in traced)):
            return Each(tuple(layouts))
        for layout, call in zip(layouts, traced, strict=True):
            if layout is None and _is_mixed(call):
                raise UsageError(
                    f"KFAC: several examples share what layer {self.name(layer)!r} is called with, and so their "
                    "gradients cannot be told apart; call it for each example, or use an optimizer without curvature"
                )
        parts = (torch.cat([call.chosen for call in traced]), torch.cat([call.others for call in traced]))
        joint = _layout(_Traced((len(parts[0]),), *parts, connected=True), chosen_B, tolerance=_EXACT)
        return Free() if joint is None else Joint(joint)

    def _trace(self, batch: Batch, chosen_B: Tensor) -> dict[int, list[_Traced]]:
        """Run the model once more, and see where gradients from the chosen examples and from the others arrive."""
        problem = self.problem
        with (
            problem.phase("curvature"),
            problem.lookahead(),
            without_zeros(problem.model),
            RowsApart(),
            recording(self.layers) as calls,
        ):
            outputs = problem.outputs(batch, eager=True)
            noise = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0)).to(outputs)
            mask = chosen_B.to(outputs.device).view(-1, *[1] * (outputs.ndim - 1))
            edges = [call.output for call in calls]
            found = []
            for side in (mask, ~mask):
                with problem.precision.arithmetic():
                    found.append(
                        torch.autograd.grad(outputs, edges, noise * side, retain_graph=True, allow_unused=True)
                    )
        traced: dict[int, list[_Traced]] = {}
        for call, *gradients in zip(calls, *found, strict=True):
            lead = lead_of_call(call.module, call.inputs)
            chosen, others = (_squares(call.module, call.shaped(gradient), prod(lead)) for gradient in gradients)
            connected = any(gradient is not None for gradient in gradients)
            traced.setdefault(self.layers[call.module], []).append(_Traced(lead, chosen, others, connected))
        return traced


def rows_of_call(module: nn.Module, tensor: Tensor) -> Tensor:
    """Flatten all dimensions that count rows; an image of a convolution is a row."""
    least = _least_ndim(module)
    if tensor.ndim < least:
        return tensor.unsqueeze(0)
    return tensor.flatten(0, tensor.ndim - least)


_ATTEMPTS = 3
"""Traced passes without a gradient until a layer's shapes are believed."""
_EXACT = 1e-10
_MOSTLY = 0.2
"""Largest share of the squared gradients on rows of other examples: a model may normalize over the batch by itself."""


def _least_ndim(module: nn.Module) -> int:
    return 4 if isinstance(module, nn.Conv2d) else 2


def lead_of_call(module: nn.Module, inputs: Tensor) -> tuple[int, ...]:
    """The dimensions that count rows."""
    return tuple(inputs.shape[: max(0, inputs.ndim - _least_ndim(module) + 1)])


def _along(axis: int, lead: tuple[int, ...], size: int) -> Layout | None:
    if axis >= len(lead) or lead[axis] != size:
        return None
    return Layout(prod(lead[:axis]), size, prod(lead[axis + 1 :]))


def _axis(layout: Layout, lead: tuple[int, ...]) -> int | None:
    """The dimension that counts the examples, if one does."""
    return next((axis for axis in range(len(lead)) if _along(axis, lead, layout.examples) == layout), None)


def _layout(call: _Traced, chosen_B: Tensor, tolerance: float = _MOSTLY) -> Layout | None:
    """The layout under which gradients arrive at the rows of their own examples only, or nearly so."""
    size, rows = len(chosen_B), prod(call.lead)
    if rows == 0 or rows % size:
        return None
    inner = rows // size
    outers = [prod(call.lead[:axis]) for axis, length in enumerate(call.lead) if length == size]
    outers += [outer for outer in range(1, inner + 1) if inner % outer == 0]
    layouts = [Layout(outer, size, inner // outer) for outer in dict.fromkeys(outers)]
    if not _is_reached(call):
        return layouts[0]
    leaks = [_leak(call, layout, chosen_B) for layout in layouts]
    least = min(leaks)
    if least > (tolerance if _is_mixed(call) else _EXACT):
        return None
    return layouts[leaks.index(least)]


def _leak(call: _Traced, layout: Layout, chosen_B: Tensor) -> float:
    chosen_B1, others_B1 = (part.view(layout).sum((0, 2)) for part in (call.chosen, call.others))
    wrong = chosen_B1[~chosen_B].sum() + others_B1[chosen_B].sum()
    return float(wrong / (chosen_B1.sum() + others_B1.sum()))


def _is_reached(call: _Traced) -> bool:
    return bool(call.chosen.any() or call.others.any())


def _is_mixed(call: _Traced) -> bool:
    """Whether a row depends on chosen examples and on others."""
    smaller, larger = torch.minimum(call.chosen, call.others), torch.maximum(call.chosen, call.others)
    return bool((smaller > _EXACT * larger).any())


def _squares(module: nn.Module, gradient: Tensor | None, rows: int) -> Tensor:
    """Squared norms by row, on the CPU; what is not finite says nothing."""
    if gradient is None:
        return torch.zeros(rows, dtype=torch.float64)
    wide = rows_of_call(module, gradient).flatten(1).double().nan_to_num(0.0, 0.0, 0.0)
    return wide.square().sum(1).cpu()


@contextlib.contextmanager
def without_zeros(model: nn.Module) -> Iterator[None]:
    """Give parameters that are all zero other values for a while: they let no gradient through.

    Through .data: there may be a graph that holds them.
    """
    source = torch.Generator().manual_seed(0)
    zeros = [(parameter, parameter.detach().clone()) for parameter in model.parameters() if not parameter.any()]
    try:
        for parameter, _ in zeros:
            if parameter.ndim > 1:
                spread = parameter[0].numel() ** -0.5
                parameter.data.copy_(torch.randn(parameter.shape, generator=source) * spread)
            else:
                parameter.data.fill_(0.5)
        yield
    finally:
        for parameter, saved in zeros:
            parameter.data.copy_(saved)


class RowsApart(TorchFunctionMode):
    """While active, batch normalization scales every row by itself, so that no example influences another."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace batch normalization, and pass everything else through."""
        kwargs = kwargs or {}
        if func not in {F.batch_norm, torch.batch_norm}:
            return func(*args, **kwargs)
        inputs: Tensor = args[0] if args else kwargs["input"]
        wide = inputs.detach().to(torch.promote_types(inputs.dtype, torch.float32))
        spread = wide.square().flatten(1).mean(1).sqrt().view(-1, *[1] * (inputs.ndim - 1))
        return inputs / (1.0 + spread).to(inputs.dtype)
