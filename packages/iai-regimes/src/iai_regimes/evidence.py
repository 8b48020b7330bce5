"""What a rule is told of a minibatch: how much is new in it, beside what was seen before."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.utils._pytree import tree_map

NUM_COUNT_FEATURES = 4


class Evidence(NamedTuple):
    """A minibatch, and how many examples it adds to those that were seen before.

    >>> evidence = Evidence(None, torch.tensor([16.0, 0.0]), torch.tensor([48.0, 48.0]), True)
    >>> evidence.gain.tolist(), evidence.informed.tolist(), evidence.seen_after.tolist()
    ([0.25, 0.0], [True, False], [64.0, 48.0])
    """

    encoded: Any  # what the rule's `encode` made of the minibatch
    num_observed: Float[Tensor, " task"]  # observed examples in the minibatch
    seen: Float[Tensor, " task"]  # distinct examples that the state has read before
    fresh: bool  # False for a minibatch that was read before: it adds nothing to `seen`

    @property
    def informed(self) -> Bool[Tensor, " task"]:
        """Whether a task has an observed example in the minibatch; one that has none stays."""
        return self.num_observed > 0

    @property
    def gain(self) -> Float[Tensor, " task"]:
        """The share of the minibatch in all the evidence; see `annealed_gain`."""
        return annealed_gain(self.seen, self.num_observed)

    @property
    def seen_after(self) -> Float[Tensor, " task"]:
        """Distinct examples that the state has read once this minibatch is among them."""
        return self.seen + self.num_observed if self.fresh else self.seen


def spread(numbers: Shaped[Tensor, " task"], like: Tensor) -> Shaped[Tensor, "task ..."]:
    """A number for each task, with axes of size 1 behind it to broadcast with `task *shape`.

    >>> spread(torch.tensor([1.0, 2.0]), torch.zeros(2, 3, 4)).shape
    torch.Size([2, 1, 1])
    """
    return numbers.view(-1, *[1] * (like.dim() - 1))


def annealed_gain(
    seen: Float[Tensor, " task"], count: Float[Tensor, " task"]
) -> Float[Tensor, " task"]:
    """The share of a minibatch in all the evidence, count / (seen + count); 0 for an empty one.

    A state moved by this share of each proposal is the mean of the proposals, the step size of
    Robbins and Monro (1951): noise averages out, and any number of steps adds up to one.

    Args:
        seen: Distinct examples behind the state.
        count: Observed examples in the minibatch.

    Returns:
        The gain, in [0, 1].

    >>> annealed_gain(torch.tensor([0.0, 48.0, 5.0]), torch.tensor([16.0, 16.0, 0.0])).tolist()
    [1.0, 0.25, 0.0]
    """
    return count / (seen + count).clamp(min=1)


def count_features(
    seen: Float[Tensor, " task"], count: Float[Tensor, " task"]
) -> Float[Tensor, "task 4"]:
    """The evidence as numbers a network can read: in [0, 1], with a limit as `seen` grows.

    A network that reads bounded features goes on to counts far beyond those it was trained on;
    log(1 + seen) leaves its trained range there.

    Args:
        seen: Distinct examples behind the state.
        count: Observed examples in the minibatch.

    Returns:
        The gain and its square root, then (1 + seen + count) to the powers -1/2 and -1/4.

    >>> count_features(torch.tensor([240.0]), torch.tensor([15.0])).tolist()
    [[0.058..., 0.242..., 0.0625, 0.25]]
    """
    gain = annealed_gain(seen, count)
    root = (1 + seen + count).rsqrt()
    return torch.stack([gain, gain.sqrt(), root, root.sqrt()], dim=-1)


def masked_mean(
    values: Float[Tensor, "task n dim"], mask: Bool[Tensor, "task n"]
) -> Float[Tensor, "task dim"]:
    """Mean over the observed examples; 0 where there is none.

    What lies behind the mask does not reach the result; to keep NaN out of gradients as well, keep
    it out of what the values are computed from.

    >>> masked_mean(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]))
    tensor([[2.]])
    """
    kept = values.masked_fill(~mask[..., None], 0.0)
    return kept.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def running_mean(
    mean: Float[Tensor, "task *k"], new: Float[Tensor, "task *k"], evidence: Evidence
) -> Float[Tensor, "task *k"]:
    """The mean over every example seen, brought up to date by the mean over a minibatch.

    A minibatch that was read before is in the mean already. Even if only the last minibatch's
    gradient is kept, it estimates the full gradient of a loss on the mean, for every example has
    the same weight: greedy training, which cuts the path through earlier steps, still teaches what
    to remember.

    Args:
        mean: Over the `evidence.seen` examples; anything where there are none.
        new: Over the observed examples of the minibatch.
        evidence: How many examples each mean is over.
    """
    if not evidence.fresh:
        return mean
    return mean + spread(evidence.gain, mean) * (new - mean)


def moved_where(moving: Bool[Tensor, " task"], new: Any, old: Any) -> Any:
    """The new state of each task that moves, the old one of the others.

    Args:
        moving: Which tasks move.
        new: A pytree of tensors, each led by the task axis.
        old: One of the same structure and shapes.

    Returns:
        One like them. Gradients flow to `new` where a task moves, to `old` where it does not.

    >>> both = torch.tensor([[1.0], [2.0]]), torch.tensor([3.0, 4.0])
    >>> moved_where(torch.tensor([True, False]), both, (-both[0], -both[1]))
    (tensor([[ 1.],
            [-2.]]), tensor([ 3., -4.]))
    """
    return tree_map(lambda a, b: torch.where(spread(moving, a), a, b), new, old)
