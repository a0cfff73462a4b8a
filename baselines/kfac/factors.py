"""Kronecker factors of a layer's curvature, as pure functions of tensors.

Every layer with weights is brought to one normal form: for example ``n`` and position ``r`` at which it is shared, an
input x_nr and an output W x_nr (Linear: r runs over all dimensions between the first and the last; convolution: over
the places of the kernel, x being what the kernel sees there). With ĝ_nr the gradient of the mean loss in that output,

    A = 1/(N R) Σ_nr x_nr x_nrᵀ,    G = N Σ_nr ĝ_nr ĝ_nrᵀ,    curvature ≈ A ⊗ G,

which for convolutions is KFC (Grosse and Martens, 2016) and for other shared weights the
*expand* approximation of Eschenhagen et al. (2023). Their *reduce* averages the inputs and
sums the gradients over r first; then R = 1.

Rows that the loss does not depend on (padding, examples without a label) do not count: with M that do, A = 1/M Σ over
these, *reduce* averages over those of each example, and an example of which none counts is none.

Shapes: ``x_NRI`` inputs, ``g_NRO`` gradients of the mean loss, ``kept_NR`` which rows count, ``A_II``, ``G_OO``,
``S_OI``. With a bias, I counts one input more, which is always 1 and never stored.
"""

import itertools
from enum import StrEnum

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

InputRows = Float[Tensor, "N R I"]
GradientRows = Float[Tensor, "N R O"]
Kept = Bool[Tensor, "N R"]


class Sharing(StrEnum):
    """How the positions that share a weight are treated."""

    EXPAND = "expand"
    REDUCE = "reduce"


def input_rows(module: nn.Module, inputs: Float[Tensor, "N ..."]) -> InputRows:
    """Bring a layer's input to ``x_NRI`` (without the bias's 1).

    A kernel's columns run over height, width, channels.
    """
    if not isinstance(module, nn.Conv2d):
        return inputs.reshape(inputs.shape[0], -1, inputs.shape[-1])
    padding = module._reversed_padding_repeated_twice  # noqa: SLF001 - also holds what padding="same" means
    if any(padding):
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        inputs = F.pad(inputs, padding, mode=mode)
    image = inputs.movedim(1, -1)  # N, height, width, channels
    (batch, height, width, channels), (s_batch, s_height, s_width, s_channels) = image.shape, image.stride()
    (k_h, k_w), (d_h, d_w), (step_h, step_w) = module.kernel_size, module.dilation, module.stride
    places_h = (height - d_h * (k_h - 1) - 1) // step_h + 1
    places_w = (width - d_w * (k_w - 1) - 1) // step_w + 1
    windows = image.as_strided(
        (batch, places_h, places_w, k_h, k_w, channels),
        (s_batch, s_height * step_h, s_width * step_w, s_height * d_h, s_width * d_w, s_channels),
        image.storage_offset(),
    )
    return windows.reshape(batch, places_h * places_w, k_h * k_w * channels)


def gradient_rows(module: nn.Module, gradient: Float[Tensor, "N ..."]) -> GradientRows:
    """Bring the gradient in a layer's output to ``g_NRO``."""
    if isinstance(module, nn.Conv2d):
        gradient = gradient.movedim(1, -1)
    return gradient.reshape(gradient.shape[0], -1, gradient.shape[-1])


