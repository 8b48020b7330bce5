"""Meta-gradients that cross every step, for the memory of a few: what is needed is made again."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from iai_iterate.interfaces import GradientMode, Loss, Rollout, State, Step
from iai_iterate.modes.ambience import Ambience
from iai_iterate.modes.truncated import detach, each
from iai_iterate.rollout import stacked, steady

_Walked = tuple[list[Tensor], Any]


def rematerialised(stretch: int | None = None) -> GradientMode[State]:
    """A gradient mode: `unrolled`, with the tensors of one stretch of steps in memory at a time.

    The forward pass drops what autograd saved for a stretch as soon as the stretch is over, and the
    backward pass takes its steps once more to have it again. Values and gradients are those of
    `unrolled`, whatever they are taken by, and so are gradients of gradients; random draws from
    torch's own generators and autocast are as they were. With K steps in stretches of sqrt(K),
    memory is that of about 2 sqrt(K) steps, and every step is taken twice.

    `torch.utils.checkpoint` does this too, but a gradient that is taken inside a step makes it
    repeat all steps since the last checkpoint, so that a stretch costs the square of its length.
    Here the saved tensors are at hand until the stretch is over, and nothing is repeated in the
    forward pass.

    Args:
        stretch: Steps in a stretch; None for the root of their number.

    Returns:
        `mode(step, loss, state, batches)`, with the arguments and results of `unrolled`. All the
        minibatches are held. The step takes its gradients by `torch.autograd`: `torch.func.grad`
        says that it does not support this. A generator of the step's own would draw anew when the
        step is taken again: put its draws into the minibatches. What the step reads is left as it
        is until the backward pass is over, which raises RuntimeError where it notices otherwise.

    Raises:
        ValueError: If `stretch` is below 1.

    Source:
        Chen, Xu, Zhang and Guestrin (2016), arXiv 1604.06174, section 4.1.

    >>> start = torch.tensor([1.0], requires_grad=True)
    >>> double = lambda state, batch: state * 2
    >>> losses, _ = rematerialised()(double, lambda state: state, start, range(3))
    >>> torch.autograd.grad(losses.sum(), start)[0].item()  # 2 + 4 + 8
    14.0
    """
    if stretch is not None and stretch < 1:
        raise ValueError(f"`stretch` must be at least 1; got {stretch}.")

    return partial(_rematerialise, stretch)


def _rematerialise(
    stretch: int | None,
    step: Step[State],
    loss: Loss[State],
    state: State,
    batches: Iterable[Any],
) -> Rollout[State]:
    items, losses, shelf = list(batches), list[Tensor](), dict[int, list[Tensor]]()
    length = stretch or math.isqrt(max(len(items) - 1, 0)) + 1  # the root, rounded up
    for first in range(0, len(items), length):
        walk = partial(_walk, steady(step), loss, items[first : first + length])
        taken, state = _Stretch(walk, first, shelf).take(state)
        losses += taken
    return stacked(losses), detach(state)


def _walk(step: Step[Any], loss: Loss[Any], items: list[Any], state: Any) -> _Walked:
    losses = []
    for item in items:
        state = step(state, item)
        losses.append(loss(state))
    return losses, state


class _Stretch:
    """Consecutive steps, whose saved tensors are numbered, dropped, and made again when asked for.

    Autograd keeps the numbers. The graph is the real one, so that whatever the steps refer to (a
    learned rate, what is computed from one) has its gradient as ever.

    Args:
        walk: `walk(state) -> (losses, state)`: takes the steps.
        first: The number of the first of them, by which the shelf knows it.
        shelf: What all stretches share: the tensors of the one that the backward pass is at.
    """

    def __init__(
        self, walk: Callable[[Any], _Walked], first: int, shelf: dict[int, list[Tensor]]
    ) -> None:
        self._walk, self._first, self._shelf = walk, first, shelf

    def take(self, state: Any) -> _Walked:
        """The loss after each step, and the last state."""
        if not torch.is_grad_enabled():
            return self._walk(state)
        self._start, self._ambience = each(_leaf, state), Ambience(state)
        self._at_hand: list[Tensor] | None = []
        self._versions: list[int] = []
        with saved_tensors_hooks(partial(_keep, self._at_hand, self._versions), self._find):
            result = self._walk(state)
        self._at_hand.clear()  # autograd holds on to the list
        self._at_hand = None
        return result

    def _find(self, number: int) -> Tensor:
        if self._at_hand is not None:  # a step takes a gradient itself
            return self._at_hand[number]
        tensors = self._shelf.get(self._first)
        if tensors is None:
            self._shelf.clear()  # another stretch's tensors go before this one's come
            self._shelf[self._first] = tensors = self._made_again()
        return tensors[number]

    def _made_again(self) -> list[Tensor]:
        tensors, versions = list[Tensor](), list[int]()
        hooks = saved_tensors_hooks(partial(_keep, tensors, versions), tensors.__getitem__)
        with self._ambience.restored(), torch.enable_grad(), hooks:
            self._walk(self._start)
        if versions != self._versions:
            raise RuntimeError(_difference(self._versions, versions, tensors))
        return tensors


def _difference(before: list[int], after: list[int], tensors: list[Tensor]) -> str:
    if len(before) != len(after):
        change = f"it saved {len(before)} tensors for the backward pass, and then {len(after)}"
    else:
        index = next(i for i, version in enumerate(before) if version != after[i])
        change = f"a tensor of {tuple(tensors[index].shape)} that it uses was changed in place"
    return (
        f"`step` must do the same when it is taken again: {change}. It may be that a parameter, a "
        "mode such as train or eval, or a draw of the step's own is not what it was."
    )


def _keep(tensors: list[Tensor], versions: list[int], tensor: Tensor) -> int:
    tensors.append(tensor.detach())
    versions.append(tensor._version)
    return len(tensors) - 1


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.requires_grad)
