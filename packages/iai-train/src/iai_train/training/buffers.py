"""Buffers that a learner writes in `forward`, such as running means, guarded as weights are."""

import math

import torch
from torch import Tensor, nn

from iai_train.training.weights import infinite_buffers


class Buffers:
    """The buffers of a learner as they were after the last iteration that was finite.

    Which of them were written is told by torch's count of writes, so that constants cost nothing.

    Args:
        learner: What is trained.
    """

    def __init__(self, learner: nn.Module) -> None:
        self._slots = {
            f"{prefix}.{name}".removeprefix("."): (module._buffers, name)
            for prefix, module in learner.named_modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        }
        self._infinite = infinite_buffers(learner)
        self._last: dict[str, tuple[Tensor, int]] = {}
        self._kept: dict[str, Tensor] = {}
        self.keep()

    def keep(self) -> None:
        """Takes the buffers as they are now."""
        for name in self._slots:
            self._last[name] = (buffer := self._buffer(name)), buffer._version
            self._kept[name] = buffer.detach().clone()

    def written(self) -> list[str]:
        """Names of the buffers that were written since."""
        return [
            name
            for name, (last, version) in self._last.items()
            if (buffer := self._buffer(name)) is not last or buffer._version != version
        ]

    @torch.no_grad()
    def extents(self, names: list[str]) -> Tensor:
        """The largest number of each buffer, or 0 for one that may be infinite."""
        buffers = map(self._buffer, names)
        none = torch.zeros(())
        return torch.stack(
            [
                none.to(buffer.device)
                if name in self._infinite or not buffer.is_floating_point()
                else torch.linalg.vector_norm(buffer, math.inf, dtype=torch.float32)
                for name, buffer in zip(names, buffers, strict=True)
            ]
        )

    @torch.no_grad()
    def settle(self, names: list[str], stopped: Tensor) -> None:
        """Keeps what was written; or, where `stopped` is 1, undoes it."""
        for name in names:
            buffer, kept = self._buffer(name), self._kept[name]
            if buffer.shape == kept.shape and buffer.dtype == kept.dtype:
                buffer.copy_(torch.where(stopped > 0, kept, buffer))
            self._kept[name] = buffer.detach().clone()
            self._last[name] = buffer, buffer._version

    def _buffer(self, name: str) -> Tensor:
        buffers, key = self._slots[name]
        buffer = buffers[key]
        return torch.empty(0) if buffer is None else buffer
