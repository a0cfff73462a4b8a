"""What KFAC and EKFAC keep of one layer's curvature."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from baselines.kfac import damping as damped
from baselines.kfac import factors
from baselines.kfac.damping import Damping, Eigenbasis, Inverses, NotInvertibleError, Solver, Triangle


class Rows(NamedTuple):
    """A layer's inputs and output gradients on one batch, in the normal form of `factors`.

    Attributes:
        x_NRI: Inputs.
        g_NRO: Gradients of the mean loss; several losses stand one behind the other along N. 0 in rows that do not
            count.
        normalizer: What the mean loss was divided by.
        kept_NR: Which rows count; `None` where all do.
    """

    x_NRI: Tensor
    g_NRO: Tensor
    normalizer: int
    kept_NR: Tensor | None = None


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a layer's curvature is averaged and inverted.

    Attributes:
        damping: λ.
        decay: Largest share of the old average that a new estimate leaves.
        solver: How the factors are inverted.
        form: Where λ is added.
    """

    damping: float
    decay: float
    solver: Solver
    form: Damping


class KroneckerCurvature:
    """KFAC: A, G and their damped inverses, stored in the weight's format and computed in float32 or wider.

    Args:
        recipe: How.
        bias: Whether the last input is the bias's 1.
        storage: Number format of what is kept.

    Attributes:
        by_example: Whether it matters which rows belong to one example.
    """

    by_example: ClassVar[bool] = False

    def __init__(self, recipe: Recipe, *, bias: bool, storage: torch.dtype) -> None:
        self.recipe = recipe
        self.bias = bias
        self.storage = storage
        self.estimates = 0
        self.A_II: Tensor | None = None
        self.G_OO: Tensor | None = None
        self.inverse: Inverses | Triangle | Eigenbasis | None = None

    def average(self, rows: Rows) -> None:
        """Take one estimate into the averages; the first ones count alike (Martens and Grosse, 2015, section 5)."""
        self.estimates += 1
        keep = self._keep()
        new_A = factors.input_factor(rows.x_NRI, rows.kept_NR, bias=self.bias)
        new_G = factors.gradient_factor(rows.g_NRO, rows.normalizer)
        self.A_II = _averaged(self.A_II, new_A, keep, self.storage)
        self.G_OO = _averaged(self.G_OO, new_G, keep, self.storage)

    def refresh(self) -> None:
        """Invert the averages; what was there stays where they cannot be inverted."""
        if self.A_II is None or self.G_OO is None:
            return
        A, G = _wide(self.A_II), _wide(self.G_OO)
        recipe = self.recipe
        try:
            new: Inverses | Triangle | Eigenbasis
            if recipe.solver is Solver.CHOLESKY:
                solver = damped.damped_solver if self.storage == A.dtype else damped.damped_inverses
                new = solver(A, G, recipe.damping)  # torch solves nothing in 16 bit
            else:
                new = damped.damped_eigenbasis(A, G, recipe.damping, recipe.form)
        except NotInvertibleError:
            return
        self.inverse = type(new)(*(part.to(self.storage) for part in new))

    def correct(self, rows: Rows) -> None:
        """Use a batch once more after `refresh`; KFAC does not."""

    def precondition(self, W_OI: Tensor) -> Tensor:
        """(A ⊗ G + damping)⁻¹ vec(W) in matrix form; W itself before the first inversion."""
        return W_OI if self.inverse is None else self.inverse.precondition(W_OI)

    def tensors(self) -> dict[str, Tensor]:
        """What is kept, by name."""
        named: Mapping[str, Tensor | None] = {"A_II": self.A_II, "G_OO": self.G_OO, **self._inverse_tensors()}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def load(self, tensors: Mapping[str, Tensor], estimates: int) -> None:
        """Take up what `tensors` gave."""
        saved = {name: tensor.to(self.storage, copy=True) for name, tensor in tensors.items()}
        self.estimates = estimates
        self.A_II, self.G_OO = saved.get("A_II"), saved.get("G_OO")
        self.inverse = None
        for kind in (Inverses, Triangle, Eigenbasis):
            if kind._fields[0] in saved:
                self.inverse = kind(*(saved[name] for name in kind._fields))

    def _keep(self) -> float:
        return min(1.0 - 1.0 / self.estimates, self.recipe.decay)

    def _inverse_tensors(self) -> dict[str, Tensor]:
        return {} if self.inverse is None else dict(self.inverse._asdict())


class CorrectedCurvature(KroneckerCurvature):
    """EKFAC: the eigenvectors of A and G, and second moments of the gradients in their basis (George et al., 2018)."""

    by_example: ClassVar[bool] = True

    def __init__(self, recipe: Recipe, *, bias: bool, storage: torch.dtype) -> None:
        super().__init__(recipe, bias=bias, storage=storage)
        self.S_OI: Tensor | None = None

    def refresh(self) -> None:
        """Find the eigenvectors again and carry the second moments over to them.

        A diagonal S in the old basis is (Rᵀ)² S R² on the diagonal of the new one, R being the rotations between them.
        """
        if self.A_II is None or self.G_OO is None:
            return
        try:
            (s_A, U_A), (s_G, U_G) = damped.eigenvectors(_wide(self.A_II)), damped.eigenvectors(_wide(self.G_OO))
        except NotInvertibleError:
            return
        if self.S_OI is None or not isinstance(self.inverse, Eigenbasis):
            S_OI = torch.outer(s_G, s_A)
        else:
            old_A, old_G = _wide(self.inverse.U_A), _wide(self.inverse.U_G)
            S_OI = (U_G.mT @ old_G).square() @ _wide(self.S_OI) @ (old_A.mT @ U_A).square()
        self._take(U_A, U_G, S_OI)

    def correct(self, rows: Rows) -> None:
        """Average the second moments of a batch's gradients in the present basis."""
        if self.S_OI is None or not isinstance(self.inverse, Eigenbasis):
            return
        U_A, U_G = _wide(self.inverse.U_A), _wide(self.inverse.U_G)
        losses = rows.g_NRO.shape[0] // rows.x_NRI.shape[0]
        x_NRI = rows.x_NRI if losses == 1 else rows.x_NRI.repeat(losses, 1, 1)
        new = factors.squares_in_basis(x_NRI, rows.g_NRO, U_A, U_G, rows.normalizer, bias=self.bias)
        self._take(U_A, U_G, _wide(self.S_OI).lerp(new, 1.0 - self._keep()))

    def _take(self, U_A: Tensor, U_G: Tensor, S_OI: Tensor) -> None:
        self.S_OI = S_OI.to(self.storage)
        inverse = (S_OI + self.recipe.damping).reciprocal_()
        self.inverse = Eigenbasis(U_A.to(self.storage), U_G.to(self.storage), inverse.to(self.storage))

    def load(self, tensors: Mapping[str, Tensor], estimates: int) -> None:
        """Take up what `tensors` gave."""
        super().load(tensors, estimates)
        saved = tensors.get("S_OI")
        self.S_OI = None if saved is None else saved.to(self.storage, copy=True)

    def _inverse_tensors(self) -> dict[str, Tensor]:
        named = super()._inverse_tensors()
        return named if self.S_OI is None else {**named, "S_OI": self.S_OI}


def _averaged(old: Tensor | None, new: Tensor, keep: float, storage: torch.dtype) -> Tensor:
    if old is None:
        return new.to(storage)
    return _wide(old).lerp_(new, 1.0 - keep).to(storage)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
