"""Buffers that a learner writes in `forward`, such as running means, guarded as weights are."""

import math

import torch
from torch import Tensor, nn

from iai_train.training.weights import infinite_buffers


class Buffers:
    """The buffers of a learner as they were after the last iteration that was finite.

    A buffer is guarded from the first write on that is seen, so constants cost nothing. After the
    first iteration all numbers are compared, which waits for the device; afterwards torch's version
    counters are, which its batch norms do not raise when they write their running means.

    Args:
        learner: What is trained.
    """

    def __init__(self, learner: nn.Module) -> None:
        self._slots = {
            f"{prefix}.{name}".removeprefix("."): (module._buffers, name)
            for prefix, module in learner.named_modules()
            for name, buffer in module._buffers.items()
            if buffer is not None and buffer.layout == torch.strided
        }
        self.infinite = infinite_buffers(learner)
        """Names of those that hold infinities by design."""
        self._last: dict[str, tuple[Tensor, int]] = {}
        self._kept: dict[str, Tensor] = {}
        self.keep()

    def keep(self) -> None:
        """Takes the buffers as they are now."""
        for name in self._slots:
            self._last[name] = (buffer := self._buffer(name)), buffer._version
            self._kept[name] = buffer.detach().clone()
        self._written: set[str] | None = None

    def written(self) -> list[str]:
        """Names of the buffers that were written, in this iteration or an earlier one."""
        if self._written is None:
            kept = self._kept.items()
            self._written = {name for name, b in kept if not torch.equal(b, self._buffer(name))}
        for name, (last, version) in self._last.items():
            if (buffer := self._buffer(name)) is not last or buffer._version != version:
                self._written.add(name)
        return [name for name in self._slots if name in self._written]

    @torch.no_grad()
    def extents(self, names: list[str]) -> Tensor:
        """The largest number of each of the buffers: see `guarded`."""
        return torch.stack(torch._foreach_norm([self._buffer(name) for name in names], math.inf))

    def guarded(self, names: list[str]) -> list[str]:
        """Those of the buffers that must stay finite: real ones that were when training began."""
        real = [name for name in names if self._buffer(name).is_floating_point()]
        return [name for name in real if name not in self.infinite and self._buffer(name).numel()]

    @torch.no_grad()
    def settle(self, names: list[str], stopped: Tensor) -> None:
        """Takes the buffers that were written, unless `stopped` is 1."""
        for name in names:
            buffer, kept = self._buffer(name), self._kept[name]
            alike = buffer.shape == kept.shape
            self._kept[name] = torch.where(stopped > 0, kept if alike else buffer, buffer)
            self._last[name] = buffer, buffer._version

    @torch.no_grad()
    def restore(self) -> None:
        """Undoes what was written since `settle` was told to stop."""
        for name in self.written():
            self._buffer(name).copy_(self._kept[name])

    def _buffer(self, name: str) -> Tensor:
        buffers, key = self._slots[name]
        buffer = buffers.get(key)
        return torch.empty(0) if buffer is None else buffer
