"""What a computation depends on beside its arguments, so that it can be repeated to the bit."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves


class Ambience:
    """The state of torch's own generators and of autocast, as they are when this is made.

    Args:
        tree: Tensors on the devices that matter, the CPU aside.
    """

    def __init__(self, tree: Any) -> None:
        devices = {leaf.device for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)}
        self._devices = [device for device in devices if device.type != "cpu"]
        self._cpu = torch.get_rng_state()
        self._generators = [_module(device).get_rng_state(device) for device in self._devices]
        kinds = {"cpu", *(device.type for device in self._devices)}
        self._autocasts = [
            (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
            for kind in sorted(kinds)
        ]
        self._cached = torch.is_autocast_cache_enabled()

    @contextmanager
    def restored(self) -> Iterator[None]:
        """All of it as it was; afterwards as it is now."""
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=[]))
            torch.set_rng_state(self._cpu)
            for device, generator in zip(self._devices, self._generators, strict=True):
                fork = torch.random.fork_rng([device.index], device_type=device.type)
                stack.enter_context(fork)
                _module(device).set_rng_state(generator, device)
            for kind, dtype, enabled in self._autocasts:
                cast = torch.autocast(kind, dtype, enabled, self._cached)
                stack.enter_context(cast)
            yield


def _module(device: torch.device) -> Any:
    return torch.get_device_module(device)
