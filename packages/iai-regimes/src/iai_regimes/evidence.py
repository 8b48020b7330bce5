"""The number of examples in a minibatch and before it, and means over both."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.utils._pytree import tree_map

NUM_COUNT_FEATURES = 4


class Evidence(NamedTuple):
    """A minibatch of b observed examples, read after n distinct examples.

    >>> evidence = Evidence((), torch.tensor([15.0, 0.0]), torch.tensor([240.0, 9.0]), True)
    >>> evidence.informed.tolist(), evidence.seen_after.tolist()
    ([True, False], [255.0, 9.0])
    >>> evidence.features[0].tolist()
    [0.058..., 0.242..., 0.0625, 0.25]
    """

    encoded: Any  # what the rule's `encode` made of the minibatch
    num_observed: Float[Tensor, " task"]  # b, observed examples in the minibatch
    seen: Float[Tensor, " task"]  # n, distinct examples that the state has read so far
    fresh: bool  # False if the state has read this minibatch before

    @property
    def informed(self) -> Bool[Tensor, " task"]:
        """Whether a task has an observed example; if not, its state must stay as it is."""
        return self.num_observed > 0

    @property
    def gain(self) -> Float[Tensor, " task"]:
        """The share of the minibatch in all the evidence, b / (n + b); 0 if b is 0.

        With this step size (Robbins and Monro, 1951), a state is the mean of all proposals: their
        noise averages out.
        """
        return self.num_observed / (self.seen + self.num_observed).clamp(min=1)

    @property
    def features(self) -> Float[Tensor, "task 4"]:
        """The counts for a network to read: gain, gain^1/2, (1 + n + b)^-1/2, (1 + n + b)^-1/4.

        They lie in [0, 1] and converge as n grows, so at counts far beyond those of training a
        network meets familiar values; log(1 + n) would leave the trained range.
        """
        gain, root = self.gain, (1 + self.seen + self.num_observed).rsqrt()
        return torch.stack([gain, gain.sqrt(), root, root.sqrt()], dim=-1)

    @property
    def seen_after(self) -> Float[Tensor, " task"]:
        """Distinct examples that the state has read after this minibatch."""
        return self.seen + self.num_observed if self.fresh else self.seen


def spread(numbers: Shaped[Tensor, " task"], like: Tensor) -> Shaped[Tensor, "task ..."]:
    """One number per task, with axes of size 1 appended so that it broadcasts with `like`.

    >>> spread(torch.tensor([1.0, 2.0]), torch.zeros(2, 3, 4)).shape
    torch.Size([2, 1, 1])
    """
    return numbers.view(-1, *[1] * (like.dim() - 1))


def masked_mean(
    values: Float[Tensor, "task n dim"], mask: Bool[Tensor, "task n"]
) -> Float[Tensor, "task dim"]:
    """Mean over the observed examples; 0 where there is none.

    Masked values do not reach the result. To keep NaN out of the gradients, too, mask the inputs of
    which the values are computed.

    >>> masked_mean(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]))
    tensor([[2.]])
    """
    kept = values.masked_fill(~mask[..., None], 0.0)
    return kept.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def running_mean(
    mean: Float[Tensor, "task *k"], new: Float[Tensor, "task *k"], evidence: Evidence
) -> Float[Tensor, "task *k"]:
    """The mean over all examples seen, updated by the mean over a minibatch.

    A minibatch that was read before changes nothing, and the mean keeps its dtype. Every example
    has the same weight, so the gradient through the last minibatch alone is, in expectation, that
    minibatch's share of the full gradient: greedy training, which cuts the path through earlier
    steps, still teaches what to remember.

    Args:
        mean: The mean over the `evidence.seen` examples; any finite value if there are none.
        new: The mean over the observed examples of the minibatch.
        evidence: How many examples each mean is over.
    """
    if not evidence.fresh:
        return mean
    moved = mean + spread(evidence.gain, mean) * (new - mean)
    return moved.to(mean.dtype)


def moved_where(moving: Bool[Tensor, " task"], new: Any, old: Any) -> Any:
    """The new state of the tasks that move, and the old state of the others.

    Args:
        moving: Which tasks move.
        new: A pytree of tensors, each led by the task axis.
        old: A pytree of the same structure and shapes.

    Returns:
        A pytree like `new`. Gradients flow to `new` where a task moves, to `old` where it does not.

    >>> both = torch.tensor([[1.0], [2.0]]), torch.tensor([3.0, 4.0])
    >>> moved_where(torch.tensor([True, False]), both, (-both[0], -both[1]))
    (tensor([[ 1.],
            [-2.]]), tensor([ 3., -4.]))
    """
    kind = type(new)
    if isinstance(new, Tensor):
        return torch.where(spread(moving, new), new, old)
    if kind is dict:
        return {name: moved_where(moving, new[name], old[name]) for name in new}
    # torch's `tree_map` leaves objects to the garbage collector, and this is called in each step.
    if kind is tuple or hasattr(kind, "_fields"):
        moved = [moved_where(moving, *pair) for pair in zip(new, old, strict=True)]
        return kind(*moved) if hasattr(kind, "_fields") else tuple(moved)
    return tree_map(lambda a, b: torch.where(spread(moving, a), a, b), new, old)
