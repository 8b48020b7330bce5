"""A Transformer over a sequence of tokens, each of which attends to those before it."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from iai_encoders.attention import attend_memory_and_self
from iai_encoders.block import make_blocks
from iai_encoders.memories.rotary import rotate, rotation
from iai_encoders.memory import TransformerMemory
from iai_encoders.validation import (
    as_weights,
    check_num_tasks,
    check_queries,
    check_questions,
    check_tokens,
)


class CausalTransformer(nn.Module):
    """A pre-norm Transformer that reads a sequence in pieces of any length.

    A token attends to itself and to the observed tokens before it. Positions are relative and count
    observed tokens only, so neither padding nor how a sequence is cut into pieces changes a result:
    one pass is the same as one token at a time.

    Second derivatives need ``sdpa_kernel(SDPBackend.MATH)`` around `scan` and `read`: the fused
    attention kernels have only first ones.

    Args:
        dim: Numbers a token.
        num_layers: Layers, at least 1.
        num_heads: Heads, which share `dim` evenly, an even number of it each.
        ff_dim: Hidden units of the feed-forward layers; ``4 * dim`` where None.

    Raises:
        ValueError: If a size is below 1, `num_heads` does not divide `dim`, or a head's share of
            it is odd.

    Source:
        The Transformer of "General-Purpose In-Context Learning by Meta-Learning Transformers"
        (4 layers, 8 heads, `dim` 256), with rotary positions.

    >>> encoder = CausalTransformer(dim=8, num_layers=2, num_heads=2)
    >>> outputs, memory = encoder.scan(encoder.empty(3), torch.zeros(3, 5, 8))
    >>> outputs.shape
    torch.Size([3, 5, 8])
    >>> memory.num_elements  # keys and values, 2 layers, 5 tokens of 8 numbers
    160
    >>> encoder.read(torch.zeros(3, 4, 8), memory).shape
    torch.Size([3, 4, 8])
    """

    def __init__(
        self, dim: int, num_layers: int, num_heads: int, ff_dim: int | None = None
    ) -> None:
        super().__init__()
        self.dim, self.num_heads = dim, num_heads
        self.blocks = make_blocks(dim, num_layers, num_heads, ff_dim)
        if dim // num_heads % 2:
            raise ValueError(
                f"`dim` / `num_heads` must be even to be turned in pairs; got {dim // num_heads}."
            )
        self.norm = nn.LayerNorm(dim)

    def empty(self, num_tasks: int) -> TransformerMemory:
        """The memory of no tokens, with the device and dtype of the parameters."""
        like = self.norm.weight
        leaf = like.new_empty(num_tasks, self.num_heads, 0, self.dim // self.num_heads)
        leaves = tuple(leaf for _ in self.blocks)
        return TransformerMemory(leaves, leaves, like.new_empty(num_tasks, 0, dtype=torch.bool))

    def extend(
        self,
        memory: TransformerMemory,
        tokens: Float[Tensor, "task n dim"],
        *,
        questions: Float[Tensor, "task n dim"] | None = None,
        mask: Bool[Tensor, "task n"] | None = None,
    ) -> TransformerMemory:
        """The memory that `scan` gives."""
        return self.scan(memory, tokens, questions=questions, mask=mask)[1]

    def scan(
        self,
        memory: TransformerMemory,
        tokens: Float[Tensor, "task n dim"],
        *,
        questions: Float[Tensor, "task n dim"] | None = None,
        mask: Bool[Tensor, "task n"] | None = None,
    ) -> tuple[Float[Tensor, "task n dim"], TransformerMemory]:
        """Reads the next tokens of each sequence.

        Args:
            memory: Of the tokens before; `empty` at the start. It is not changed.
            tokens: The next tokens. Masked tokens, NaN included, change no output of another token
                and no gradient.
            questions: Not used.
            mask: True where a token is observed; None where all are, which is faster.

        Returns:
            An output for each token, normalised, that depends on the tokens up to it (at a masked
            position, some finite numbers), and the memory of all tokens so far. Gradients flow to
            `tokens` and through `memory`.

        Raises:
            ValueError: If `tokens`, `questions` or `mask` has the wrong shape, `mask` is not bool,
                or `memory` is of another number of tasks.
        """
        check_tokens(tokens, mask, self.dim)
        check_questions(questions, tokens)
        check_num_tasks("tokens", tokens, memory.mask)
        tokens = as_weights(tokens, self.norm.weight)
        # A whole sequence without padding needs no mask but the kernel's own.
        whole = mask is None and memory.mask.shape[1] == 0
        if mask is None:
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        else:
            tokens = tokens.masked_fill(~mask[..., None], 0.0)
        visible = None if whole else _visible(memory.mask, mask)
        positions = _next_position(memory) + mask.cumsum(1) - 1
        by = rotation(positions, self.dim // self.num_heads, tokens.dtype)
        x, all_keys, all_values = tokens, [], []
        for block, keys, values in zip(self.blocks, memory.keys, memory.values, strict=True):
            query, key, value = block.project(x)
            keys = torch.cat([keys.to(key.dtype), rotate(key, by)], 2)
            values = torch.cat([values.to(value.dtype), value], 2)
            attended = F.scaled_dot_product_attention(
                rotate(query, by), keys, values, visible, is_causal=whole
            )
            x = block.finish(x, attended)
            all_keys.append(keys)
            all_values.append(values)
        mask = torch.cat([memory.mask, mask], 1)
        return self.norm(x), TransformerMemory(tuple(all_keys), tuple(all_values), mask)

    def read(
        self, queries: Float[Tensor, "task m dim"], memory: TransformerMemory
    ) -> Float[Tensor, "task m dim"]:
        """Answers each query as if it were the next token, without remembering it.

        Args:
            queries: Any number of queries to each task, all at the next position: each sees the
                memory and itself, never another query.
            memory: What `extend` or `scan` returned for these tasks.

        Returns:
            One answer a query, normalised: the output that `scan` would give it. Gradients flow
            to `queries` and through `memory`.

        Raises:
            ValueError: If `queries` has the wrong shape or not the tasks of `memory`.
        """
        check_queries(queries, memory.mask, self.dim)
        queries = as_weights(queries, self.norm.weight)
        by = rotation(_next_position(memory), self.dim // self.num_heads, queries.dtype)
        x = queries
        for block, keys, values in zip(self.blocks, memory.keys, memory.values, strict=True):
            query, key, value = block.project(x)
            attended = attend_memory_and_self(
                rotate(query, by), keys, values, rotate(key, by), value, memory.mask
            )
            x = block.finish(x, attended)
        answers: Tensor = self.norm(x)
        return answers


def _next_position(memory: TransformerMemory) -> Int[Tensor, "task 1"]:
    return memory.mask.sum(1, keepdim=True)


def _visible(
    old: Bool[Tensor, "task old"], new: Bool[Tensor, "task n"]
) -> Bool[Tensor, "task 1 n slots"]:
    """Which slots each new token attends to: the observed ones before it, and its own."""
    n = new.shape[1]
    before = torch.ones(n, n, dtype=torch.bool, device=new.device).tril(-1)
    itself = torch.eye(n, dtype=torch.bool, device=new.device)
    return torch.cat([old[:, None].expand(-1, n, -1), before & new[:, None] | itself], 2)[:, None]
