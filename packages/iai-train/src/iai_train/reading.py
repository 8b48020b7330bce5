"""How far a learner has read into its examples after each step."""

from collections.abc import Collection, Sequence
from itertools import accumulate, chain, repeat, takewhile


def steps_reading(
    examples: Collection[int], *, minibatch: Sequence[int], at_most: int | None = None
) -> dict[int, int]:
    """The steps after which a learner has read so many examples.

    Args:
        examples: Numbers of examples, each at least 1.
        minibatch: How many examples each step reads; the last number goes on.
        at_most: How many examples there are: larger numbers are left out. None: enough for all.

    Returns:
        The number of examples by step, as `Experiment.measure` takes it.

    Raises:
        ValueError: A number is below 1, no step ends at it, or all are left out.

    >>> steps_reading([20, 60], minibatch=(10, 10, 20))
    {2: 20, 4: 60}
    """
    if not examples or min(*examples, *minibatch) < 1:
        raise ValueError(
            f"`examples` and `minibatch` must be at least 1; got {examples} and {minibatch}."
        )
    sizes = chain(minibatch, repeat(minibatch[-1]))
    read = dict(enumerate(takewhile(lambda n: n <= max(examples), accumulate(sizes)), start=1))
    if between := set(examples) - set(read.values()):
        raise ValueError(
            f"`examples` must be what whole minibatches of {tuple(minibatch)} sum up to; "
            f"got {min(between)}."
        )
    if at_most is not None and at_most < min(examples):
        raise ValueError(
            f"`examples` must have a number of at most {at_most}, the examples that there are; "
            f"got {tuple(examples)}."
        )
    return {s: n for s, n in read.items() if n in examples and (at_most is None or n <= at_most)}
