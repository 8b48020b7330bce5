"""An embedding of vectors by a linear map and products of linear maps."""

from jaxtyping import Float
from torch import Tensor, nn

from iai_regimes.check import check_sizes
from iai_regimes.precision import as_weights
from iai_regimes.scale import within_reach


class BilinearEmbedding(nn.Module):
    """A token that holds its inputs and learned products of pairs of them: A v + B (C v * D v).

    A gradient is made of products of inputs and residuals, a covariance of products of inputs; a
    network of linear maps and pointwise nonlinearities would first have to learn to multiply.

    Args:
        in_dim: Numbers of the input.
        out_dim: Numbers of the token.
        hidden_dim: Number of products; `out_dim` if None.

    Raises:
        ValueError: If a size is below 1.

    Source:
        The bilinear gated linear unit of Shazeer (2020), arXiv 2002.05202, with a linear path
        beside it.

    >>> import torch
    >>> embedding = BilinearEmbedding(1, 1)
    >>> _ = [nn.init.ones_(p) if p.dim() > 1 else nn.init.zeros_(p) for p in embedding.parameters()]
    >>> embedding(torch.tensor([3.0])).item()  # 3 + 3 * 3
    12.0
    """

    def __init__(self, in_dim: int, out_dim: int, *, hidden_dim: int | None = None) -> None:
        super().__init__()
        hidden_dim = out_dim if hidden_dim is None else hidden_dim
        check_sizes(in_dim=in_dim, out_dim=out_dim, hidden_dim=hidden_dim)
        self.factors = nn.Linear(in_dim, 2 * hidden_dim)
        self.linear = nn.Linear(in_dim, out_dim)
        self.products = nn.Linear(hidden_dim, out_dim, bias=False)

    def forward(self, v: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        """Embeds the last axis in the dtype of the weights; gradients flow.

        Numbers far beyond any trained range are cut off before and after (`within_reach`).
        """
        v = within_reach(as_weights(v, self.linear.weight))
        left, right = self.factors(v).chunk(2, dim=-1)
        return within_reach(self.linear(v) + self.products(left * right))
