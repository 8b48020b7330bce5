"""What a computation depends on besides its arguments, so that it can be repeated bit for bit."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves


class Surroundings:
    """The state of torch's own generators and of autocast at the time when this is made.

    Args:
        tree: Tensors on each device that computes, besides the CPU.
    """

    def __init__(self, tree: Any) -> None:
        devices = {leaf.device for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)}
        self._cpu = torch.get_rng_state()
        # Not by `torch.utils.checkpoint`: it knows one kind of device at a time, and not mps.
        self._generators = {
            device: torch.get_device_module(device).get_rng_state(device)
            for device in devices
            if device.type != "cpu"
        }
        self._autocasts = [
            (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
            for kind in sorted({"cpu", *(device.type for device in devices)})
        ]
        self._cached = torch.is_autocast_cache_enabled()

    @contextmanager
    def restored(self) -> Iterator[None]:
        """All of it as it was then; on leaving, as it was on entering."""
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=[]))
            torch.set_rng_state(self._cpu)
            for device, state in self._generators.items():
                fork = torch.random.fork_rng([device.index], device_type=device.type)
                stack.enter_context(fork)
                torch.get_device_module(device).set_rng_state(state, device)
            for kind, dtype, enabled in self._autocasts:
                stack.enter_context(torch.autocast(kind, dtype, enabled, self._cached))
            yield
