"""Minibatches of a set, in passes over it."""

from collections.abc import Collection, Iterator, Sequence
from itertools import accumulate, chain, repeat, takewhile
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from iai_iterate.interfaces import Batch, BatchT

MOST_STEPS = 32  # of a stretch: attention among minibatches takes memory with the square of it
MOST_EXAMPLES = 4096  # of each task in a stretch of several steps


def minibatches(
    examples: BatchT,
    minibatch: int | Sequence[int] | None,
    steps: int,
    *,
    generator: torch.Generator | None = None,
    length: int | None = None,
) -> Iterator[tuple[BatchT, bool]]:
    """Cuts each task's observed examples into `steps` minibatches, in one pass after another.

    Every pass gives each observed example once, in the order given or shuffled. The last minibatch
    of a pass is shorter where the size does not divide the set; where sets are smaller than the
    first minibatch, a pass is one short minibatch. So a task gets the minibatches that it would get
    alone, wherever its padding is and however long the other sets are. If its set is read before
    the pass ends, its other minibatches of the pass have no observed example.

    Args:
        examples: The sets, padded to one length `n`.
        minibatch: Examples in a minibatch; None for the whole set. A sequence gives the size of
            each minibatch in turn, over all passes; its last size is repeated.
        steps: How many minibatches.
        generator: Shuffles every pass anew, in a way that depends on a task's number of observed
            examples alone. None keeps the order given, which is right for examples that were drawn
            independently, and wrong for a set that is sorted, by class say.
        length: Examples that a pass covers: at least as many as any task has observed, by default
            `n`, padding included.

    Yields:
        A minibatch, and whether its examples are new (True on the first pass).

    Raises:
        ValueError: If a size is below 1, a sequence is empty, or `steps` is below 0.

    >>> class Numbers:
    ...     def __init__(self, mask): self.mask = mask
    ...     def __getitem__(self, key): return Numbers(self.mask[key])
    >>> batches = minibatches(Numbers(torch.ones(1, 5, dtype=torch.bool)), 2, 4)
    >>> [(batch.mask.shape[1], fresh) for batch, fresh in batches]
    [(2, True), (2, True), (1, True), (2, False)]
    """
    keys = _keys(examples, minibatch, steps, generator, length)
    return ((examples[key], fresh) for key, fresh in keys)


