"""A second look at a run that diverged: which tensor was the first that was not finite.

The training loop only looks at losses, once a block of steps, and must not become slower for the sake of runs that
diverge. It is deterministic, though, and continues a checkpoint to the bit. So the steps before the divergence are
taken again from the run's last checkpoint, and the last of them are looked at tensor by tensor, in the order in which
the tensors are made:

1. activations: floating-point outputs of all modules, by the module's name; those of the network as a whole are called
   ``outputs``. Also in passes after the gradients, such as APO's lookahead, before which the parameters are looked at.
2. the loss,
3. gradients, by the name of their parameter,
4. after the step, the update rule's state, the parameters and the buffers.

A model whose modules put out infinities on purpose is named by the first of them; masks inside functional calls are no
module's output. What is not finite in a model or rule that has taken no step (a mask kept as a buffer) is passed over.
"""

import gc
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from apo_bench.errors import last_line
from apo_bench.problem.held import tensors_in
from apo_bench.problem.problem import Gradients
from apo_bench.records.outcome import Diverged, NonFinite, Reason
from apo_bench.say import note
from apo_bench.training.checkpoint import Checkpoints
from apo_bench.training.loop import Loop
from apo_bench.training.watched import WatchedProblem

WINDOW = 20
"""Steps before the divergent one that are looked at, and steps between two looks at what is kept before them."""
_SKIPPED_BY_RULES = ("meta", "curvature")
"""Streams of gradients whose overflow a rule skips on purpose, without harm to the step."""


def first_non_finite(
    make: Callable[[], Loop], diverged: Diverged, steps: int, checkpoints: Checkpoints | None = None
) -> NonFinite | None:
    """Find where a divergence began, by taking the run's last steps again.

    It repeats at most the steps since the last checkpoint, without evaluating, and looks at up to `WINDOW` of them
    before the divergent one. Where state, a parameter or a buffer was not finite even before these, it repeats the
    steps once more and looks from there on. After a divergence in evaluation it repeats that evaluation too. It needs
    as much memory as a run: the caller lets go of its own loop first.

    A finding in a step that loss scaling skipped counts only where it left something behind (in a buffer), or where the
    run gave up after that step. One among gradients that rules skip (streams ``meta`` and ``curvature``) counts only
    where nothing else is found. What the checkpoint itself holds is put at its step, though it may be older.

    Args:
        make: Makes a new loop of the run around a `WatchedProblem`, without `torch.compile`, which calls no hooks;
            numbers of a compiled run may therefore differ a little.
        diverged: How the run ended.
        steps: Steps that it took.
        checkpoints: Where its last checkpoint is, if there is one.

    Returns:
        The first finding; `None` where there is none (on a device that is not deterministic), or where the second look
        itself failed, of which a line on stderr tells.
    """
    start = diverged.step - 1 - WINDOW
    try:
        for _ in range(2):
            gc.collect()  # loops may hold cycles
            look = _SecondLook(make(), checkpoints)
            earlier = look.approach(start)
            if earlier is None:
                return look.watch(diverged, steps)
            del look
            start = earlier
    except Exception as error:  # noqa: BLE001 - the outcome is known; a second look must not change it
        note(f"no second look at the divergence at step {diverged.step}: {last_line(error)}")  # into the run's own log
    return None


