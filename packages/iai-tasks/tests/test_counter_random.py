"""The counter-based numbers: against splitmix64 in Python integers, and against their laws."""

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_tasks import counter_random

WORD = 2**64 - 1


def splitmix64(seed, counter):
    """The published generator, in unsigned Python integers, as a signed one."""
    z = (seed + (counter + 1) * 0x9E3779B97F4A7C15) & WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    z ^= z >> 31
    return z - 2**64 if z >= 2**63 else z


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**40))
def test_bits_are_those_of_splitmix64(seed, counter):
    bits = counter_random.bits(torch.tensor([seed]), torch.tensor([counter]))
    assert bits.tolist() == [splitmix64(seed, counter)]


def test_arguments_are_left_alone():
    seed, counter = torch.tensor([1, 2]), torch.tensor([3, 4])
    counter_random.bits(seed, counter)
    counter_random.normal(seed, counter)
    assert seed.tolist() == [1, 2]
    assert counter.tolist() == [3, 4]


def test_normal_numbers_have_the_moments_of_the_normal_law():
    numbers = counter_random.normal(torch.arange(1000), torch.arange(500)).double()
    values = numbers.flatten()
    moments = [values.pow(k).mean().item() for k in (1, 2, 3, 4)]
    for moment, expected, scale in zip(moments, (0, 1, 0, 3), (1, 1.5, 4, 10), strict=True):
        assert abs(moment - expected) < 5 * scale / 1000  # 5 standard errors of a million numbers
    assert abs((numbers[..., 0] * numbers[..., 1]).mean().item()) < 0.01
    assert abs((numbers[1:] * numbers[:-1]).mean().item()) < 0.01  # neighbouring seeds
    assert abs((numbers[:, 1:] * numbers[:, :-1]).mean().item()) < 0.01  # and counters
    assert torch.isfinite(values).all()
    below = (values < torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])[:, None]).double().mean(dim=1)
    expected = torch.special.ndtr(torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])).double()
    assert (below - expected).abs().max() < 0.003


@given(start=st.integers(0, 50), stop=st.integers(0, 50))
def test_any_part_of_a_stream_is_the_same_on_its_own(start, stop):
    seed = torch.tensor([5, -(2**62)])
    whole = counter_random.normal(seed, torch.arange(50))
    part = counter_random.normal(
        seed, torch.arange(start, stop) if start < stop else whole.new_empty(0).long()
    )
    assert torch.equal(part, whole[:, start : max(start, stop)])


def test_every_permutation_is_as_likely_as_the_others():
    orders = counter_random.permutation(torch.arange(24_000), 4)
    assert torch.equal(orders.sort(dim=1).values, torch.arange(4).expand(24_000, 4))
    index = (orders * torch.tensor([64, 16, 4, 1])).sum(dim=1)
    counts = index.bincount(minlength=256)
    possible = [
        sum(a * b for a, b in zip(p, (64, 16, 4, 1), strict=True))
        for p in itertools.permutations(range(4))
    ]
    counts = counts[possible].double()
    assert counts.sum() == 24_000
    assert ((counts - 1000).square() / 1000).sum() < 52  # chi-square, 23 degrees: p = 0.0005
