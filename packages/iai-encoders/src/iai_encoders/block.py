"""The one Transformer block of this package."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Tokens = Float[Tensor, "task n dim"]
Heads = Float[Tensor, "task head n key"]

_SELF_SCORE = 4.0


class Block(nn.Module):
    """A pre-norm Transformer block in two halves: what to attend with, and what to do after it.

    The block is ``x + out(attended)``, then ``x + ff_out(gelu(ff_in(norm(x))))``. The attention
    between the halves is the caller's: who sees whom is all that tells one encoder from another.

    Attention starts as a similarity: queries and keys begin as the same map, of a size that gives a
    token a score of about 4 with itself. Tokens that are alike find each other before anything is
    learned, and in-context learning does not have to wait for the chance discovery of matching,
    the plateau at the start of its training.

    Args:
        dim: Numbers a token.
        num_heads: Heads, which share `dim` evenly.
        ff_dim: Hidden units of the feed-forward half.
    """

    def __init__(self, dim: int, num_heads: int, ff_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.ff_norm = nn.LayerNorm(dim)
        self.ff_in = nn.Linear(dim, ff_dim)
        self.ff_out = nn.Linear(ff_dim, dim)
        # A normalised token has dim for its squared length; a score is a sum over head_dim products
        # of variance std^2 * dim, over the root of head_dim.
        std = (_SELF_SCORE / ((dim // num_heads) ** 0.5 * dim)) ** 0.5
        with torch.no_grad():
            self.query.weight.normal_(std=std)
            self.key_value.weight[:dim] = self.query.weight
            self.query.bias.zero_()
            self.key_value.bias[:dim] = 0.0

    def project(self, x: Tokens) -> tuple[Heads, Heads, Heads]:
        """The query, key and value of each token."""
        x = self.attention_norm(x)
        return self._split(self.query(x)), *self._keys_values(x)

    def keys_values(self, x: Tokens) -> tuple[Heads, Heads]:
        """The key and value of each token, where nothing will be asked of the queries."""
        return self._keys_values(self.attention_norm(x))

    def finish(self, x: Tokens, attended: Heads) -> Tokens:
        """The tokens after the block, from the tokens before it and what their queries found."""
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        x = x + self.ff_out(F.gelu(self.ff_in(self.ff_norm(x))))
        return x

    def _keys_values(self, normed: Tokens) -> tuple[Heads, Heads]:
        keys, values = self.key_value(normed).chunk(2, dim=2)
        return self._split(keys), self._split(values)

    def _split(self, x: Tokens) -> Heads:
        # task n dim -> task head n key
        return torch.unflatten(x, 2, (self.num_heads, -1)).transpose(1, 2)