class _SecondLook:
    """One repetition of a run's last steps; what it listens to is a `WatchedProblem`.

    Args:
        loop: Fresh.
        checkpoints: Where the run's checkpoint is.

    Raises:
        TypeError: The loop's problem cannot be watched.
    """

    def __init__(self, loop: Loop, checkpoints: Checkpoints | None) -> None:
        self.loop = loop
        if not isinstance(loop.setup.problem, WatchedProblem):
            raise TypeError("a second look needs a loop around a WatchedProblem")
        self._problem = loop.setup.problem
        names = {id(parameter): name for name, parameter in self._problem.model.named_parameters()}
        self._names = [names[id(parameter)] for parameter in self._problem.parameters]
        self._first: NonFinite | None = None
        self._doubtful: NonFinite | None = None
        self._found_in_step: NonFinite | None = None
        self._doubtful_in_step: NonFinite | None = None
        self._step = 0
        self._differentiated = False
        self._from_the_start = {name for name, tensor in self._kept() if not _is_finite(tensor)}
        loop.resume(checkpoints)

    def approach(self, start: int) -> int | None:
        """Take steps unwatched until ``start`` are taken.

        Returns:
            `None`, or where something went wrong on the way, the number of steps after which it was still right.
        """
        loop = self.loop
        self._step = loop.state.taken
        self._first = self._find_kept()
        while self._first is None and loop.state.taken < start:
            before = loop.state.taken
            loop.block(min(WINDOW, start - before))
            if loop.diverged is not None or self._find_kept() is not None:
                return before
        return None

    def watch(self, diverged: Diverged, steps: int) -> NonFinite | None:
        """Look at every step until ``steps`` are taken or something is found, then at the evaluation that diverged."""
        loop = self.loop
        self._listen()
        while self._first is None and loop.diverged is None and loop.state.taken < steps:
            self._watch_step()
        if self._first is None and diverged.reason in {Reason.VALIDATION, Reason.TEST}:
            self._begin(loop.state.taken)
            if diverged.reason is Reason.VALIDATION:
                loop.validate()
            else:
                loop.test()
            self._first = self._found_in_step
        return self._first or self._doubtful

    def before_outputs(self) -> None:
        """After the gradients the parameters may have moved: this is a lookahead."""
        if self._differentiated:
            self._found_in_step = self._found_in_step or self._find_kept()

    def loss(self, value: Tensor) -> None:
        """Look at a loss."""
        self._note("loss", value)

    def gradients(self, found: Gradients, stream: str) -> None:
        """Look at gradients in the parameters."""
        self._differentiated = True
        self._note_gradients(self._names, found, stream)

    def intermediate_gradients(self, found: Gradients, stream: str) -> None:
        """Look at gradients inside the model."""
        self._note_gradients([f"inside {place}" for place in range(len(found.values))], found, stream)

    def _watch_step(self) -> None:
        loop = self.loop
        taken = loop.state.taken
        self._begin(taken + 1)
        loop.block(1)
        if loop.last is None or loop.state.taken == taken:
            raise RuntimeError("the loop took no step of the update rule")
        self._note("loss", loop.last.loss)  # a rule may report another one than the problem's
        kept = self._find_kept()
        gave_up = loop.diverged is not None
        if loop.last.applied or gave_up or kept is not None:
            self._first = self._found_in_step or kept
            self._doubtful = self._doubtful or self._doubtful_in_step

    def _begin(self, step: int) -> None:
        self._step = step
        self._found_in_step = self._doubtful_in_step = None
        self._differentiated = False

    def _listen(self) -> None:
        """Be told of everything that makes a tensor. The loop is thrown away afterwards: nothing is undone."""
        self._problem.listener = self
        for name, module in self._problem.model.named_modules():
            module.register_forward_hook(self._hook(f"activation {name or 'outputs'}"))

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, outputs: Any) -> None:
            for tensor in tensors_in(outputs):
                self._note(name, tensor)

        return hook

    def _note_gradients(self, names: Iterable[str], found: Gradients, stream: str) -> None:
        suffix = "" if stream == "base" else f" ({stream})"
        for name, gradient in zip(names, found.values, strict=True):
            if gradient is not None:
                self._note(f"gradient {name}{suffix}", gradient, doubtful=stream in _SKIPPED_BY_RULES)

    def _note(self, name: str, tensor: Tensor, *, doubtful: bool = False) -> None:
        """Keep the first finding of a step, and of those that rules skip on purpose the first too."""
        if self._found_in_step is not None or (doubtful and self._doubtful_in_step is not None) or _is_finite(tensor):
            return
        finding = self._finding(name, tensor)
        if doubtful:
            self._doubtful_in_step = finding
        else:
            self._found_in_step = finding

    def _find_kept(self) -> NonFinite | None:
        """The first that is not finite of what is kept from step to step."""
        for name, tensor in self._kept():
            if name not in self._from_the_start and not _is_finite(tensor):
                return self._finding(name, tensor)
        return None

    def _kept(self) -> Iterator[tuple[str, Tensor]]:
        for purpose, tensors in self.loop.setup.rule.state_tensors().items():
            for place, tensor in enumerate(tensors):
                yield f"state {purpose} {place}", tensor
        model = self._problem.model
        for name, parameter in model.named_parameters():
            yield f"parameter {name}", parameter
        for name, buffer in model.named_buffers():
            yield f"buffer {name}", buffer

    def _finding(self, name: str, tensor: Tensor) -> NonFinite:
        return NonFinite(step=self._step, tensor=name, dtype=str(tensor.dtype).removeprefix("torch."))


def _is_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor.detach()).all())  # true of every integer
