"""One layer's rows of a step, from all of its calls and all losses, brought to the normal form of `factors`."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from baselines.kfac import factors
from baselines.kfac.curvature import Rows
from baselines.kfac.examples import Arrangement, Each, Joint, Layout, rows_of_call
from baselines.kfac.factors import Sharing
from baselines.kfac.hooks import Call
from baselines.kfac.reach import Reach


class Gathered:
    """Collects inputs and gradients; further calls are further positions, further losses further examples.

    Where nobody knows which rows belong together, all are positions of one example.

    Args:
        arrangement: How the rows belong to examples; `None` for a layer that is called with no rows.
        count: Number of examples, the first ones, that are taken.
        reach: Which of their rows reach the loss; `None` where all do.
    """

    def __init__(self, arrangement: Arrangement | None, count: int, reach: Reach | None = None) -> None:
        self.arrangement = arrangement
        self.count = count
        self.reach = reach
        self._calls: list[Call] = []
        self._losses: list[list[Tensor | None]] = []

    def take(self, call: Call) -> None:
        """Take a call."""
        self._calls.append(call._replace(inputs=self._cut(call.module, len(self._calls), call.inputs)))

    def start_loss(self) -> None:
        """Begin with the gradients of another loss."""
        self._losses.append([])

    def take_gradient(self, gradient: Tensor | None) -> None:
        """Take the gradient in the output of the next call; only the rows that count are held on to."""
        own = self._losses[-1]
        place = len(own)
        own.append(None if gradient is None else self._cut(self._calls[place].module, place, gradient))

    def rows(self, sharing: Sharing, normalizer: int) -> Rows | None:
        """Return the normal form; `None` where the loss reaches no row."""
        reached = [
            place
            for place, call in enumerate(self._calls)
            if call.inputs.shape[0] > 0 and all(loss[place] is not None for loss in self._losses)
        ]
        if self.arrangement is None or not reached:
            return None
        calls = [self._calls[place] for place in reached]
        parts_NRI = [factors.input_rows(call.module, call.inputs) for call in calls]
        x_NRI = self._together(parts_NRI, wide=True)
        kept_NR = self._kept(reached, [part[..., 0].numel() for part in parts_NRI], x_NRI.shape[1])
        if kept_NR is not None and not bool(kept_NR.any()):
            return None
        found = []
        for loss in self._losses:
            parts = zip(calls, (loss[place] for place in reached), strict=True)
            found.append(self._together([factors.gradient_rows(call.module, g) for call, g in parts if g is not None]))
        x_NRI, g_MRO, kept_NR = factors.share(x_NRI, torch.cat(found), sharing, kept_NR)
        return Rows(x_NRI, g_MRO, normalizer, kept_NR)

    def _kept(self, places: Sequence[int], sizes: Sequence[int], positions: int) -> Tensor | None:
        """Which rows count, as (example, position); `None` where all do.

        Args:
            places: Of the calls that are reached.
            sizes: Rows of each of them, in the normal form.
            positions: Of an example.
        """
        if self.reach is None:
            return None
        if isinstance(self.reach, Tensor):
            return self.reach.unsqueeze(1).expand(-1, positions)
        if isinstance(self.arrangement, Joint):
            rows_NR = self._in_order(torch.cat([*self.reach]), self.arrangement.layout)
            return rows_NR.repeat_interleave(positions // rows_NR.shape[1], 1)
        found = []
        if isinstance(self.arrangement, Each) and len(self.reach) == len(self._calls):
            for place, size in zip(places, sizes, strict=True):
                layout = self.arrangement.layouts[place]
                if layout is not None:
                    rows_NR = self._in_order(self.reach[place], layout)
                    found.append(rows_NR.repeat_interleave(size // rows_NR.numel(), 1))
        kept_NR = torch.cat(found, 1) if found else None
        return kept_NR if kept_NR is not None and kept_NR.shape[1] == positions else None

    def _in_order(self, flags_M: Tensor, layout: Layout) -> Tensor:
        """Flags of the rows of the examples that are taken, as (example, row)."""
        return flags_M.reshape(layout._replace(examples=self.count)).transpose(0, 1).flatten(1)

    def _cut(self, module: nn.Module, place: int, tensor: Tensor) -> Tensor:
        """What belongs to the examples that count, as far as one call tells."""
        if isinstance(self.arrangement, Each):
            layout = self.arrangement.layouts[place]
            if layout is not None:
                return layout.first(module, tensor, self.count)
        return rows_of_call(module, tensor)

    def _together(self, parts: Sequence[Tensor], *, wide: bool = False) -> Tensor:
        """Rows of all calls as (example, position, feature)."""
        if wide:
            parts = [part.to(torch.promote_types(part.dtype, torch.float32)) for part in parts]
        if isinstance(self.arrangement, Joint):
            rows_MPD = torch.cat(list(parts))
            rows_OEIPD = rows_MPD.reshape(*self.arrangement.layout, *rows_MPD.shape[1:])
            return rows_OEIPD.transpose(0, 1)[: self.count].flatten(1, -2)
        count = self.count if isinstance(self.arrangement, Each) else 1
        whole = [part if part.shape[0] == count else part.reshape(count, -1, part.shape[-1]) for part in parts]
        return torch.cat(whole, dim=1)
