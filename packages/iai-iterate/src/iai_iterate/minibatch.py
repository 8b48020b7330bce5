"""Minibatches of a set: passes over it, a short last one kept, a new pass when steps go on."""

from collections.abc import Iterator

import torch

from iai_iterate.interfaces import BatchT


def minibatches(
    examples: BatchT,
    minibatch: int | None,
    steps: int,
    *,
    generator: torch.Generator | None = None,
) -> Iterator[tuple[BatchT, bool]]:
    """Cuts a set into `steps` minibatches, going over it again and again.

    Every pass gives each example once. The last minibatch of a pass is shorter where the size does
    not divide the set. All tasks of a batch are cut alike; sets of different lengths are told apart
    by their masks.

    Args:
        examples: The sets, padded to one length `n`.
        minibatch: Examples in a minibatch, at most `n`; None for the whole set.
        steps: How many minibatches.
        generator: Shuffles every pass anew. None keeps the order given, which is right for examples
            that were drawn independently; an order that means something (sorted by class, say) has
            to be shuffled away.

    Yields:
        A minibatch, and whether its examples are new (True on the first pass).

    Raises:
        ValueError: If `minibatch` is below 1 or exceeds the set, or `steps` is below 0.

    >>> class Numbers:
    ...     def __init__(self, mask): self.mask = mask
    ...     def __getitem__(self, key): return Numbers(self.mask[key])
    >>> batches = minibatches(Numbers(torch.ones(1, 5, dtype=torch.bool)), 2, 4)
    >>> [(batch.mask.shape[1], fresh) for batch, fresh in batches]
    [(2, True), (2, True), (1, True), (2, False)]
    """
    n = examples.mask.shape[1]
    if steps < 0:
        raise ValueError(f"`steps` must be at least 0; got {steps}.")
    if minibatch is not None and minibatch < 1:
        raise ValueError(f"`minibatch` must be at least 1; got {minibatch}.")
    if minibatch is not None and minibatch > n:
        raise ValueError(
            f"`minibatch` must be at most the {n} examples of the set; got {minibatch}."
        )
    return _passes(examples, n if minibatch is None else minibatch, steps, generator)


def _passes(
    examples: BatchT, size: int, steps: int, generator: torch.Generator | None
) -> Iterator[tuple[BatchT, bool]]:
    n = examples.mask.shape[1]
    step, fresh = 0, True
    while step < steps:
        order = None
        if generator is not None:
            order = torch.randperm(n, generator=generator, device=generator.device)
            order = order.to(examples.mask.device)
        # A set without examples is one minibatch without examples.
        for start in range(0, max(n, 1), max(size, 1)):
            part = slice(start, start + size)
            yield examples[:, part if order is None else order[part]], fresh
            step += 1
            if step == steps:
                return
        fresh = False
