"""Draws that a NaN does not stop.

`torch.multinomial` and `torch.bernoulli` assert that probabilities are in [0, 1], on CUDA in the kernel: after a failed
assertion the process cannot use the card any more, so that one diverged network would end all that share the process.
These draw the same on a CPU, bit for bit and with the same use of the generator.
"""

import torch
from jaxtyping import Float, Integer
from torch import Tensor


def categorical(p_BC: Float[Tensor, "B C"], generator: torch.Generator) -> Integer[Tensor, "B"]:
    """One class c for each row, with probability p_c: the first of C exponential clocks with rates p_c to ring.

    argmax p_c / q_c with q_c ~ Exp(1), which `torch.multinomial` computes too. A row with a NaN gives the first class
    whose probability is NaN.

    Args:
        p_BC: Probabilities, not negative; each row up to a factor.
        generator: On the device of ``p_BC``.
    """
    q_BC = torch.empty_like(p_BC).exponential_(generator=generator)
    return torch.div(p_BC, q_BC, out=q_BC).argmax(dim=-1)


def bernoulli(p: Float[Tensor, "*shape"], generator: torch.Generator) -> Float[Tensor, "*shape"]:
    """1 with probability p, else 0, in the format of ``p``; 0 where p is NaN.

    Args:
        p: Probabilities.
        generator: On the device of ``p``.
    """
    return torch.rand(p.shape, generator=generator, dtype=p.dtype, device=p.device).lt_(p)
