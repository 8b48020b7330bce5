"""Random networks: the function that the latent stands for, and its stated variance."""

import re

import pytest
import torch
from iai_tasks import RandomNetworkRegression


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_targets_are_those_of_torchs_own_layers(activation):
    sampler = RandomNetworkRegression(3, activation=activation, noise_variance=0.0)
    generator = torch.Generator().manual_seed(0)
    batch = sampler.sample(2, num_support=7, num_query=4, generator=generator)
    for task, latent in enumerate(batch.latent):
        first, last = latent[: 4 * 32].reshape(4, 32), latent[4 * 32 :]
        hidden = torch.nn.functional.linear(batch.query.x[task], first[:-1].T, first[-1])
        hidden = getattr(torch, activation)(hidden)
        expected = torch.nn.functional.linear(hidden, last[None, :-1], last[-1:])
        torch.testing.assert_close(batch.query.y[task], expected)


def test_variance_is_as_the_docstring_says():
    sampler = RandomNetworkRegression(3, hidden_dim=8, activation="relu", noise_variance=0.5)
    generator = torch.Generator().manual_seed(0)
    y = sampler.sample(20_000, num_support=5, num_query=1, generator=generator).support.y
    assert abs(y.var().item() / (1 + 8 * (3 + 1) / 2 + 0.5) - 1) < 0.05
    assert abs(y.mean().item()) < 0.1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"dim": 0}, "`dim` must be at least 1; got 0."),
        ({"dim": 1, "hidden_dim": 0}, "`hidden_dim` must be at least 1; got 0."),
        (
            {"dim": 1, "activation": "gelu"},
            "`activation` must be one of 'tanh', 'relu'; got 'gelu'.",
        ),
        ({"dim": 1, "noise_variance": -0.1}, "`noise_variance` must be at least 0; got -0.1."),
    ],
)
def test_options_out_of_range(options, text):
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        RandomNetworkRegression(**options)
