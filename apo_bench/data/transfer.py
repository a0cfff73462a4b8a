"""From the host to the device, without waiting for it."""

import torch
from torch import Tensor


def pinned(host: Tensor, device: torch.device) -> Tensor:
    """The tensor in page-locked memory where it, or parts of it, will be sent to a CUDA device; else as it is.

    Do not change it in place while a copy may be under way.
    """
    return host.pin_memory() if device.type == "cuda" and host.device.type == "cpu" else host


def send(host: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device.

    A copy out of pageable memory waits for all that was launched before it: once a step, the device would run dry. One
    out of page-locked memory is queued like a kernel, and torch keeps the memory until it is done.

    Args:
        host: On the CPU; what `pinned` gave is not pinned again.
        device: Any.
    """
    return pinned(host, device).to(device, non_blocking=device.type == "cuda")
