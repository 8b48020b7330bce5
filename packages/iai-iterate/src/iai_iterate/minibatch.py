"""Minibatches of a set: passes over it, a short last one kept, a new pass when steps go on."""

from collections.abc import Iterator

import torch

from iai_iterate.interfaces import BatchT


def minibatches(
    examples: BatchT,
    size: int | None,
    num_steps: int,
    *,
    generator: torch.Generator | None = None,
) -> Iterator[tuple[BatchT, bool]]:
    """Cuts a set into `num_steps` minibatches, going over it again and again.

    Every pass gives each example once. The last minibatch of a pass is shorter where the size does not divide the set.
    All tasks of a batch are cut alike; sets of different lengths are told apart by their masks.

    Args:
        examples: The sets, padded to one length `n`.
        size: Examples in a minibatch, at most `n`; None for the whole set.
        num_steps: How many minibatches.
        generator: Shuffles every pass anew. None keeps the order given, which is right for examples that were drawn
            independently; an order that means something (sorted by class, say) has to be shuffled away.

    Yields:
        A minibatch, and whether its examples are new (True on the first pass).

    Raises:
        ValueError: If `size` or `num_steps` is below 1, or `size` exceeds the set.

    >>> from types import SimpleNamespace
    >>> class Numbers:
    ...     def __init__(self, mask): self.mask = mask
    ...     def __getitem__(self, key): return Numbers(self.mask[key])
    >>> batches = minibatches(Numbers(torch.ones(1, 5, dtype=torch.bool)), 2, 4)
    >>> [(batch.mask.shape[1], fresh) for batch, fresh in batches]
    [(2, True), (2, True), (1, True), (2, False)]
    """
    n = examples.mask.shape[1]
    if num_steps < 1:
        raise ValueError(f"`num_steps` must be at least 1; got {num_steps}.")
    if size is not None and not 1 <= size <= n:
        raise ValueError(f"`size` must be between 1 and the {n} examples of the set; got {size}.")
    return _passes(examples, n if size is None else size, num_steps, generator)


def _passes(
    examples: BatchT, size: int, num_steps: int, generator: torch.Generator | None
) -> Iterator[tuple[BatchT, bool]]:
    n = examples.mask.shape[1]
    step, fresh = 0, True
    while step < num_steps:
        order = None
        if generator is not None:
            order = torch.randperm(n, generator=generator, device=generator.device)
            order = order.to(examples.mask.device)
        for start in range(0, max(n, 1), size or 1):
            part = slice(start, start + size)
            yield examples[:, part if order is None else order[part]], fresh
            step += 1
            if step == num_steps:
                return
        fresh = False
