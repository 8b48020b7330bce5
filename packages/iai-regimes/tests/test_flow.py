import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_regimes import flow

pytest.importorskip("torchdiffeq", reason="needs the extra `flow`")


def gaussian_velocity(mean, scale):
    """Of the straight path from N(0, 1) to N(mean, scale^2), in one dimension."""

    def predict(query):
        x, t = query[..., :1], query[..., 1:]
        variance = (1 - t) ** 2 + (scale * t) ** 2
        return mean + (scale**2 * t - (1 - t)) / variance * (x - t * mean)

    return predict


@given(seed=st.integers(0, 2**32), mean=st.floats(-3, 3), scale=st.floats(0.2, 3))
def test_carries_noise_to_a_gaussian(seed, mean, scale):
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(2, 5, 1, generator=generator, dtype=torch.float64)
    ends = flow(gaussian_velocity(mean, scale), start, tolerance=1e-8)
    torch.testing.assert_close(ends, mean + scale * start, rtol=1e-5, atol=1e-5)


def test_a_smaller_tolerance_is_nearer():
    start = torch.linspace(-2, 2, 9, dtype=torch.float64)[None, :, None]
    errors = [
        (flow(gaussian_velocity(1.0, 0.1), start, tolerance=tolerance) - 1 - 0.1 * start)
        .abs()
        .max()
        for tolerance in (1e-2, 1e-4, 1e-6)
    ]
    assert errors[0] > errors[1] > errors[2]


@given(scale=st.floats(0.01, 2), tolerance=st.sampled_from([1e-1, 1e-2, 1e-4]))
def test_asks_about_no_time_that_no_path_has(scale, tolerance):
    asked = []

    def predict(query):
        asked.append(query[0, 0, 1].item())
        return gaussian_velocity(1.0, scale)(query)

    flow(predict, torch.linspace(-2, 2, 9)[None, :, None], tolerance=tolerance)
    assert min(asked) == 0.0 and max(asked) <= 1.0


def test_a_hard_task_is_followed_beside_easy_ones():
    start = torch.linspace(-2, 2, 9, dtype=torch.float64)[None, :, None]
    hard = gaussian_velocity(1.0, 0.01)
    many = flow(
        lambda query: torch.cat([hard(query[:1]), gaussian_velocity(0.0, 1.0)(query[1:])]),
        start.repeat(32, 1, 1),
        tolerance=1e-4,
    )
    assert (many[:1] - 1 - 0.01 * start).abs().max() < 5e-3


def test_no_points_go_nowhere():
    assert flow(gaussian_velocity(0.0, 1.0), torch.zeros(2, 0, 1)).shape == (2, 0, 1)


def test_says_what_is_wrong(monkeypatch):
    start = torch.zeros(1, 2, 1)
    with pytest.raises(ValueError, match=r"`tolerance` must be above 0; got 0."):
        flow(gaussian_velocity(0.0, 1.0), start, tolerance=0.0)
    with pytest.raises(
        ValueError, match=r"`predict` must give finite velocities; not so at time 0"
    ):
        flow(lambda query: query[..., :1] / 0, start)
    with pytest.raises(ValueError, match=r"velocities of shape \(1, 2, 1\); got \(1, 2, 2\)"):
        flow(lambda query: query, start)
    with pytest.raises(ValueError, match="`predict` must be smooth enough to be followed at"):
        flow(lambda query: query[..., :1] ** 2 + 1, start + 5)
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(ImportError, match=r"pip install 'iai-regimes\[flow\]'"):
        flow(gaussian_velocity(0.0, 1.0), start)
