"""Whitening: mean 0 and covariance 1 along the components of largest variance."""

import pytest
import torch
from iai_tasks import whitening


def embeddings(num=200):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num, 6, generator=generator) * torch.tensor([9.0, 0.1, 3.0, 1.0, 5.0, 0.3])
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator))
    return x @ rotation + 7


@pytest.mark.parametrize("dim", [1, 4, 6])
def test_what_it_was_fitted_to_is_white(dim):
    x = embeddings()
    layer = whitening(x, dim)
    white, tolerance = layer(x).double(), {"atol": 1e-3, "rtol": 0}
    torch.testing.assert_close(white.mean(0), torch.zeros(dim).double(), **tolerance)
    covariance = white.T.cov().reshape(dim, dim)
    torch.testing.assert_close(covariance, torch.eye(dim).double(), **tolerance)
    assert not any(parameter.requires_grad for parameter in layer.parameters())


def test_components_of_largest_variance_are_kept():
    x = embeddings()
    _, _, directions = torch.linalg.svd((x - x.mean(0)).double(), full_matrices=False)
    kept = whitening(x, 2).weight.double()
    torch.testing.assert_close(
        kept @ directions[2:].T, torch.zeros(2, 4).double(), atol=1e-5, rtol=0
    )
    assert (kept @ directions[0]).abs().argmax() == 1  # the largest comes last


def test_a_component_without_variance_stays_small():
    x = torch.cat([embeddings(), torch.full((200, 1), 3.0)], dim=1)
    assert whitening(x, 7)(x).isfinite().all()


def test_it_draws_no_random_numbers():
    before = torch.get_rng_state()
    whitening(embeddings(), 3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dim", [0, 7])
def test_more_components_than_there_are(dim):
    with pytest.raises(ValueError, match="`dim` must be from 1 to 6, the numbers of an embedding"):
        whitening(embeddings(), dim)
