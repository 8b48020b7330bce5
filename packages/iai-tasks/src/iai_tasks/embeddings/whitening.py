"""The linear map that makes the principal components of embeddings white."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


def whitening(embeddings: Float[Tensor, "image _"], dim: int) -> nn.Linear:
    """The map to the first principal components, each divided by its standard deviation.

    Variances below a millionth of the largest are raised to that, so that such a component stays
    small.

    Args:
        embeddings: Data for the mean and the covariance, such as the embeddings of training
            images alone.
        dim: How many components to keep, from the largest variance down.

    Returns:
        A layer without gradients: applied to `embeddings` it gives numbers of mean 0 whose
        covariance is the identity. The component of largest variance comes last.

    Raises:
        ValueError: `dim` is below 1, or more than an embedding has numbers.

    >>> layer = whitening(torch.tensor([[0.0, 3.0], [2.0, 3.0], [4.0, 3.0]]), 1)
    >>> layer(torch.tensor([[2.0, 3.0], [4.0, 3.0]])).abs()
    tensor([[0.],
            [1.]])
    """
    x = embeddings.double()
    if not 1 <= dim <= x.shape[1]:
        raise ValueError(
            f"`dim` must be from 1 to {x.shape[1]}, the numbers of an embedding; got {dim}."
        )
    variances, directions = torch.linalg.eigh(x.T.cov())
    scale = variances[-dim:].clamp(min=1e-6 * variances[-1]).rsqrt()
    weight = (directions[:, -dim:] * scale).T
    layer = nn.Linear(x.shape[1], dim, device="meta")  # draws no weights
    bias = -weight @ x.mean(0)
    layer.weight = nn.Parameter(weight.to(embeddings.dtype), requires_grad=False)
    layer.bias = nn.Parameter(bias.to(embeddings.dtype), requires_grad=False)
    return layer
