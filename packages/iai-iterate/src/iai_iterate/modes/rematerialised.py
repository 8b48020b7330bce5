"""Meta-gradients that cross every step, with the memory of a few: the steps are taken twice."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from iai_iterate.interfaces import Loss, Rollout, State, Step
from iai_iterate.modes.surroundings import Surroundings
from iai_iterate.rollout import detach, each, stacked, walk
from iai_iterate.steady import steady

_Walked = tuple[list[Tensor], Any]


def rematerialised(
    step: Step[State], loss: Loss[State], state: State, batches: Iterable[Any]
) -> Rollout[State]:
    """`unrolled`, with the saved tensors of only one stretch of steps in memory at a time.

    K steps are cut into stretches of sqrt(K). The forward pass drops what autograd saved for a
    stretch when the stretch is over; the backward pass takes its steps again to recompute it. So
    memory is that of about 2 sqrt(K) steps, and every step is taken twice. Values and gradients are
    those of `unrolled`, second derivatives included. Random draws from torch's own generators and
    autocast are repeated as they were.

    `torch.utils.checkpoint` does this too, but a gradient that is taken inside a step makes it
    repeat all steps since the last checkpoint, so that a stretch costs the square of its length.
    Here the saved tensors are at hand until the stretch is over, and the forward pass repeats none.

    Args:
        step: `step(state, batch) -> state`. It takes its gradients by `torch.autograd`, as
            `torch.func.grad` does not support this. A generator of its own would draw anew when the
            step is repeated: put such draws into the minibatches. What it reads must not change
            until the backward pass is over, which raises RuntimeError where it notices.
        loss: `loss(state) -> task`, taken after every step.
        state: The start, any pytree of tensors.
        batches: One minibatch a step; all are held in memory.

    Returns:
        The losses, `step task`, with gradients through all steps before them; and the last state,
        detached.

    Raises:
        ValueError: If there is no minibatch or `loss` is not one number a task; and what `steady`
            raises.

    Source:
        Chen, Xu, Zhang and Guestrin (2016), arXiv 1604.06174, section 4.1.

    >>> start = torch.tensor([1.0], requires_grad=True)
    >>> double = lambda state, batch: state * 2
    >>> losses, _ = rematerialised(double, lambda state: state, start, range(3))
    >>> torch.autograd.grad(losses.sum(), start)[0].item()  # 2 + 4 + 8
    14.0
    """
    step, items = steady(step), list(batches)
    losses, recomputed = list[Tensor](), dict[int, list[Tensor]]()
    length = math.isqrt(max(len(items) - 1, 0)) + 1  # the root, rounded up
    for first in range(0, len(items), length):
        stretch = partial(walk, step, loss, batches=items[first : first + length])
        taken, state = _Stretch(stretch, first, recomputed).take(state)
        losses += taken
    return stacked(losses), detach(state)


class _Stretch:
    """Consecutive steps, whose saved tensors are dropped, and recomputed when they are asked for.

    Autograd saves the number of a tensor in place of the tensor. The rest of the graph is the usual
    one, so that whatever the steps refer to has its gradient.

    Args:
        walk: `walk(state) -> (losses, state)`: takes the steps.
        first: The index of the first of them.
        recomputed: Shared by all stretches: the tensors of the one that the backward pass is at, by
            the index of its first step.
    """

    def __init__(
        self, walk: Callable[[Any], _Walked], first: int, recomputed: dict[int, list[Tensor]]
    ) -> None:
        self._walk, self._first, self._recomputed = walk, first, recomputed

    def take(self, state: Any) -> _Walked:
        """The loss after each step, and the last state."""
        if not torch.is_grad_enabled():
            return self._walk(state)
        self._start, self._surroundings = each(_leaf, state), Surroundings(state)
        self._saved: list[Tensor] | None = []
        self._versions: list[int] = []
        with saved_tensors_hooks(partial(_number, self._saved, self._versions), self._find):
            result = self._walk(state)
        self._saved.clear()  # autograd holds on to the list
        self._saved = None
        return result

    def _find(self, number: int) -> Tensor:
        if self._saved is not None:  # a step takes a gradient itself
            return self._saved[number]
        if self._first not in self._recomputed:
            self._recomputed.clear()  # another stretch's tensors go before this one's come
            self._recomputed[self._first] = self._recompute()
        return self._recomputed[self._first][number]

    def _recompute(self) -> list[Tensor]:
        tensors, versions = list[Tensor](), list[int]()
        hooks = saved_tensors_hooks(partial(_number, tensors, versions), tensors.__getitem__)
        with self._surroundings.restored(), torch.enable_grad(), hooks:
            self._walk(self._start)
        if versions != self._versions:
            raise RuntimeError(
                f"`step` must do the same when it is taken again: it saved {len(self._versions)} "
                f"tensors for the backward pass, and then {len(versions)}, or one of them was "
                "changed in place. A parameter, a mode such as train or eval, or a generator of "
                "its own may have changed."
            )
        return tensors


def _number(tensors: list[Tensor], versions: list[int], tensor: Tensor) -> int:
    tensors.append(tensor.detach())
    versions.append(tensor._version)
    return len(tensors) - 1


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.requires_grad)
