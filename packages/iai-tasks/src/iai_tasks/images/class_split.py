"""Which classes are for training, validation and test: disjoint, related classes together."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import attrs
import torch

from iai_tasks import counter_random
from iai_tasks._listing import listed

Sizes = tuple[float | int, float | int, float | int]


@attrs.frozen
class ClassSplit:
    """Classes to train on, to validate by and to test on; no class is in two parts.

    Attributes:
        train: Numbers of the classes that learners are trained on.
        validation: Numbers of the classes that settings are chosen by; may be empty.
        test: Numbers of the classes that results are reported for.

    Raises:
        ValueError: If a number is negative, or occurs twice, in one part or in two.

    >>> ClassSplit(train=[0, 1, 2], validation=[], test=[1, 3])
    Traceback (most recent call last):
    ValueError: `train`, `validation` and `test` must share no class, and have each once; twice: 1.
    """

    train: tuple[int, ...] = attrs.field(converter=tuple[int, ...])
    validation: tuple[int, ...] = attrs.field(converter=tuple[int, ...])
    test: tuple[int, ...] = attrs.field(converter=tuple[int, ...])

    def __attrs_post_init__(self) -> None:
        counts = Counter(self.train + self.validation + self.test)
        if min(counts, default=0) < 0:
            raise ValueError(f"A split must number classes from 0; got {min(counts)}.")
        if twice := sorted(number for number, count in counts.items() if count > 1):
            raise ValueError(
                "`train`, `validation` and `test` must share no class, and have each once; "
                f"twice: {listed(twice, 10)}."
            )


def split_classes(
    groups: Sequence[str], sizes: Sizes = (0.6, 0.2, 0.2), *, seed: int = 0
) -> ClassSplit:
    """Splits classes at random, whole groups at a time.

    Letters of one alphabet look alike. To test on letters of alphabets that were never seen, give
    the alphabet of every letter as its group. The order of the groups is a hash of the seed, the
    same on every machine.

    Args:
        groups: The group of every class.
        sizes: Numbers of groups to train on, to validate by and to test on: three integers, or
            three fractions that add up to 1. A fraction above 0 gets at least one group.
        seed: Determines the order of the groups.

    Returns:
        The split; the classes of each part in rising order. If integers add up to less than the
        number of groups, the other groups are in no part.

    Raises:
        ValueError: If a size is negative, the fractions do not add up to 1, or there are too few
            groups.

    >>> split = split_classes(["Greek", "Greek", "Thai", "Lao", "Lao"], (1, 1, 1))
    >>> sorted(split.train + split.validation + split.test)
    [0, 1, 2, 3, 4]
    """
    names = sorted(set(groups))
    counts = _counts(sizes, len(names))
    order = counter_random.permutation(torch.tensor([seed]), len(names))[0].tolist()
    rank = {names[group]: index for index, group in enumerate(order)}
    bounds = [0, counts[0], counts[0] + counts[1], sum(counts)]
    parts = [
        [number for number, name in enumerate(groups) if start <= rank[name] < stop]
        for start, stop in pairwise(bounds)
    ]
    return ClassSplit(*parts)


def _counts(sizes: Sizes, num_groups: int) -> list[int]:
    """Groups of each part."""
    if min(sizes) < 0:
        raise ValueError(f"`sizes` must not be negative; got {sizes}.")
    counts = [int(size) for size in sizes]
    if not all(isinstance(size, int) for size in sizes):
        if abs(sum(sizes) - 1) > 1e-6:
            raise ValueError(f"`sizes` that are fractions must add up to 1; got {sizes}.")
        counts = [max(int(size > 0), round(size * num_groups)) for size in sizes]
        counts[counts.index(max(counts))] += num_groups - sum(counts)
    if sum(counts) > num_groups or min(counts) < 0 or sum(size > 0 for size in sizes) > num_groups:
        raise ValueError(f"`sizes` must fit the {num_groups} groups there are; got {sizes}.")
    return counts
