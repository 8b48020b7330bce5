"""Products of a token's own numbers."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

Tokens = Float[Tensor, "task n dim"]


class Products(nn.Module):
    """Adds learned products of pairs of its numbers to a token: x + P (C x * D x).

    A kernel or a distance is made of products of inputs; a network of linear maps and pointwise
    functions would first have to learn to multiply. Products are of the question alone, so that an
    example and a query of one input still differ in the target alone. They start at a tenth of
    their usual size.

    Args:
        dim: Numbers a token.

    Source:
        The bilinear gated linear unit of Shazeer (2020), arXiv 2002.05202, with a path around it.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.factors = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim, bias=False)
        with torch.no_grad():
            self.out.weight.mul_(0.1)

    def forward(self, x: Tokens) -> Tokens:
        """The tokens with their products; gradients flow."""
        left, right = self.factors(x).chunk(2, dim=2)
        with_products: Tokens = x + self.out(left * right)
        return with_products
