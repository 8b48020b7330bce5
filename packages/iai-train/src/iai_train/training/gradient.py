"""The gradient of a batch of tasks, all of them at once or a chunk at a time."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import attrs
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_map

from iai_train.config import FitConfig
from iai_train.training.averaging import Averaging
from iai_train.training.tree import leaves

Weight = Callable[[Float[Tensor, "step task"]], Float[Tensor, "step task"]]


@attrs.frozen(eq=False)
class MetaGradient:
    """Runs the learner on a batch of tasks and gives its weights their gradient.

    In chunks, the weights sum up the gradients of one chunk after the other, and several processes
    exchange theirs with the last. A chunk counts by its number of tasks, so that the sum is the
    gradient of all tasks at once.
    """

    model: Averaging
    """The learner, and the processes that exchange its gradients."""
    config: FitConfig
    """The settings."""
    device: torch.device
    """Where the learner is."""
    weight: Weight | None
    """Weight of each loss given the number of examples seen; None is 1."""

    def add(self, tasks: Any, state: Any) -> tuple[Float[Tensor, ""], list[Tensor], Any]:
        """Adds the gradient of the mean loss to that of the weights.

        Returns:
            The mean loss and the losses, `step task` of each chunk, both without gradient; and the
            state that the learner left the tasks in.

        Raises:
            TypeError: `tasks`, or `state`, cannot be cut into chunks.
            ValueError: The learner returned other shapes than it must.
        """
        chunk = self.config.chunk
        if chunk is None:
            loss, each, state = self._add(tasks, state, 1.0)
            self.model.finish()
            return loss, [each], state
        num_tasks = _num_tasks(tasks)
        losses, all_losses, states = [], [], []
        for start in range(0, num_tasks, chunk):
            stop = min(start + chunk, num_tasks)
            part = _slice("tasks", tasks, start, stop), _slice("state", state, start, stop)
            waits = self.model.waiting() if stop < num_tasks else nullcontext()
            with waits:
                loss, each, after = self._add(*part, (stop - start) / num_tasks)
            if each.shape[1] != stop - start:
                raise ValueError(
                    f"`learner` must return a loss for each of the {stop - start} tasks of a "
                    f"chunk; got {each.shape[1]}."
                )
            losses.append(loss)
            all_losses.append(each)
            states.append(after)
        self.model.finish()
        state = None if states[0] is None else tree_map(_joined, *states)
        return torch.stack(losses).sum(), all_losses, state

    def _add(self, tasks: Any, state: Any, share: float) -> tuple[Tensor, Tensor, Any]:
        bf16 = self.config.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            losses, seen, state = self.model.module(tasks, state)
        if losses.ndim != 2 or seen.shape != losses.shape:
            raise ValueError(
                "`learner` must return losses and seen of one shape, `step task`; got "
                f"{tuple(losses.shape)} and {tuple(seen.shape)}."
            )
        # Autocast may give bf16.
        losses = losses.to(torch.promote_types(losses.dtype, torch.float32))
        weighted = losses if self.weight is None else self.weight(seen) * losses
        loss = share * weighted.mean()
        if not loss.requires_grad:
            raise ValueError(
                "`learner` must return losses that depend on its weights; these have no gradient."
            )
        torch.autograd.backward(loss)
        return loss.detach(), losses.detach(), state


def _joined(*parts: Any) -> Tensor:
    """The states of all chunks as one."""
    if not all(isinstance(part, Tensor) and part.ndim for part in parts):
        got = tuple(parts[0].shape) if isinstance(parts[0], Tensor) else type(parts[0]).__name__
        raise ValueError(
            f"`learner` must return a state of tensors that lead with the tasks; got {got}."
        )
    return torch.cat(parts)


def _num_tasks(tasks: Any) -> int:
    """Length of the axis that leads every tensor of the tasks."""
    for leaf in leaves(tasks):
        if isinstance(leaf, Tensor) and leaf.ndim:
            return len(leaf)
    raise TypeError(f"`tasks` must hold tensors to be cut into chunks; got {type(tasks).__name__}.")


def _slice(name: str, tree: Any, start: int, stop: int) -> Any:
    """Some of the tasks: `[start:stop]` of every tensor or record in a pytree."""
    try:
        cut = tree_map(lambda leaf: None if leaf is None else leaf[start:stop], tree)
    except (TypeError, IndexError) as error:
        raise TypeError(
            f"`{name}` must be a record with `{name}[i:j]`, or a pytree of such records and "
            f"tensors, to be cut into chunks; got {type(tree).__name__}: {error}"
        ) from error
    if cut is not None and _num_tasks(cut) != stop - start:
        raise TypeError(f"`{name}[i:j]` must be those tasks; {type(tree).__name__} gives others.")
    return cut
