"""Splits of classes: disjoint, complete, whole groups, the same for the same seed."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from iai_tasks import ClassSplit, split_classes

TWICE = "`train`, `validation` and `test` must share no class, and have each once; twice: "


def numbered(num_groups):
    return [str(number) for number in range(num_groups)]


@given(
    groups=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=40).filter(
        lambda groups: len(set(groups)) >= 3
    ),
    seed=st.integers(0, 2**40),
)
def test_every_class_is_in_one_part_with_its_group(groups, seed):
    split = split_classes(groups, seed=seed)
    parts = attrs.astuple(split)
    assert sorted(sum(parts, ())) == list(range(len(groups)))
    for one in parts:
        assert one and list(one) == sorted(one)
    homes = [{groups[number] for number in part} for part in parts]
    assert sum(map(len, homes)) == len(set(groups))
    assert split == split_classes(groups, seed=seed)


def test_seeds_differ_and_fractions_are_kept():
    splits = {split_classes(numbered(1623), (1100, 100, 423), seed=seed) for seed in range(5)}
    assert len(splits) == 5
    for split in splits:
        assert [len(part) for part in attrs.astuple(split)] == [1100, 100, 423]
    assert len(split_classes(numbered(10), (0.5, 0.0, 0.5)).validation) == 0
    assert [
        len(part) for part in attrs.astuple(split_classes(numbered(4), (0.98, 0.01, 0.01)))
    ] == [2, 1, 1]


def test_integers_may_leave_classes_out():
    split = split_classes(numbered(10), (2, 0, 3), seed=1)
    assert len(set(split.train + split.test)) == 5


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (([3, 5], [], [7, 5, 3]), TWICE + "3, 5."),
        (([1], [2], [2]), TWICE + "2."),
        (([-1], [], []), "A split must number classes from 0; got -1."),
        (([], [], [4, 4, 1]), TWICE + "4."),
        ((range(20), range(12), []), TWICE + "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more."),
    ],
)
def test_parts_that_overlap(parts, text):
    with pytest.raises(ValueError, match="must") as caught:
        ClassSplit(*parts)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("groups", "sizes", "text"),
    [
        (
            numbered(4),
            (0.5, 0.2, 0.2),
            "`sizes` that are fractions must add up to 1; got (0.5, 0.2, 0.2).",
        ),
        (numbered(4), (2, -1, 2), "`sizes` must not be negative; got (2, -1, 2)."),
        (numbered(4), (2, 2, 1), "`sizes` must fit the 4 groups there are; got (2, 2, 1)."),
        (["a", "b"], (0.6, 0.2, 0.2), "`sizes` must fit the 2 groups there are; got "),
        ([], (0.6, 0.2, 0.2), "`sizes` must fit the 0 groups there are; got "),
    ],
)
def test_sizes_that_do_not_fit(groups, sizes, text):
    with pytest.raises(ValueError, match="`sizes`") as caught:
        split_classes(groups, sizes)
    assert str(caught.value).startswith(text)
