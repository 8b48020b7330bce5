"""Sums over many tokens are kept in single precision at least."""

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Turns autocast off, which would multiply matrices, and so sum, in half precision."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()  # the meta device, for one, refuses even to turn it off
