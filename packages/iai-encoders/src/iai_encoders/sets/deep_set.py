"""The mean over a set of tokens, each passed through the same network."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from iai_encoders.running_mean import count_tokens, running_mean
from iai_encoders.validation import (
    as_weights,
    check_num_tasks,
    check_queries,
    check_questions,
    check_sizes,
    check_tokens,
)


class DeepSetMemory(NamedTuple):
    """The memory of a `DeepSet`.

    Attributes:
        mean: ``task hidden``, the mean over the observed tokens; zero where there are none.
        seen: ``task``, how many tokens it is the mean over.
    """

    mean: Tensor
    seen: Tensor

    @property
    def num_elements(self) -> int:
        """Numbers a task that a read has access to: ``hidden_dim``, however large the set."""
        return self.mean.shape[1]


class DeepSet(nn.Module):
    """One network for every token, the mean of its outputs as memory, one network for every query.

    The memory has the same size for any set, which makes it a bottleneck: a query reads the set
    from one vector. The mean does not tell the number of tokens, unless the tokens do. The mean of
    no tokens is zero. A set may come in minibatches of any size: the mean over all of them is the
    same.

    Args:
        dim: Numbers a token, a query and an answer.
        hidden_dim: Numbers of the memory and hidden units of both networks; ``2 * dim`` where None.
        num_layers: Hidden layers of each network, at least 1.

    Raises:
        ValueError: If a size is below 1.

    Source:
        Zaheer et al., "Deep Sets", 2017, with a mean in place of the sum, so that the memory of a
        set larger than any in training stays in range.

    >>> encoder = DeepSet(dim=8, hidden_dim=16)
    >>> memory = encoder.encode(torch.zeros(3, 5, 8))  # 3 tasks of 5 tokens
    >>> memory.num_elements
    16
    >>> encoder.read(torch.zeros(3, 4, 8), memory).shape
    torch.Size([3, 4, 8])
    """

    def __init__(self, dim: int, hidden_dim: int | None = None, num_layers: int = 2) -> None:
        super().__init__()
        hidden_dim = 2 * dim if hidden_dim is None else hidden_dim
        check_sizes(dim=dim, hidden_dim=hidden_dim, num_layers=num_layers)
        self.dim = dim
        self.embed_token = nn.Linear(dim, hidden_dim)
        self.token_layers = _layers(hidden_dim, num_layers)
        self.embed_query = nn.Linear(dim, hidden_dim)
        self.embed_mean = nn.Linear(hidden_dim, hidden_dim, bias=False)
        self.query_layers = _layers(hidden_dim, num_layers - 1)
        self.answer = nn.Linear(hidden_dim, dim)

    def encode(
        self,
        tokens: Float[Tensor, "task n dim"],
        *,
        mask: Bool[Tensor, "task n"] | None = None,
    ) -> DeepSetMemory:
        """Averages the network's outputs over the tokens of each set.

        Args:
            tokens: The set of each task. Masked tokens, NaN included, change neither the memory nor
                a gradient.
            mask: True where a token is observed; None where all are.

        Returns:
            The memory; gradients flow to `tokens`.

        Raises:
            ValueError: If `tokens` or `mask` has the wrong shape, or `mask` is not bool.
        """
        return self.extend(self.empty(len(tokens)), tokens, mask=mask)

    def empty(self, num_tasks: int) -> DeepSetMemory:
        """The memory of no tokens, in float32 at least."""
        weight = self.embed_mean.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        zeros = weight.new_zeros(num_tasks, weight.shape[1] + 1, dtype=dtype)
        return DeepSetMemory(zeros[:, 1:], zeros[:, 0])

    def extend(
        self,
        memory: DeepSetMemory,
        tokens: Float[Tensor, "task n dim"],
        *,
        questions: Float[Tensor, "task n dim"] | None = None,
        mask: Bool[Tensor, "task n"] | None = None,
    ) -> DeepSetMemory:
        """Averages the network's outputs over the tokens before and these.

        Args:
            memory: Of the tokens before. It is not changed.
            tokens: The next tokens of each set, as `encode` takes them.
            questions: Not used.
            mask: True where a token is observed; None where all are.

        Returns:
            The memory of all tokens so far; gradients flow to `tokens` and through `memory`.

        Raises:
            ValueError: If `tokens`, `questions` or `mask` has the wrong shape, `mask` is not bool,
                or `memory` is of another number of tasks.
        """
        check_tokens(tokens, mask, self.dim)
        check_questions(questions, tokens)
        check_num_tasks("tokens", tokens, memory.mean)
        tokens = as_weights(tokens, self.answer.weight)
        if mask is None:
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        hidden = ~mask[..., None]
        h = self.embed_token(tokens.masked_fill(hidden, 0.0))
        for layer in self.token_layers:
            h = layer(F.gelu(h))
        total = h.masked_fill(hidden, 0.0).sum(1, dtype=memory.mean.dtype)
        count = count_tokens(mask, memory.seen)
        mean = running_mean(memory.mean, total, memory.seen, count)
        return DeepSetMemory(mean, memory.seen + count)

    def read(
        self, queries: Float[Tensor, "task m dim"], memory: DeepSetMemory
    ) -> Float[Tensor, "task m dim"]:
        """Answers each query from the mean and itself.

        Args:
            queries: Any number of queries to each task.
            memory: What `encode` returned for these tasks.

        Returns:
            One answer a query; gradients flow to `queries` and through `memory`.

        Raises:
            ValueError: If `queries` has the wrong shape or not the tasks of `memory`.
        """
        check_queries(queries, memory.mean, self.dim)
        queries, mean = (as_weights(v, self.answer.weight) for v in (queries, memory.mean))
        # A linear map of [query, mean], without a copy of the mean beside every query.
        h = self.embed_query(queries) + self.embed_mean(mean)[:, None]
        for layer in self.query_layers:
            h = layer(F.gelu(h))
        answers: Tensor = self.answer(F.gelu(h))
        return answers


def _layers(dim: int, num_layers: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(dim, dim) for _ in range(num_layers))