def stretches(
    examples: BatchT,
    minibatch: int | Sequence[int] | None,
    steps: int,
    *,
    generator: torch.Generator | None = None,
    length: int | None = None,
    most_steps: int = MOST_STEPS,
) -> Iterator[tuple[BatchT, int, bool]]:
    """The same minibatches, several as one batch where sizes are the same and all are fresh.

    Args:
        examples: As for `minibatches`, and so are the others.
        minibatch: Examples in a minibatch.
        steps: How many minibatches.
        generator: Shuffles every pass.
        length: Examples that a pass covers.
        most_steps: Minibatches of each task in one batch, at most, and at least 1.

    Yields:
        A batch, how many minibatches of each task it is, and whether its examples are new. Row
        ``i * step + j`` is minibatch `j` of task `i`.

    >>> class Numbers:
    ...     def __init__(self, mask): self.mask = mask
    ...     def __getitem__(self, key): return Numbers(self.mask[key])
    >>> batches = stretches(Numbers(torch.ones(3, 5, dtype=torch.bool)), 2, 4)
    >>> [(tuple(batch.mask.shape), step, fresh) for batch, step, fresh in batches]
    [((6, 2), 2, True), ((3, 1), 1, True), ((3, 2), 1, False)]
    """
    rows = torch.arange(len(examples.mask), device=examples.mask.device)[:, None, None]
    keys = _keys(examples, minibatch, steps, generator, length)
    stretch: list[Tensor] = []
    fresh = True
    for key, new in keys:
        index = _index(key[1], rows.device).expand(len(rows), -1)
        size = index.shape[1]
        most = min(most_steps, MOST_STEPS, MOST_EXAMPLES // max(size, 1)) if fresh else 1
        alike = bool(stretch) and stretch[0].shape[1] == size and new is fresh
        if stretch and not (alike and len(stretch) < most):
            yield _side_by_side(examples, rows, stretch), len(stretch), fresh
            stretch = []
        stretch.append(index)
        fresh = new
    if stretch:
        yield _side_by_side(examples, rows, stretch), len(stretch), fresh


def _side_by_side(examples: BatchT, rows: Tensor, stretch: list[Tensor]) -> BatchT:
    index = torch.stack(stretch, 1)
    return examples[rows.expand(-1, len(stretch), -1).flatten(0, 1), index.flatten(0, 1)]


def _index(part: slice | Tensor, device: torch.device) -> Tensor:
    return torch.arange(part.start, part.stop, device=device) if isinstance(part, slice) else part


def _keys(
    examples: Batch,
    minibatch: int | Sequence[int] | None,
    steps: int,
    generator: torch.Generator | None,
    length: int | None,
) -> Iterator[tuple[Any, bool]]:
    """What `minibatches` indexes the examples by, and whether it is new."""
    if steps < 0:
        raise ValueError(f"`steps` must be at least 0; got {steps}.")
    n = examples.mask.shape[1]
    length = n if length is None else length
    sizes = as_sizes(minibatch, "minibatch") or (length,)
    if sizes[0] > length:
        sizes = (length,)
    orders: Iterator[Tensor | None] = repeat(None)
    if generator is not None:
        orders = _shuffled(examples.mask, generator)
    elif min(*sizes, length) < n:
        orders = repeat(observed_first(examples.mask))
    return _passes(examples.mask, sizes, steps, length, orders)


def longest_set(examples: Batch) -> int:
    """The most observed examples of a task; waits for the device of the mask."""
    return max(examples.mask.sum(1).tolist(), default=0)


def observed_first(mask: Bool[Tensor, "task n"]) -> Int64[Tensor, "task n"] | None:
    """The indices of each task's observed examples, in their order, before those of its padding.

    None where that is the order given already. Only the CPU is asked, where the answer is at hand.

    >>> observed_first(torch.tensor([[False, True, True], [True, False, True]]))
    tensor([[1, 2, 0],
            [0, 2, 1]])
    """
    asked = mask.device.type == "cpu" and not torch.compiler.is_compiling()
    if asked and not bool((mask[:, 1:] & ~mask[:, :-1]).any()):
        return None
    return (~mask).to(torch.uint8).argsort(dim=1, stable=True)


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
    mask: Bool[Tensor, "task n"],
    sizes: tuple[int, ...],
    steps: int,
    length: int,
    orders: Iterator[Tensor | None],
) -> Iterator[tuple[Any, bool]]:
    rows = torch.arange(len(mask), device=mask.device)[:, None]
    upcoming, fresh = chain(sizes, repeat(sizes[-1])), True
    while steps > 0:
        order, start = next(orders), 0
        while steps > 0 and start < max(length, 1):  # a set without examples is one minibatch
            part = slice(start, min(start + next(upcoming), length))
            if order is None:
                key: Any = slice(None), part
            elif order.dim() == 1:
                key = slice(None), order[part]
            else:
                key = rows, order[:, part]
            yield key, fresh
            steps, start = steps - 1, max(part.stop, 1)
        fresh = False


def _shuffled(mask: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
    """An order for each pass: `n` where all tasks share it, else `task n`, padding at the end."""
    counts = mask.sum(1)
    known = set(counts.tolist())
    if known <= {mask.shape[1]}:
        while True:
            order = torch.randperm(mask.shape[1], generator=generator, device=generator.device)
            yield order.to(mask.device)
    # Tasks of one number of examples share the draws that any of them would get alone.
    generators = {count: generator.clone_state() for count in known}
    generators[max(known)] = generator
    first = (~mask).to(torch.uint8).argsort(dim=1, stable=True)
    while True:
        order = first.clone()
        for count, own in generators.items():
            drawn = torch.randperm(count, generator=own, device=own.device).to(mask.device)
            order[:, :count] = torch.where(
                (counts == count)[:, None], first[:, drawn], order[:, :count]
            )
        yield order
