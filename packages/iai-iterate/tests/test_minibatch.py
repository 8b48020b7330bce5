import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_iterate import minibatches
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
        (6, 1, "`minibatch` must be at most the 5 examples of the set; got 6"),
        (2, -1, "`steps` must be at least 0; got -1"),
    ],
)
def test_errors(size, steps, sentence):
    with pytest.raises(ValueError, match=sentence):
        minibatches(numbered(5), size, steps)
