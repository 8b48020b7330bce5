"""What a computation depends on besides its arguments, so that it can be repeated bit for bit."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import get_device_states, set_device_states


class Surroundings:
    """The state of torch's own generators and of autocast at the time when this is made.

    Args:
        tree: Tensors on the device that computes, if that is not the CPU.
    """

    def __init__(self, tree: Any) -> None:
        tensors = {leaf.device: leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)}
        kinds = {"cpu", *(device.type for device in tensors)}
        self._kind = next((kind for kind in kinds if kind != "cpu"), "cpu")
        self._cpu = torch.get_rng_state()
        self._devices, self._generators = get_device_states(*tensors.values())
        self._autocasts = [
            (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
            for kind in sorted(kinds)
        ]
        self._cached = torch.is_autocast_cache_enabled()

    @contextmanager
    def restored(self) -> Iterator[None]:
        """All of it as it was then; on leaving, as it was on entering."""
        with ExitStack() as stack:
            fork = torch.random.fork_rng(self._devices, device_type=self._kind)
            stack.enter_context(fork)
            torch.set_rng_state(self._cpu)
            set_device_states(self._devices, self._generators, device_type=self._kind)
            for kind, dtype, enabled in self._autocasts:
                stack.enter_context(torch.autocast(kind, dtype, enabled, self._cached))
            yield
