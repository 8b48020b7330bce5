"""The Transformer block that every Transformer of this package is made of."""

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from iai_encoders.validation import check_sizes

Tokens = Float[Tensor, "task n dim"]
Heads = Float[Tensor, "task head n key"]

_SELF_SCORE = 4.0


class BlockOutput(nn.Module):
    """What follows attention: ``x = x + out(attended)``, ``x + ff_out(gelu(ff_in(norm(x))))``.

    Args:
        dim: Numbers a token.
        ff_dim: Hidden units of the feed-forward half.
        attended_dim: Numbers of the attended values of a token, over all heads; `dim` where None.
    """

    def __init__(self, dim: int, ff_dim: int, attended_dim: int | None = None) -> None:
        super().__init__()
        self.out = nn.Linear(dim if attended_dim is None else attended_dim, dim)
        self.ff_norm = nn.LayerNorm(dim)
        self.ff_in = nn.Linear(dim, ff_dim)
        self.ff_out = nn.Linear(ff_dim, dim)

    def forward(self, x: Tokens, attended: Heads) -> Tokens:
        """The tokens after the block, from the tokens before it and the attended values."""
        x = x + self.out(merge_heads(attended))
        x = x + self.ff_out(F.gelu(self.ff_in(self.ff_norm(x))))
        return x


class Block(nn.Module):
    """A pre-norm Transformer block without its attention, which is the caller's.

    `project` gives queries, keys and values, and `finish` is a `BlockOutput`. The encoders differ
    only in which token attends to which.

    Attention starts as a similarity: queries and keys are initialised as the same map, scaled to
    give a token a score of about 4 with itself. So tokens that are alike attend to each other
    before any training, which avoids the plateau at the start of training in-context learners.

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
        self.finish = BlockOutput(dim, ff_dim)
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
        return split_heads(self.query(x), self.num_heads), *self._keys_values(x)

    def keys_values(self, x: Tokens) -> tuple[Heads, Heads]:
        """The key and value of each token, where the queries are not needed."""
        return self._keys_values(self.attention_norm(x))

    def _keys_values(self, normed: Tokens) -> tuple[Heads, Heads]:
        keys, values = self.key_value(normed).chunk(2, dim=2)
        return split_heads(keys, self.num_heads), split_heads(values, self.num_heads)


def split_heads(x: Tokens, num_heads: int) -> Heads:
    """Each head's share of the tokens."""
    return torch.unflatten(x, 2, (num_heads, -1)).transpose(1, 2)


def merge_heads(x: Heads) -> Tokens:
    """The shares of all heads, side by side."""
    return x.transpose(1, 2).flatten(2)


def make_blocks(dim: int, num_layers: int, num_heads: int, ff_dim: int | None) -> Iterable[Block]:
    """Blocks in a ``nn.ModuleList``, with ``4 * dim`` hidden units where `ff_dim` is None.

    Raises:
        ValueError: If a size is below 1, or `num_heads` does not divide `dim`.
    """
    ff_dim = 4 * dim if ff_dim is None else ff_dim
    check_sizes(dim=dim, num_layers=num_layers, num_heads=num_heads, ff_dim=ff_dim)
    if dim % num_heads:
        raise ValueError(f"`dim` must be divisible by `num_heads`; got {dim} and {num_heads}.")
    blocks = nn.ModuleList(Block(dim, num_heads, ff_dim) for _ in range(num_layers))
    return cast(Iterable[Block], blocks)  # the type of a ModuleList does not say of what it is
