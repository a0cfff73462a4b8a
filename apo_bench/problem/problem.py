"""What an update rule may see of a run: model, loss, batches and gradients. No validation or test data, no clock."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from apo_bench.data.examples import Batch
from apo_bench.errors import UsageError
from apo_bench.models.lazy import uninitialized
from apo_bench.problem.contract import Trainable, is_compiled, refuse_data_parallel, uncompiled_module
from apo_bench.problem.ledger import Ledger
from apo_bench.problem.model_state import ModelState
from apo_bench.problem.objectives import Objective
from apo_bench.problem.precision import LossScale, PrecisionPolicy
from apo_bench.problem.seeds import derive, preserved_random_state, random_state, restore_random_state


class Gradients(NamedTuple):
    """Unscaled gradients.

    Attributes:
        values: One for each of `Problem.parameters`, dense; `None` where the loss does not depend on it.
        finite: False when loss scaling found an overflow. Without loss scaling always True: looking would cost a
            synchronization, and the trainer finds a loss that is not finite.
    """

    values: tuple[Tensor | None, ...]
    finite: bool


class Problem:
    """A model with its training loss, under a precision: in a run, or in anyone's own training loop.

    Args:
        model: The network, already in its storage format (`PrecisionPolicy.prepare`); it may be compiled.
        objective: Loss and discrepancy.
        precision: Number formats.
        additional: Source of training batches beyond those given to `UpdateRule.step`.
        compile: Whether the model runs through `torch.compile`.
        seed: Seed of the generators that `generator` makes.
        ledger: Where the time of the phases is written; `None` writes none.

    Raises:
        UsageError: The model has no trainable parameter, or a lazy module that has not seen a batch; it would have to
            be trained by several processes; or it is not in its storage format.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        precision: PrecisionPolicy,
        additional: Callable[[], Batch],
        *,
        compile: bool = False,  # noqa: A002 - torch's name
        seed: int = 0,
        ledger: Ledger | None = None,
    ) -> None:
        self.model = uncompiled_module(model)
        refuse_data_parallel(self.model)
        if uninitialized(self.model):
            raise UsageError(
                f"the model ({type(model).__name__}) has lazy modules without shapes; call it once on a batch before"
            )
        precision.check(self.model)
        self.compiled = compile or is_compiled(model)
        self._forward: Callable[..., Any] = torch.compile(self.model) if compile else model
        self.objective = objective
        self.precision = precision
        self._trainable = Trainable(self.model)
        self.parameters = self._trainable.parameters
        if not self.parameters:
            raise UsageError(
                f"the model ({type(model).__name__}) has no trainable parameter; set requires_grad on some"
            )
        self._additional = additional
        self._seed = seed
        self._scales: dict[str, LossScale] = {}
        self._ledger = ledger

    def phase(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Count the time of the enclosed work as ``name`` (`apo_bench.problem.ledger`).

        The outermost phase counts. `outputs` and `loss` are in ``forward``, `gradients` in ``backward``,
        `intermediate_gradients` in ``curvature``; a rule marks ``update``, and whatever else it wants to be seen.
        """
        return contextlib.nullcontext() if self._ledger is None else self._ledger.phase(name)

    def outputs(self, batch: Batch, *, eager: bool = False) -> Tensor:
        """Run the model on a batch under the precision; ``eager`` without `torch.compile`, which sees no new hooks.

        Raises:
            UsageError: What it returns is no tensor.
        """
        with self.phase("forward"), self.precision.forward():
            inputs = self.precision.cast(batch.inputs)
            # parts of the model may be compiled too
            stance = torch.compiler.set_stance("force_eager") if eager and self.compiled else contextlib.nullcontext()
            with stance:
                out = self.model(*inputs) if eager else self._forward(*inputs)
            if isinstance(out, Tensor):
                return out
        raise UsageError(
            f"the model ({type(self.model).__name__}) returns a {type(out).__name__}, not a tensor; wrap it in a "
            "module whose forward returns the outputs only"
        )

    @contextlib.contextmanager
    def uncompiled(self) -> Iterator[None]:
        """Run the model without `torch.compile`, so that each of its operators is seen."""
        if not self.compiled:
            yield
            return
        compiled, self._forward = self._forward, self.model
        try:
            with torch.compiler.set_stance("force_eager"):
                yield
        finally:
            self._forward = compiled

    def check_parameters(self) -> None:
        """Find parameters that were unfrozen, frozen, added or replaced since the problem was made.

        Raises:
            UsageError: There is one: the optimizer does not know it.
        """
        self._trainable.check_all()

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Mean loss over ``normalizer(batch)``, a float32 scalar."""
        with self.phase("forward"):
            return self.objective.loss(outputs, batch)

    def discrepancy(self, new: Tensor, old: Tensor, batch: Batch) -> Tensor:
        """Mean output-space discrepancy ρ(new, old)."""
        return self.objective.discrepancy(new, old, batch)

    def hessian_square_root(self, outputs: Tensor, batch: Batch) -> Iterator[Tensor]:
        """Tensors v_c in the outputs' shape, Σ_c v_c v_cᵀ the Hessian of each example's loss in its outputs."""
        return self.objective.hessian_square_root(outputs, batch)

    def sample_targets(self, outputs: Tensor, batch: Batch, generator: torch.Generator) -> Tensor:
        """Targets drawn from the model's predictive distribution."""
        return self.objective.sample_targets(outputs, batch, generator)

    def normalizer(self, batch: Batch) -> int:
        """Count over which the loss is a mean: examples or tokens."""
        return self.objective.normalizer(batch)

    def draw(self) -> Batch:
        """Draw an additional training batch from a stream of its own; the batches of the steps stay the same."""
        return self._additional()

    @contextlib.contextmanager
    def drawing(self, wrap: Callable[[Callable[[], Batch]], Callable[[], Batch]]) -> Iterator[None]:
        """Let `draw` draw from what ``wrap`` makes of its source."""
        usual = self._additional
        self._additional = wrap(usual)
        try:
            yield
        finally:
            self._additional = usual

    def scale(self, stream: str = "base") -> float:
        """Factor by which gradients in the backward pass of ``stream`` are larger than the true ones."""
        return self._scale(stream).value if self.precision.loss_scaling else 1.0

    def gradients(self, loss: Tensor, stream: str = "base") -> Gradients:
        """Differentiate a loss with respect to `parameters`.

        Under loss scaling the backward pass runs on the scaled loss and each stream keeps a scale of its own, so that
        an overflow of one does not throw another back.

        Args:
            loss: Scalar with a graph, which is freed.
            stream: Name of the stream of gradients.

        Returns:
            Unscaled gradients and whether all are finite.
        """
        with self.phase("backward"):
            return self._differentiate(loss, self.parameters, stream)

    def intermediate_gradients(
        self, loss: Tensor, edges: Sequence[GradientEdge], stream: str = "curvature"
    ) -> Gradients:
        """Differentiate a loss with respect to values inside the network, for estimates of curvature.

        Args:
            loss: Scalar with a graph, which is kept.
            edges: Places of the values in the graph, from `torch.autograd.graph.get_gradient_edge`.
            stream: Name of the stream of gradients.

        Returns:
            Gradients in float32 (or wider), unscaled, one for each edge, and whether all are finite.
        """
        with self.phase("curvature"):
            return self._differentiate(loss, edges, stream, intermediate=True)

    def _differentiate(
        self, loss: Tensor, of: Sequence[Tensor] | Sequence[GradientEdge], stream: str, *, intermediate: bool = False
    ) -> Gradients:
        """Gradients of the scaled loss, unscaled; intermediate ones in float32, where the true ones do not vanish."""
        scaled = self.precision.loss_scaling
        scale = self.scale(stream)
        self._trainable.check()
        with self.precision.arithmetic():
            try:
                values = torch.autograd.grad(
                    loss * scale if scaled else loss, of, retain_graph=intermediate, allow_unused=True
                )
            except RuntimeError:
                self._trainable.check_all()  # torch does not say which parameter does not require a gradient
                raise
        if any(value is not None and value.is_sparse for value in values):
            # the same numbers: most optimizers refuse sparse ones, and those that do not compute something else on them
            values = tuple(v if v is None else v.to_dense() for v in values)
        if intermediate:
            values = tuple(v if v is None else v.to(torch.promote_types(v.dtype, torch.float32)) for v in values)
        if not scaled:
            return Gradients(values, finite=True)
        finite = _unscale_(values, scale)
        self._scale(stream).update(finite=finite)
        return Gradients(values, finite)

    def generator(self, purpose: str) -> torch.Generator:
        """Make a generator on the model's device for one purpose; the same each time, another for each purpose."""
        device = self.precision.device
        return torch.Generator(device).manual_seed(derive(self._seed, "problem", purpose))

    def random_state(self) -> dict[str, Any]:
        """State of the global generators from which the model may draw: torch's, Python's and NumPy's."""
        return random_state(self.precision.device)

    @contextlib.contextmanager
    def lookahead(self, random_state: Mapping[str, Any] | None = None) -> Iterator[None]:
        """Run the model without a trace: afterwards all that a forward pass may change of it is as before.

        That is its buffers, its modules' plain attributes and modes (`ModelState`), and the global generators.

        With ``random_state`` the model draws what it drew when the random state was this one: the same dropout masks.

        Autocast's cache of casted weights is cleared at both ends: inside, weights may be swapped in place, and the
        cache would not notice.
        """
        before = ModelState(self.model)
        device = self.precision.device
        with preserved_random_state(device):
            if random_state is not None:
                restore_random_state(random_state, device)
            torch.clear_autocast_cache()
            try:
                yield
            finally:
                torch.clear_autocast_cache()
                before.restore()

    def state_dict(self) -> dict[str, dict[str, float]]:
        """The loss scales by stream."""
        return {stream: scale.state_dict() for stream, scale in self._scales.items()}

    def load_state_dict(self, state: dict[str, dict[str, float]]) -> None:
        """Take up saved loss scales."""
        for stream, saved in state.items():
            self._scale(stream).load_state_dict(saved)

    def _scale(self, stream: str) -> LossScale:
        return self._scales.setdefault(stream, LossScale())


def _unscale_(gradients: Iterable[Tensor | None], scale: float) -> bool:
    present = [gradient for gradient in gradients if gradient is not None]
    if not present:
        return True
    torch._foreach_mul_(present, 1.0 / scale)
    largest = torch.stack([extreme.float() for extreme in torch._foreach_norm(present, float("inf"))])  # noqa: SLF001
    return bool(largest.isfinite().all())
