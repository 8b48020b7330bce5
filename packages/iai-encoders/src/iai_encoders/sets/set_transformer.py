"""A Transformer over a set of tokens, read by queries that see the set and themselves."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from iai_encoders.attention import attend_memory_and_self
from iai_encoders.block import make_blocks
from iai_encoders.memory import TransformerMemory
from iai_encoders.validation import as_weights, check_queries, check_tokens


class SetTransformer(nn.Module):
    """A pre-norm Transformer without positions, whose memory is every layer's keys and values.

    The tokens of a set attend to one another, or each to itself alone. A query passes through the
    same layers with the same weights; in each it attends to that layer's keys and values of the set
    and to itself, never to another query, and no token attends to a query. So the order of the set,
    its padding and the other queries change no answer.

    The caller maps its data to tokens of `dim` numbers. With no token observed, a query attends to
    itself alone. Attention is a mean, so the encoder does not know the size of a set unless the
    tokens tell it.

    Second derivatives need ``sdpa_kernel(SDPBackend.MATH)`` around `encode` and `read`: the fused
    attention kernels have only first ones.

    Args:
        dim: Numbers a token.
        num_layers: Layers, at least 1.
        num_heads: Heads, which share `dim` evenly.
        ff_dim: Hidden units of the feed-forward layers; ``4 * dim`` where None.
        self_attention: Whether the tokens of a set attend to one another. Where they need not, as
            to look up similar tokens, the time to encode is linear in the size of the set, and no
            token's keys depend on the company in which it is read.

    Raises:
        ValueError: If a size is below 1, or `num_heads` does not divide `dim`.

    Source:
        The implicit architecture of "Iterative Amortized Inference" and of prior-fitted networks
        (Müller et al. 2022): queries attend to the context and to themselves only.

    >>> encoder = SetTransformer(dim=8, num_layers=2, num_heads=2)
    >>> memory = encoder.encode(torch.zeros(3, 5, 8))  # 3 tasks of 5 tokens
    >>> memory.num_elements  # keys and values, 2 layers, 5 tokens of 8 numbers
    160
    >>> encoder.read(torch.zeros(3, 4, 8), memory).shape
    torch.Size([3, 4, 8])
    """

    def __init__(
        self,
        dim: int,
        num_layers: int,
        num_heads: int,
        ff_dim: int | None = None,
        *,
        self_attention: bool = True,
    ) -> None:
        super().__init__()
        self.dim, self.num_layers, self.num_heads = dim, num_layers, num_heads
        self.self_attention = self_attention
        self.blocks = make_blocks(dim, num_layers, num_heads, ff_dim)
        self.norm = nn.LayerNorm(dim)

    def encode(
        self,
        tokens: Float[Tensor, "task n dim"],
        *,
        mask: Bool[Tensor, "task n"] | None = None,
    ) -> TransformerMemory:
        """Every layer's keys and values of each set.

        Args:
            tokens: The set of each task. Masked tokens, NaN included, change neither what is read
                from the memory nor a gradient.
            mask: True where a token is observed; None where all are, which is faster.

        Returns:
            The memory; gradients flow to `tokens`.

        Raises:
            ValueError: If `tokens` or `mask` has the wrong shape, or `mask` is not bool.
        """
        check_tokens(tokens, mask, self.dim)
        tokens, visible = as_weights(tokens, self.norm.weight), None
        if mask is None:
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        else:
            tokens = tokens.masked_fill(~mask[..., None], 0.0)
            # The zeroed tokens of an empty set attend to each other, and nothing reads them: not
            # every attention kernel defines a softmax over no scores.
            visible = (mask | ~mask.any(1, keepdim=True))[:, None, None]
        keys, values = [], []
        *blocks, last = self.blocks
        for block in blocks:
            if self.self_attention:
                query, key, value = block.project(tokens)
                attended = F.scaled_dot_product_attention(query, key, value, visible)
            else:
                key, value = block.keys_values(tokens)
                attended = value
            tokens = block.finish(tokens, attended)
            keys.append(key)
            values.append(value)
        key, value = last.keys_values(tokens)  # nothing reads the tokens after the last block
        return TransformerMemory((*keys, key), (*values, value), mask)

    def read(
        self, queries: Float[Tensor, "task m dim"], memory: TransformerMemory
    ) -> Float[Tensor, "task m dim"]:
        """Answers each query from the memory and itself.

        Args:
            queries: Any number of queries to each task.
            memory: What `encode` returned for these tasks.

        Returns:
            One answer a query, normalised; gradients flow to `queries` and through `memory`.

        Raises:
            ValueError: If `queries` has the wrong shape or not the tasks of `memory`.
        """
        check_queries(queries, memory.mask, self.dim)
        x = as_weights(queries, self.norm.weight)
        for block, keys, values in zip(self.blocks, memory.keys, memory.values, strict=True):
            query, key, value = block.project(x)
            x = block.finish(
                x, attend_memory_and_self(query, keys, values, key, value, memory.mask)
            )
        answers: Tensor = self.norm(x)
        return answers
