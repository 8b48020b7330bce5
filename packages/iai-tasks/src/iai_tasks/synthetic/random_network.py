"""Regression tasks whose true function is a random network."""

from typing import Literal

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from iai_tasks._validators import at_least, one_of
from iai_tasks.spec import Real, TaskSpec
from iai_tasks.synthetic._affine import affine
from iai_tasks.synthetic._weighted import AbstractWeighted

Weights = Float[Tensor, "task weight"]
Activation = Literal["tanh", "relu"]


@attrs.frozen
class RandomNetworkRegression(AbstractWeighted):
    """Tasks y = v . [a(W' [x, 1]), 1] + noise, with x ~ N(0, I) and weights W, v ~ N(0, 1).

    Neither layer is scaled, so y has variance 1 + hidden_dim E[a^2] + noise_variance, where E[a^2]
    is (dim + 1) / 2 for relu. The latent of a task is one row of numbers: the rows of W, of which
    the last holds the biases, then v, of which the last number is the bias. Tensors have the dtype
    of the latent, or torch's default dtype.

    Attributes:
        dim: Number of inputs.
        hidden_dim: Number of hidden units.
        activation: The function a, "tanh" or "relu".
        noise_variance: Variance of the Gaussian noise of y, in support and query. No predictor has
            a lower mean squared error.

    Raises:
        ValueError: If a size is below 1, the variance below 0, or the activation unknown.

    Source:
        Mittal, Mahajan, Lajoie, Pezeshki, 2025, "Iterative Amortized Inference", arXiv 2510.11471.
        Biases and the noise variance are chosen as in `LinearRegression`.

    >>> sampler = RandomNetworkRegression(dim=1, hidden_dim=1, activation="relu", noise_variance=0)
    >>> latent = torch.tensor([[1.0, 0.0, 2.0, 3.0]])  # y = 2 relu(1 x + 0) + 3
    >>> generator = torch.Generator().manual_seed(0)
    >>> batch = sampler.sample(1, num_support=9, num_query=0, generator=generator, latent=latent)
    >>> torch.allclose(batch.support.y, 2 * batch.support.x.relu() + 3)
    True
    """

    dim: int = attrs.field(validator=at_least(1))
    hidden_dim: int = attrs.field(default=32, validator=at_least(1), kw_only=True)
    activation: Activation = attrs.field(
        default="tanh", validator=one_of("tanh", "relu"), kw_only=True
    )
    noise_variance: float = attrs.field(default=0.25, validator=at_least(0), kw_only=True)

    @property
    def spec(self) -> TaskSpec:
        """Inputs of `dim` numbers, a target of one."""
        return TaskSpec(support_x_shape=(self.dim,), query_x_shape=(self.dim,), target=Real(1))

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """All weights and biases, in one row of numbers."""
        return ((self.dim + 2) * self.hidden_dim + 1,)

    def draw_targets(
        self, x: Float[Tensor, "task n dim"], weights: Weights, generator: torch.Generator
    ) -> Float[Tensor, "task n 1"]:
        """Draws the network's outputs with noise."""
        first, last = weights.tensor_split([(self.dim + 1) * self.hidden_dim], dim=1)
        hidden = affine(x, first.reshape(-1, self.dim + 1, self.hidden_dim))
        hidden = hidden.tanh() if self.activation == "tanh" else hidden.relu()
        y = affine(hidden, last[..., None])
        y += self.noise_variance**0.5 * torch.empty_like(y).normal_(generator=generator)
        return y
