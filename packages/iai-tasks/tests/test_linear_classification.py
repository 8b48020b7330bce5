"""Linear classification: labels follow the softmax that the sampler states."""

import re

import pytest
import torch
from iai_tasks import LinearClassification


def test_labels_follow_the_softmax_of_the_divided_logits():
    """One task, inputs binned by their probability of class 1: each bin's share matches it."""
    sampler = LinearClassification(1, 2, temperature=0.5)
    w = torch.tensor([[[0.0, 0.7], [0.0, 0.2]]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    support = sampler.sample(
        1, num_support=200_000, num_query=0, generator=generator, latent=w
    ).support
    probability = torch.sigmoid((0.7 * support.x[0, :, 0] + 0.2) / 0.5)
    for low in torch.arange(0.1, 0.9, 0.1):
        inside = (probability >= low) & (probability < low + 0.1)
        share = support.y[0, inside].double().mean()
        assert abs(share - probability[inside].mean()) < 0.01


def test_weights_are_standard_normal_and_classes_alike():
    sampler = LinearClassification(3, 4)
    batch = sampler.sample(
        4000, num_support=10, num_query=1, generator=torch.Generator().manual_seed(0)
    )
    assert batch.latent.shape == (4000, 4, 4)
    assert abs(batch.latent.var().item() - 1) < 0.02
    shares = batch.support.y.flatten().bincount(minlength=4) / 40_000
    assert (shares - 0.25).abs().max() < 0.02


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"dim": 0, "num_classes": 2}, "`dim` must be at least 1; got 0."),
        ({"dim": 1, "num_classes": 0}, "`num_classes` must be at least 1; got 0."),
        (
            {"dim": 1, "num_classes": 2, "temperature": 0.0},
            "`temperature` must be above 0; got 0.0.",
        ),
    ],
)
def test_options_out_of_range(options, text):
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        LinearClassification(**options)
