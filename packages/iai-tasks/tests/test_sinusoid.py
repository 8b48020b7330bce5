"""Sinusoids: in their ranges, the function that the latent says, and an oracle without error."""

import math

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_tasks import Sinusoid


def draw(sampler, num_tasks, num_support, num_query, seed=0):
    generator = torch.Generator().manual_seed(seed)
    counts = {"num_support": num_support, "num_query": num_query}
    return sampler.sample(num_tasks, **counts, generator=generator)


def test_the_ranges_are_those_of_the_paper():
    batch = draw(Sinusoid(), 3000, 10, 10)
    for numbers, low, high in (
        (batch.latent[:, 0], 0.1, 5.0),
        (batch.latent[:, 1], 0.0, math.pi),
        (batch.support.x, -5.0, 5.0),
        (batch.query.x, -5.0, 5.0),
    ):
        assert low <= numbers.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < numbers.max() <= high
        assert abs(numbers.mean() - (low + high) / 2) < 0.03 * (high - low)


@given(seed=st.integers(0, 2**40), low=st.floats(-3, 3), width=st.floats(0, 3))
def test_y_is_the_wave_and_so_is_the_oracle(seed, low, width):
    span = (low, low + width)
    sampler = Sinusoid(amplitude=span, phase=span, x=span)
    batch = draw(sampler, 3, 4, 5, seed)
    for task in range(3):
        amplitude, phase = batch.latent[task].tolist()
        for x, y in zip(batch.query.x[task].tolist(), batch.query.y[task].tolist(), strict=True):
            assert y[0] == pytest.approx(amplitude * math.sin(x[0] - phase), abs=1e-5)
    assert torch.equal(sampler.oracle(batch), batch.query.y)


def test_an_oracle_must_know_the_wave():
    sampler = Sinusoid()
    batch = attrs.evolve(draw(sampler, 1, 1, 1), latent=None)
    with pytest.raises(ValueError, match="`batch` must have its `latent`, amplitude and phase"):
        sampler.oracle(batch)


def test_a_range_must_not_fall():
    with pytest.raises(ValueError, match=r"`phase` must be \(smallest, largest\); got \(2, 1\)"):
        Sinusoid(phase=(2, 1))
