"""A Transformer whose layers keep a memory of one size in place of keys and values."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from iai_encoders.fading_share import fading_share
from iai_encoders.memories.ridge import Ridge
from iai_encoders.memories.stored_heads import MakeAssociation, MemoryLayer, Regression
from iai_encoders.products import Products
from iai_encoders.running_mean import count_tokens
from iai_encoders.validation import (
    as_weights,
    check_num_tasks,
    check_queries,
    check_questions,
    check_sizes,
    check_steps,
    check_tokens,
)

Tokens = Float[Tensor, "task n dim"]
Rows = Float[Tensor, "row n dim"]


class AssociativeMemory(NamedTuple):
    """The memory of a `MemoryTransformer`, of one size however many tokens it has read.

    Attributes:
        layers: The state of the regression, then of each layer's association.
        seen: ``task``, the number of tokens read, in float32 at least.
    """

    layers: tuple[Any, ...]
    seen: Tensor

    @property
    def num_elements(self) -> int:
        """Numbers a task that a read has access to."""
        return sum(leaf.shape[1:].numel() for leaf in tree_leaves(self.layers))


class MemoryTransformer(nn.Module):
    """A pre-norm Transformer in which an association of keys and values replaces attention.

    With `Ridge`, the default, it is the **ridge memory**: each layer and head keeps a ridge
    regression of learned values on learned keys. Tokens of a minibatch are stored together, and
    each then recalls from all that is stored, itself included, on its way to the next layer. A
    query passes through the same layers and stores nothing. So memory and time a token do not grow
    with the number of tokens read; the order within a minibatch changes nothing; in the first
    layer, nor does the cut into minibatches.

    Questions and queries get `Products` of their own numbers; a token is its question with these,
    and what it differs from the question by.

    Beside the layers there is a regression, an association of one head, from the questions to what
    tokens differ from them by. It answers, and the layers add to it:

        answer = recalled by the regression + (1 + n)^-r norm(x),

    where n counts the tokens read and r >= 0 is learned. Its keys are [K q, relu(F q)], with
    biases, of a question q with its products, and are not normalised. The first layer takes its
    keys from the questions, too; the layers above see what the regression recalled. The gain of
    `norm` is 0.1 at the start, so that there the regression answers.

    With `features`, the rows of F, the regression is one on random features before any training:
    some hundreds of them make it a good classifier of many examples. Without, and without
    `products`, where questions are linear in the inputs and the difference in the target, one layer
    of `Ridge` can be Bayesian linear regression at every n. With `key_dim` below the number of
    inputs and a constant, it is that of a projection of the inputs, whose error does not vanish.

    Args:
        dim: Numbers a token.
        num_layers: Layers, at least 1.
        num_heads: Heads of a layer.
        ff_dim: Hidden units of the feed-forward layers; ``4 * dim`` where None.
        key_dim: Numbers of a head's keys, and of its values; ``dim // num_heads`` where None.
        features: Numbers of the regression's keys, beside `key_dim` that are linear. A ridge memory
            holds ``2 * num_layers * num_heads * key_dim**2`` numbers, and ``wide * (wide +
            dim)`` with ``wide = key_dim + features``.
        association: `Ridge`, `LinearAttention`, or any function of `num_heads`, `key_dim` and
            `value_dim` that makes one; or a sequence with one for each layer. The regression has
            that of the first.
        products: Whether questions get `Products` of their numbers first, so that the regression is
            on these, too; False for regression that is linear in the inputs, where the linear path
            is to give the whole answer in the end: what is beside it then fades faster.

    Raises:
        ValueError: If a size is below 1, `features` is below 0, `key_dim` is None and `num_heads`
            does not divide `dim`, or there are not as many associations as layers.

    Source:
        The mesa layer of von Oswald et al. (2023), arXiv 2309.05858, read and written by sets.
        Ours: one map for the keys of examples and queries, lambda / n, the regression.

    >>> encoder = MemoryTransformer(dim=8, num_layers=2, num_heads=2)
    >>> memory = encoder.extend(encoder.empty(3), torch.zeros(3, 5, 8))  # 3 tasks of 5 tokens
    >>> memory.num_elements  # 2 layers of 2 heads, and the regression; 4 x 4 and 4 x 8
    176
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
        key_dim: int | None = None,
        features: int = 0,
        association: MakeAssociation | Sequence[MakeAssociation] = Ridge,
        products: bool = True,
    ) -> None:
        super().__init__()
        ff_dim = 4 * dim if ff_dim is None else ff_dim
        check_sizes(dim=dim, num_layers=num_layers, num_heads=num_heads, ff_dim=ff_dim)
        if key_dim is None:
            if dim % num_heads:
                raise ValueError(
                    "`num_heads` must divide `dim` where `key_dim` is None; got "
                    f"{num_heads} and {dim}."
                )
            key_dim = dim // num_heads
        check_sizes(key_dim=key_dim)
        makers = [association] * num_layers if callable(association) else list(association)
        if len(makers) != num_layers:
            raise ValueError(
                f"`association` must be one, or one for each of the {num_layers} layers; got "
                f"{len(makers)}."
            )
        if features < 0:
            raise ValueError(f"`features` must be at least 0; got {features}.")
        self.dim = dim
        self.regression = Regression(dim, key_dim, features, makers[0])
        self.layers = nn.ModuleList(
            MemoryLayer(dim, num_heads, key_dim, ff_dim, make) for make in makers
        )
        self.recalled = nn.Linear(dim, dim)
        self.products = Products(dim) if products else nn.Identity()
        self.norm = nn.LayerNorm(dim)
        nn.init.constant_(self.norm.weight, 0.1)  # at the start the regression answers
        # r = softplus(rate), at the start 0.05; 0.7 where the linear path is to be all in the end
        self.rate = nn.Parameter(torch.tensor(-3.0 if products else 0.0))

    def empty(self, num_tasks: int) -> AssociativeMemory:
        """The memory of no tokens, on the device of the parameters."""
        dtype = torch.promote_types(self.rate.dtype, torch.float32)
        parts = self.regression, *self._layers()
        states = tuple(part.empty(self.rate, num_tasks) for part in parts)
        return AssociativeMemory(states, self.rate.new_zeros(num_tasks, dtype=dtype))

    def extend(
        self,
        memory: AssociativeMemory,
        tokens: Tokens,
        *,
        questions: Tokens | None = None,
        mask: Bool[Tensor, "task n"] | None = None,
    ) -> AssociativeMemory:
        """Stores a minibatch in every layer.

        Args:
            memory: Of the tokens before; `empty` at the start. It is not changed.
            tokens: The minibatch. Masked tokens, NaN included, change neither memory nor gradient.
            questions: Each token's input without its target, as a query would give it; None where
                tokens have no target: they are then their own keys and values.
            mask: True where a token is observed; None where all are.

        Returns:
            The memory of all tokens so far; gradients flow to `tokens`, `questions` and through
            `memory`.

        Raises:
            ValueError: If `tokens`, `questions` or `mask` has the wrong shape, `mask` is not bool,
                or `memory` is of another number of tasks.
        """
        check_tokens(tokens, mask, self.dim)
        check_num_tasks("tokens", tokens, memory.seen)
        nothing = tokens.new_zeros(len(memory.seen), 0, self.dim)
        return self._pass(memory, tokens, nothing, questions, mask, outputs=False)[2]

    def trace(
        self,
        memory: AssociativeMemory,
        tokens: Rows,
        queries: Float[Tensor, "task m dim"],
        *,
        questions: Rows | None = None,
        mask: Bool[Tensor, "row n"] | None = None,
    ) -> tuple[Float[Tensor, "row m dim"], AssociativeMemory]:
        """Stores several minibatches of each task, layer by layer, and answers after each of them.

        To rounding, this is what `extend` and `read` give in turn. It takes less time: no step
        waits for the one before.

        Args:
            memory: Of the tokens before. It is not changed.
            tokens: Minibatch `j` of task `i` in row ``i * step + j``.
            queries: The queries to each task, the same after each minibatch.
            questions: As for `extend`.
            mask: As for `extend`.

        Returns:
            The answers after each minibatch, in the rows of the minibatches; and the memory after
            the last.

        Raises:
            ValueError: As `extend` and `read`.
        """
        _, answers, memory = self._pass(memory, tokens, queries, questions, mask, outputs=False)
        return answers, memory

    def pass_through(
        self,
        memory: AssociativeMemory,
        tokens: Rows,
        queries: Float[Tensor, "task m dim"],
        *,
        questions: Rows | None = None,
        mask: Bool[Tensor, "row n"] | None = None,
    ) -> tuple[Rows, Float[Tensor, "row m dim"], AssociativeMemory]:
        """As `trace`, after an output for each token: what it recalls from all tokens so far."""
        return self._pass(memory, tokens, queries, questions, mask, outputs=True)

    def read(
        self, queries: Float[Tensor, "task m dim"], memory: AssociativeMemory
    ) -> Float[Tensor, "task m dim"]:
        """Answers each query from the memory and itself.

        Args:
            queries: Any number of queries to each task, embedded as `questions` are.
            memory: What `extend` returned for these tasks.

        Returns:
            One answer a query; gradients flow to `queries` and through `memory`.

        Raises:
            ValueError: If `queries` has the wrong shape or not the tasks of `memory`.
        """
        nothing = queries.new_zeros(len(memory.seen), 0, self.dim)
        return self._pass(memory, nothing, queries, None, None, outputs=False)[1]

    def _pass(
        self,
        memory: AssociativeMemory,
        tokens: Rows,
        queries: Float[Tensor, "task m dim"],
        questions: Rows | None,
        mask: Bool[Tensor, "row n"] | None,
        *,
        outputs: bool,
    ) -> tuple[Float[Tensor, "row _ dim"], Float[Tensor, "row m dim"], AssociativeMemory]:
        """Outputs of the tokens, where asked for, and of the queries; the memory of all tokens."""
        check_tokens(tokens, mask, self.dim)
        check_questions(questions, tokens)
        check_queries(queries, memory.seen, self.dim)
        shape = len(memory.seen), check_steps(tokens, memory.seen)
        if mask is None:
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        token = as_weights(tokens, self.norm.weight).masked_fill(~mask[..., None], 0.0)
        told, question = token, token
        if questions is not None:
            question = as_weights(questions, self.norm.weight).masked_fill(~mask[..., None], 0.0)
            told = token - question
        question, query = map(self.products, (question, as_weights(queries, self.norm.weight)))
        query = query[:, None].expand(-1, shape[1], -1, -1).flatten(0, 1)
        counts = count_tokens(mask, memory.seen).view(shape).cumsum(1)
        seen, num_tokens = (memory.seen[:, None] + counts).flatten(), token.shape[1]
        # Tokens and queries side by side: both recall, and the tokens alone are stored.
        x = torch.cat([question if questions is None else question + told, query], 1)
        keyed, last = torch.cat([question, query], 1), len(self.layers) - 1
        first, *others = memory.layers
        wide, counted = self.regression.keys(keyed), (mask, memory.seen, counts)
        first = self.regression.store(first, wide[:, :, :num_tokens], told[:, None], *counted)
        states, recalled = [first], x
        for index, (layer, state) in enumerate(zip(self._layers(), others, strict=True)):
            keys = layer.keys(x if index else keyed)
            values = layer.values(x[:, :num_tokens])
            state = layer.store(state, keys[:, :, :num_tokens], values, *counted)
            states.append(state)
            if index == last and not outputs:  # nothing reads the tokens any more
                rest = keys, x, wide, recalled
                keys, x, wide, recalled = (leaf[..., num_tokens:, :] for leaf in rest)
            if index == 0:
                recalled = self.regression.recall(first, wide, seen)[:, 0]
            x = layer.finish(x, layer.recall(state, keys, seen).to(x.dtype))
            if index == 0:
                x = x + self.recalled(recalled.to(x.dtype))
        answers = recalled + fading_share(seen, self.rate) * self.norm(x)
        answers = answers.to(self.norm.weight.dtype)  # that of the sums, under autocast
        kept = tree_map(lambda leaf: torch.unflatten(leaf, 0, shape)[:, -1], tuple(states))
        num_outputs = num_tokens if outputs else 0
        memory = AssociativeMemory(kept, seen.view(shape)[:, -1])
        return answers[:, :num_outputs], answers[:, num_outputs:], memory

    def _layers(self) -> Iterable[MemoryLayer]:
        return cast(Iterable[MemoryLayer], self.layers)
