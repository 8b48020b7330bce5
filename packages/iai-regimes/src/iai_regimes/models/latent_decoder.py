"""A decoder of a latent: the network of the explicit regime."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iai_regimes.check import check_sizes
from iai_regimes.embedding import BilinearEmbedding


class LatentDecoder(nn.Module):
    """[latent, x] to outputs: a bilinear embedding, then an MLP beside a linear path.

    Args:
        x_dim: Numbers of one flattened input.
        latent_dim: Size of the latent.
        num_outputs: Raw numbers a query.
        hidden_dim: Width.
        num_layers: Hidden layers behind the embedding.

    Raises:
        ValueError: If a size is below 1.

    >>> from iai_regimes import Predictor
    >>> decoder = LatentDecoder(x_dim=3, latent_dim=5, num_outputs=2)
    >>> Predictor(decoder, adapt=["latent"]).size  # adapted numbers of a task
    5
    """

    def __init__(
        self,
        x_dim: int,
        latent_dim: int,
        num_outputs: int,
        *,
        hidden_dim: int = 128,
        num_layers: int = 2,
    ) -> None:
        super().__init__()
        check_sizes(x_dim=x_dim, latent_dim=latent_dim, num_outputs=num_outputs)
        check_sizes(hidden_dim=hidden_dim, num_layers=num_layers)
        self.latent = nn.Parameter(torch.zeros(latent_dim))
        self.embed = BilinearEmbedding(latent_dim + x_dim, hidden_dim)
        layers: list[nn.Module] = []
        for _ in range(num_layers):
            layers += [nn.GELU(), nn.Linear(hidden_dim, hidden_dim)]
        self.hidden = nn.Sequential(*layers)
        self.head = nn.Linear(hidden_dim, num_outputs)

    def forward(self, x: Float[Tensor, "n *x_shape"]) -> Float[Tensor, "n num_outputs"]:
        """Outputs of one task at its inputs; gradients flow."""
        flat = x.flatten(1)
        h = self.embed(torch.cat([self.latent.expand(flat.shape[0], -1), flat], dim=-1))
        outputs: Tensor = self.head(h + self.hidden(h))
        return outputs
