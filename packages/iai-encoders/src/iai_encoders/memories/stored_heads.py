"""Heads of keys and values, of which a memory keeps sums, minibatch by minibatch."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from iai_encoders.block import BlockOutput, split_heads
from iai_encoders.interfaces import Association
from iai_encoders.precision import without_autocast
from iai_encoders.running_mean import running_mean

Tokens = Float[Tensor, "task n dim"]
Heads = Float[Tensor, "task head n key"]
Values = Float[Tensor, "task head n value"]
MakeAssociation = Callable[[int, int, int], Association[Any]]
"""Makes an association for `num_heads`, `key_dim` and `value_dim`."""


class StoredHeads(nn.Module):
    """Heads of keys and values, and what is kept of them minibatch by minibatch."""

    def __init__(self, num_heads: int, key_dim: int, value_dim: int, make: MakeAssociation) -> None:
        super().__init__()
        self.num_heads, self.key_dim, self.value_dim = num_heads, key_dim, value_dim
        self.association = make(num_heads, key_dim, value_dim)

    def empty(self, like: Tensor, num_tasks: int) -> Any:
        """The means over no pairs."""
        sizes = self.key_dim, self.value_dim
        keys, values = (like.new_zeros(num_tasks, self.num_heads, 0, size) for size in sizes)
        mask = torch.ones(num_tasks, 0, dtype=torch.bool, device=like.device)
        with without_autocast(like.device):
            return self.association.sums(keys, values, mask)

    def store(
        self, means: Any, keys: Heads, values: Values, mask: Tensor, seen: Tensor, counts: Tensor
    ) -> Any:
        """The means after each minibatch, by then of ``seen + counts`` tokens."""
        if not keys.shape[2] and counts.shape[1] == 1:
            return means
        with without_autocast(keys.device):
            sums = self.association.sums(keys, values, mask)
            return tree_map(
                lambda mean, total: running_mean(
                    mean[:, None],
                    torch.unflatten(total, 0, counts.shape).cumsum(1),
                    seen[:, None],
                    counts,
                ).flatten(0, 1),
                means,
                sums,
            )

    def recall(self, means: Any, queries: Heads, seen: Tensor) -> Values:
        """What each query recalls, in the dtype of the sums."""
        if not queries.shape[2]:
            return queries.new_zeros(*queries.shape[:3], self.value_dim)
        with without_autocast(queries.device):
            return self.association.recall(means, queries, seen)


class Regression(StoredHeads):
    """One head of linear and of random features of questions, which are not normalised."""

    def __init__(self, dim: int, key_dim: int, features: int, make: MakeAssociation) -> None:
        super().__init__(1, key_dim + features, dim, make)
        self.key = nn.Linear(dim, key_dim)
        self.feature = nn.Linear(dim, features) if features else None
        if self.feature is not None:
            nn.init.normal_(self.feature.weight, std=dim**-0.5)
            nn.init.normal_(self.feature.bias, std=0.5)

    def keys(self, x: Tokens) -> Heads:
        """The keys of questions."""
        keys: Tensor = self.key(x)
        if self.feature is not None:
            keys = torch.cat([keys, self.feature(x).relu()], 2)
        return keys[:, None]


class MemoryLayer(StoredHeads):
    """Heads of normalised tokens, and a `BlockOutput`."""

    def __init__(
        self, dim: int, num_heads: int, key_dim: int, ff_dim: int, make: MakeAssociation
    ) -> None:
        super().__init__(num_heads, key_dim, key_dim, make)
        self.norm = nn.LayerNorm(dim)
        self.key = nn.Linear(dim, num_heads * key_dim)
        self.value = nn.Linear(dim, num_heads * key_dim)
        self.finish = BlockOutput(dim, ff_dim, num_heads * key_dim)

    def keys(self, x: Tokens) -> Heads:
        """The keys of questions or tokens."""
        return split_heads(self.key(self.norm(x)), self.num_heads)

    def values(self, x: Tokens) -> Values:
        """The values of tokens."""
        return split_heads(self.value(self.norm(x)), self.num_heads)
