"""Distances between samples: SciPy's in one dimension, closed forms, and matchings by hand."""

from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_train import maximum_mean_discrepancy, wasserstein

stats = pytest.importorskip("scipy.stats", reason="needs the extra `distances`")

seeds = st.integers(0, 2**32)


def samples(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seed=seeds, n=st.integers(1, 12))
def test_order_1_on_a_line_is_that_of_scipy(seed, n):
    x, y = samples(seed, 2, 3, n, 1)
    expected = [stats.wasserstein_distance(a[:, 0], b[:, 0]) for a, b in zip(x, y, strict=True)]
    assert wasserstein(x, y, order=1).tolist() == pytest.approx(expected)


@given(seed=seeds, n=st.integers(1, 12))
def test_order_2_on_a_line_matches_what_is_sorted(seed, n):
    x, y = samples(seed, 2, 3, n, 1)
    expected = (x.sort(1).values - y.sort(1).values).square().mean((1, 2)).sqrt()
    assert torch.allclose(wasserstein(x, y), expected)


@given(seed=seeds, order=st.sampled_from([1, 2]))
def test_no_matching_is_cheaper(seed, order):
    x, y = samples(seed, 2, 1, 5, 2)
    costs = [
        (x[0] - y[0, list(way)]).norm(dim=-1).pow(order).mean().item()
        for way in permutations(range(5))
    ]
    assert wasserstein(x, y, order=order).item() ** order == pytest.approx(min(costs))


@given(seed=seeds)
def test_a_shift_costs_its_length_and_an_order_of_samples_nothing(seed):
    x = samples(seed, 2, 20, 3)
    shift = samples(seed + 1, 3)
    assert torch.allclose(wasserstein(x, x.flip(1) + shift), shift.norm().expand(2))
    assert torch.allclose(maximum_mean_discrepancy(x, x.flip(1)), torch.zeros(2).double())


@given(seed=seeds, n=st.integers(1, 5), m=st.integers(1, 5))
def test_the_discrepancy_is_the_mean_over_pairs(seed, n, m):
    x, y = samples(seed, 1, n, 2), samples(seed + 1, 1, m, 2)

    def mean(a, b, gamma):
        pairs = [(-gamma * (p - q).square().sum()).exp() for p in a[0] for q in b[0]]
        return sum(pairs) / len(pairs)

    expected = [
        mean(x, x, gamma) + mean(y, y, gamma) - 2 * mean(x, y, gamma) for gamma in (2.0, 0.1)
    ]
    found = maximum_mean_discrepancy(x, y, gammas=[2.0, 0.1])
    assert found.item() == pytest.approx(sum(expected).item() / 2, abs=1e-12)


def test_distances_keep_the_dtype_and_stop_gradients():
    x, y = samples(0, 2, 1, 4, 2).float()
    for distance in (wasserstein(x.requires_grad_(), y), maximum_mean_discrepancy(x, y)):
        assert distance.dtype == torch.float32 and not distance.requires_grad


def test_what_cannot_be_compared(own_errors):
    x = torch.zeros(1, 3, 2)
    with pytest.raises(ValueError, match="`order` must be 1 or 2; got 3"):
        wasserstein(x, x, order=3)
    with pytest.raises(ValueError, match="`y` must have as many samples as `x`, 3; got 2"):
        wasserstein(x, x[:, :2])
    for distance in (wasserstein, maximum_mean_discrepancy):
        with pytest.raises(ValueError, match=r"of the same tasks and dim; got \(1, 3, 2\) and"):
            distance(x, torch.zeros(1, 3, 1))
        with pytest.raises(ValueError, match="`x` must hold at least one sample a task; got none"):
            distance(x[:, :0], x[:, :0])
        with pytest.raises(ValueError, match="`y` must be finite"):
            distance(x, x / 0)
    for gammas in ([], [0.0]):
        with pytest.raises(ValueError, match="`gammas` must be positive numbers"):
            maximum_mean_discrepancy(x, x, gammas=gammas)
