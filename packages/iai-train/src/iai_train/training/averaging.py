"""Which weights get a gradient, and its mean over several processes."""

import gc
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from iai_train.processes import Processes


class Averaging:
    """A learner whose gradients are averaged over the processes that train it.

    The first iteration finds the weights that get no gradient. From the second one on, torch's
    `DistributedDataParallel` averages; it is told whether to look for such weights, which takes it
    time in every iteration, and without which it would fail on them.

    Args:
        learner: What is trained. The main process's weights and buffers go to all.
        processes: Those that train it.
    """

    def __init__(self, learner: nn.Module, processes: Processes) -> None:
        self.module: nn.Module = learner
        """What to call for the losses."""
        self._learner, self._processes = learner, processes
        self._begun = False
        if processes.count > 1:
            for tensor in (*learner.parameters(), *learner.buffers()):
                copied = tensor.detach().contiguous()
                torch.distributed.broadcast(copied, 0)
                tensor.detach().copy_(copied)

    def waiting(self) -> AbstractContextManager[None]:
        """Sums up gradients in this process alone, before another backward pass exchanges them."""
        if isinstance(self.module, DistributedDataParallel):
            return self.module.no_sync()
        return nullcontext()

    def finish(self) -> None:
        """Is called when an iteration's gradients are there, before they are used.

        Warns:
            UserWarning: After the first, of trainable weights that got none in any process.

        Raises:
            ValueError: No weight got any.
        """
        if self._begun:
            return
        self._begun = True
        weights = {name: w for name, w in self._learner.named_parameters() if w.requires_grad}
        here = [name for name, weight in weights.items() if weight.grad is None]
        missing = self._processes.gather(here)
        nowhere = [name for name in weights if all(name in names for names in missing)]
        if len(nowhere) == len(weights):
            raise ValueError(
                "`learner` must return losses that depend on its weights; no weight got a gradient."
            )
        if nowhere and self._processes.index == 0:
            named = ", ".join(f"`{name}`" for name in nowhere)
            warnings.warn(
                f"These weights of `learner` get no gradient and stay as they are: {named}. Freeze "
                "them (`requires_grad_(False)`), or have the losses depend on them.",
                stacklevel=2,
            )
        if self._processes.count > 1:
            for name, weight in weights.items():
                if name not in nowhere:
                    self._average(weight)
            self.module = DistributedDataParallel(
                self._learner, find_unused_parameters=any(missing)
            )

    def _average(self, weight: nn.Parameter) -> None:
        mean = torch.zeros_like(weight) if weight.grad is None else weight.grad.contiguous()
        torch.distributed.all_reduce(mean)
        weight.grad = torch.empty_like(weight).copy_(mean / self._processes.count)


@contextmanager
def averaging(learner: nn.Module, processes: Processes) -> Iterator[Averaging]:
    """Averages a learner's gradients while it is trained; then lets go of it."""
    model = Averaging(learner, processes)
    try:
        yield model
    finally:
        model.module = learner
        if processes.count > 1:  # the wrapper refers to itself, and hooks into the weights
            gc.collect()