def share(
    x_NRI: InputRows, g_MRO: Float[Tensor, "M R O"], sharing: Sharing, kept_NR: Kept | None = None
) -> tuple[Float[Tensor, "N S I"], Float[Tensor, "M S O"], Bool[Tensor, "N S"] | None]:
    """Treat the shared positions: *expand* leaves them, *reduce* averages inputs and sums gradients.

    For the exact Fisher matrix an example has several gradients: M is then a multiple of N. Rows that do not count may
    have gradients (a normalization over the batch sees them), which become 0.
    """
    if kept_NR is not None:
        g_MRO = torch.where(kept_NR.repeat(g_MRO.shape[0] // x_NRI.shape[0], 1).unsqueeze(2), g_MRO, 0.0)
    if sharing is not Sharing.REDUCE or x_NRI.shape[1] == 1:
        return x_NRI, g_MRO, kept_NR
    g_M1O = g_MRO.sum(1, keepdim=True)
    if kept_NR is None:
        return x_NRI.mean(1, keepdim=True), g_M1O, None
    counts_N1 = kept_NR.sum(1, keepdim=True)
    kept_NR1 = kept_NR.unsqueeze(2)
    sums_N1I = torch.where(kept_NR1, x_NRI, 0.0).sum(1, keepdim=True)
    return sums_N1I / counts_N1.clamp_min(1).unsqueeze(2), g_M1O, counts_N1 > 0


def input_factor(x_NRI: InputRows, kept_NR: Kept | None = None, *, bias: bool) -> Float[Tensor, "I+{bias} I+{bias}"]:
    """A = 1/M Σ x xᵀ over the M rows that count, with a last row and column for the bias's 1.

    >>> input_factor(torch.tensor([[[1.0, 2.0]], [[3.0, 0.0]]]), bias=True)
    tensor([[5., 1., 2.],
            [1., 2., 1.],
            [2., 1., 1.]])
    """
    rows = x_NRI.flatten(0, 1) if kept_NR is None else x_NRI[kept_NR]
    count, features = rows.shape
    if not bias:
        return gram(rows).div_(count)
    A_II = rows.new_empty(features + 1, features + 1)
    A_II[:features, :features] = gram(rows)
    A_II[features, :features] = A_II[:features, features] = rows.sum(0)
    A_II[features, features] = count
    return A_II.div_(count)


def gradient_factor(g_NRO: GradientRows, normalizer: int) -> Float[Tensor, "O O"]:
    """G = N Σ ĝ ĝᵀ, where N is what the mean loss was divided by."""
    rows = g_NRO.flatten(0, 1)
    return gram(rows).mul_(normalizer)


def gram(rows_MD: Float[Tensor, "M D"]) -> Float[Tensor, "D D"]:
    """Σ x xᵀ over all rows.

    Of a large one only the blocks on and above the diagonal are products, 5/8 of them with 4 × 4 blocks; those below
    are copies. torch has no symmetric product.

    >>> gram(torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
    tensor([[10.,  2.],
            [ 2.,  4.]])
    """
    features = rows_MD.shape[1]
    if features < _LARGE:
        return rows_MD.mT @ rows_MD
    found_DD = rows_MD.new_empty(features, features)
    for start, stop in itertools.pairwise(features * block // _BLOCKS for block in range(_BLOCKS + 1)):
        products = rows_MD[:, start:stop].mT @ rows_MD[:, start:]
        found_DD[start:stop, start:] = products
        found_DD[stop:, start:stop] = products[:, stop - start :].mT
    return found_DD


def squares_in_basis(
    x_NRI: InputRows,
    g_NRO: GradientRows,
    U_A: Float[Tensor, "I+{bias} I+{bias}"],
    U_G: Float[Tensor, "O O"],
    normalizer: int,
    *,
    bias: bool,
) -> Float[Tensor, "O I+{bias}"]:
    """Second moments of the examples' gradients in a Kronecker basis (George et al., 2018).

        S = 1/N Σ_n (U_Gᵀ (Σ_r N ĝ_nr x_nrᵀ) U_A)²,

    the diagonal that is nearest to the Fisher matrix in that basis; ``S_OI``.
    """
    x_NRI = torch.add(x_NRI @ U_A[:-1], U_A[-1]) if bias else x_NRI @ U_A
    g_NRO = g_NRO @ U_G
    if x_NRI.shape[1] == 1:  # the square of an outer product is the outer product of squares
        return (g_NRO.squeeze(1).square_().mT @ x_NRI.squeeze(1).square_()).mul_(normalizer)
    S_OI = torch.zeros(g_NRO.shape[2], x_NRI.shape[2], dtype=x_NRI.dtype, device=x_NRI.device)
    chunk = max(1, _CHUNK // S_OI.numel())
    for x, g in zip(torch.split(x_NRI, chunk), torch.split(g_NRO, chunk), strict=True):
        S_OI += torch.bmm(g.mT, x).square_().sum(0)
    return S_OI.mul_(normalizer)


_LARGE = 256
_BLOCKS = 4
_CHUNK = 2**22
"""Numbers in the gradients of the examples that are held at once: 16 MiB in float32."""
