import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_iterate import minibatches, steps_reading
from iai_iterate.minibatch import as_sizes, steps_of_a_pass
from slopes import Examples


def numbered(n, num_tasks=2):
    x = torch.arange(n, dtype=torch.float64).expand(num_tasks, n)[..., None]
    return Examples(x, None, torch.ones(num_tasks, n, dtype=torch.bool))


def read(batches):
    return [(batch.x[0, :, 0].int().tolist(), fresh) for batch, fresh in batches]


@given(
    n=st.integers(1, 12),
    data=st.data(),
    steps=st.integers(0, 20),
    seed=st.none() | st.integers(0, 99),
)
def test_every_pass_gives_each_example_once(n, data, steps, seed):
    size = data.draw(st.integers(1, n), label="minibatch")
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    batches = read(minibatches(numbered(n), size, steps, generator=generator))
    assert len(batches) == steps
    num_parts = -(-n // size)
    for first in range(0, steps, num_parts):
        part = batches[first : first + num_parts]
        given_once = [number for numbers, _ in part for number in numbers]
        assert len(set(given_once)) == len(given_once)
        if len(part) == num_parts:
            assert sorted(given_once) == list(range(n))
            lengths = [len(numbers) for numbers, _ in part]
            assert lengths == [min(size, n - i) for i in range(0, n, size)]
        assert all(fresh is (first == 0) for _, fresh in part)


SCHEDULES = st.lists(st.integers(1, 9), min_size=1, max_size=5)


@given(n=st.integers(1, 20), sizes=SCHEDULES, steps=st.integers(0, 20), shuffled=st.booleans())
def test_sizes_follow_the_schedule_through_passes_that_give_each_example_once(
    n, sizes, steps, shuffled
):
    sizes[0] = min(sizes[0], n)
    generator = torch.Generator().manual_seed(0) if shuffled else None
    batches = read(minibatches(numbered(n), sizes, steps, generator=generator))
    assert len(batches) == steps
    left, first_pass = list(range(n)), True
    for step, (numbers, fresh) in enumerate(batches):
        asked = sizes[step] if step < len(sizes) else sizes[-1]
        assert len(numbers) == min(asked, len(left)) and fresh is first_pass
        for number in numbers:
            left.remove(number)  # raises for an example that this pass gave before
        if not left:
            left, first_pass = list(range(n)), False


@given(n=st.integers(0, 60), sizes=SCHEDULES)
def test_the_steps_of_a_pass_are_those_that_it_takes(n, sizes):
    steps, start = 0, 0
    while start < n:
        start += sizes[min(steps, len(sizes) - 1)]
        steps += 1
    assert steps_of_a_pass(n, sizes) == max(steps, 1)
    if sizes[0] <= n:
        batches = read(minibatches(numbered(n), sizes, steps + 1))
        assert [fresh for _, fresh in batches] == [True] * steps + [False]


@given(n=st.integers(1, 12), size=st.integers(1, 12), steps=st.integers(0, 9))
def test_one_size_is_a_schedule_of_one(n, size, steps):
    size = min(size, n)
    expected = read(minibatches(numbered(n), size, steps))
    for schedule in ([size], (size, size)):
        assert read(minibatches(numbered(n), schedule, steps)) == expected


def test_the_schedule_goes_on_over_passes_and_takes_a_short_one_for_its_turn():
    batches = read(minibatches(numbered(7), (1, 4, 3), 6))
    assert [len(numbers) for numbers, _ in batches] == [1, 4, 2, 3, 3, 1]
    assert [fresh for _, fresh in batches] == [True] * 3 + [False] * 3


def test_the_order_is_the_generators():
    def shuffled(seed):
        generator = torch.Generator().manual_seed(seed)
        return read(minibatches(numbered(6), 3, 4, generator=generator))

    assert shuffled(0) == shuffled(0)
    assert shuffled(0) != shuffled(1)
    assert shuffled(0)[:2] != [(numbers, True) for numbers, _ in shuffled(0)[2:]]
    assert read(minibatches(numbered(6), 4, 2)) == [([0, 1, 2, 3], True), ([4, 5], True)]


def test_the_whole_set_and_the_empty_set():
    assert read(minibatches(numbered(3), None, 2)) == [([0, 1, 2], True), ([0, 1, 2], False)]
    assert read(minibatches(numbered(0), None, 2)) == [([], True), ([], False)]


@pytest.mark.parametrize(
    ("size", "steps", "sentence"),
    [
        (0, 1, "`minibatch` must be at least 1; got 0"),
        (2, -1, "`steps` must be at least 0; got -1"),
        ([], 1, "`minibatch` must be at least 1; got []."),
        ((2, 0), 1, "`minibatch` must be at least 1; got (2, 0)."),
        ((2, -3, 4), 1, "`minibatch` must be at least 1; got (2, -3, 4)."),
    ],
)
def test_errors(size, steps, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        minibatches(numbered(5), size, steps)


@pytest.mark.parametrize("size", [5, 6, (5, 6), (6, 1)])
def test_a_set_no_larger_than_the_first_size_is_one_minibatch_in_each_pass(size):
    whole = list(range(5))
    assert read(minibatches(numbered(5), size, 2)) == [(whole, True), (whole, False)]


def ragged(counts, n, seed=0):
    """Numbered examples of tasks that have observed so many of them, at random indices."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(len(counts), n, dtype=torch.bool)
    for row, count in zip(mask, counts, strict=True):
        row[torch.randperm(n, generator=generator)[:count]] = True
    return Examples(numbered(n, len(counts)).x, None, mask)


def observed(batches, task):
    """The numbers of a task's observed examples in each minibatch, and whether they are fresh."""
    return [
        (batch.x[task, :, 0].int()[batch.mask[task]].tolist(), fresh) for batch, fresh in batches
    ]


def alone(examples, task):
    """A task's observed examples without padding."""
    return examples[task : task + 1, examples.mask[task].nonzero()[:, 0]]


RAGGED = {
    "counts": st.lists(st.integers(0, 12), min_size=1, max_size=4),
    "padding": st.integers(0, 20),
    "sizes": SCHEDULES,
    "seed": st.none() | st.integers(0, 99),
}


@given(**RAGGED)
def test_a_task_gets_the_minibatches_of_a_pass_that_it_gets_alone(counts, padding, sizes, seed):
    def cut(examples, steps, **options):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return list(minibatches(examples, sizes, steps, generator=generator, **options))

    examples = ragged(counts, max(counts) + padding)
    sizes[0] = min(sizes[0], max(max(counts), 1))
    steps = steps_of_a_pass(max(counts), sizes)
    together = cut(examples, steps, length=max(counts))
    padded = cut(examples, steps + 1)  # a pass over the padding, too
    for task, count in enumerate(counts):
        own = steps_of_a_pass(count, sizes)
        expected = observed(cut(alone(examples, task), own), 0)
        assert observed(padded, task)[:own] == observed(together, task)[:own] == expected
        assert observed(together, task)[own:] == [([], True)] * (steps - own)


@given(counts=RAGGED["counts"], padding=RAGGED["padding"], size=st.integers(1, 9))
def test_every_pass_is_shuffled_as_it_would_be_alone(counts, padding, size):
    examples, longest = ragged(counts, max(counts) + padding), max(counts)
    size = min(size, max(longest, 1))

    def passes(examples, length):
        generator, taken = torch.Generator().manual_seed(7), []
        batches = minibatches(
            examples, size, 3 * -(-max(length, 1) // size), generator=generator, length=length
        )
        for batch in batches:
            taken.append(batch)
        return taken, generator.get_state()

    together, state = passes(examples, longest)
    for task, count in enumerate(counts):
        expected, its_state = passes(alone(examples, task), count)
        steps = len(together) // 3
        own = len(expected) // 3
        for first in range(3):
            got = observed(together, task)[first * steps : (first + 1) * steps]
            assert got[:own] == observed(expected, 0)[first * own : (first + 1) * own]
        assert count != longest or torch.equal(state, its_state)


def test_nothing_is_drawn_for_no_steps():
    for examples in (numbered(5), ragged([2, 4], 6)):
        generator = torch.Generator().manual_seed(0)
        before = generator.get_state()
        assert not list(minibatches(examples, 2, 0, generator=generator))
        assert torch.equal(generator.get_state(), before)


def test_sets_without_gaps_are_cut_as_views():
    trailing = ragged([4, 6], 6)
    trailing = Examples(trailing.x, None, torch.arange(6) < torch.tensor([[4], [6]]))
    for examples in (numbered(6), trailing):
        for batch, _ in minibatches(examples, 4, 3):
            assert batch.x.untyped_storage().data_ptr() == examples.x.untyped_storage().data_ptr()


def test_a_device_that_cannot_be_asked_gets_the_same_order(monkeypatch):
    examples = ragged([3, 5, 0], 7)
    expected = read(minibatches(examples, 2, 4))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert read(minibatches(examples, 2, 4)) == expected
    assert read(minibatches(numbered(5), 2, 4)) == [
        ([0, 1], True),
        ([2, 3], True),
        ([4], True),
        ([0, 1], False),
    ]


def test_sizes_are_a_tuple_and_none_is_the_whole_set():
    assert as_sizes(range(1, 4), "sizes") == (1, 2, 3) and as_sizes(None, "sizes") == ()


@given(sizes=SCHEDULES, num_steps=st.integers(1, 12), at_most=st.none() | st.integers(1, 60))
def test_the_steps_that_have_read_so_many(sizes, num_steps, at_most):
    n, read_by = 0, {}
    for step, (numbers, _) in enumerate(read(minibatches(numbered(200), sizes, num_steps)), 1):
        n += len(numbers)
        read_by[step] = n
    expected = {step: n for step, n in read_by.items() if at_most is None or n <= at_most}
    if expected:
        assert steps_reading(read_by.values(), minibatch=sizes, at_most=at_most) == expected
    assert steps_reading([n], minibatch=sizes) == {num_steps: n}


@pytest.mark.parametrize(
    ("examples", "options", "sentence"),
    [
        (
            [10, 25, 15],
            {"minibatch": (10, 10)},
            "`examples` must be what whole minibatches of (10, 10) sum up to; got 15.",
        ),
        (
            [0],
            {"minibatch": 4},
            "`examples` must be what whole minibatches of (4,) sum up to; got 0.",
        ),
        ([], {"minibatch": 4}, "`examples` must hold a number; got ()."),
        (
            [8, 16],
            {"minibatch": 8, "at_most": 7},
            "`examples` must hold a number of at most 7, as many as there are; got (8, 16).",
        ),
        ([8], {"minibatch": ()}, "`minibatch` must be at least 1; got ()."),
    ],
)
def test_numbers_that_no_step_ends_at(examples, options, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        steps_reading(examples, **options)
