"""Minibatches of a set, in passes over it."""

from collections.abc import Collection, Iterator, Sequence
from itertools import accumulate, chain, repeat, takewhile

import torch

from iai_iterate.interfaces import BatchT


def minibatches(
    examples: BatchT,
    minibatch: int | Sequence[int] | None,
    steps: int,
    *,
    generator: torch.Generator | None = None,
) -> Iterator[tuple[BatchT, bool]]:
    """Cuts a set into `steps` minibatches, going over it again and again.

    Every pass gives each example once. The last minibatch of a pass is shorter where the size does
    not divide the set. All tasks of a batch are cut at the same indices; where their sets have
    different lengths, the masks say so.

    Args:
        examples: The sets, padded to one length `n`.
        minibatch: Examples in a minibatch, at most `n`; None for the whole set. A sequence gives
            the size of each minibatch in turn, over all passes; its last size is repeated.
        steps: How many minibatches.
        generator: Shuffles every pass anew. None keeps the order given, which is right for examples
            that were drawn independently, and wrong for a set that is sorted, by class say.

    Yields:
        A minibatch, and whether its examples are new (True on the first pass).

    Raises:
        ValueError: If a size is below 1, a sequence is empty, the first size exceeds the set, or
            `steps` is below 0.

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
    sizes = as_sizes(minibatch, "minibatch") or (n,)
    if minibatch is not None and sizes[0] > n:
        raise ValueError(
            f"`minibatch` must be at most the {n} examples of the set; got {sizes[0]}."
        )
    return _passes(examples, sizes, steps, generator)


def as_sizes(sizes: int | Sequence[int] | None, name: str) -> tuple[int, ...]:
    """Sizes as a tuple, empty for None.

    Raises:
        ValueError: If a size is below 1, or a sequence holds none; `name` is the argument's.

    >>> as_sizes(8, "minibatch"), as_sizes([8, 16], "minibatch"), as_sizes(None, "minibatch")
    ((8,), (8, 16), ())
    """
    if sizes is None:
        return ()
    values = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    if not values or min(values) < 1:
        raise ValueError(f"`{name}` must be at least 1; got {sizes}.")
    return values


def steps_of_a_pass(num_examples: int, sizes: Sequence[int]) -> int:
    """Minibatches that read each of a set's examples once; 1 for a set without examples.

    >>> steps_of_a_pass(5, (2,)), steps_of_a_pass(9, (1, 2, 4))
    (3, 4)
    """
    ends = list(accumulate(sizes))
    if num_examples <= ends[-1]:
        return 1 + sum(end < num_examples for end in ends)
    return len(sizes) - (ends[-1] - num_examples) // sizes[-1]


def steps_reading(
    examples: Collection[int], *, minibatch: int | Sequence[int], at_most: int | None = None
) -> dict[int, int]:
    """The steps after which a learner has read so many examples.

    Args:
        examples: Numbers of examples.
        minibatch: Examples of each step; the last of several sizes goes on.
        at_most: How many examples there are: larger numbers are left out. None: enough for all.

    Returns:
        Step to number of examples, in rising order.

    Raises:
        ValueError: If no step ends at one of the numbers, or if all are left out.

    >>> steps_reading([20, 60], minibatch=(10, 10, 20))
    {2: 20, 4: 60}
    """
    sizes = as_sizes(minibatch, "minibatch")
    most = max(examples, default=0)
    read = accumulate(chain(sizes, repeat(sizes[-1])))
    ends = {n: step for step, n in enumerate(takewhile(lambda n: n <= most, read), start=1)}
    if between := set(examples) - set(ends):
        raise ValueError(
            f"`examples` must be what whole minibatches of {sizes} sum up to; got {min(between)}."
        )
    wanted = [n for n in ends if n in examples and (at_most is None or n <= at_most)]
    if not wanted:
        limit = "" if at_most is None else f" of at most {at_most}, as many as there are"
        raise ValueError(f"`examples` must hold a number{limit}; got {tuple(examples)}.")
    return {ends[n]: n for n in wanted}


def _passes(
    examples: BatchT, sizes: tuple[int, ...], steps: int, generator: torch.Generator | None
) -> Iterator[tuple[BatchT, bool]]:
    n = examples.mask.shape[1]
    upcoming, fresh = chain(sizes, repeat(sizes[-1])), True
    while steps > 0:
        order = None
        if generator is not None:
            order = torch.randperm(n, generator=generator, device=generator.device)
            order = order.to(examples.mask.device)
        start = 0
        while steps > 0 and start < max(n, 1):  # a set without examples is one minibatch
            part = slice(start, start + next(upcoming))
            yield examples[:, part if order is None else order[part]], fresh
            steps, start = steps - 1, max(part.stop, 1)
        fresh = False
