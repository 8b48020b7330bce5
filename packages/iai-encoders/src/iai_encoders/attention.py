"""Attention of queries to a memory and to themselves."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def attend_memory_and_self(
    queries: Float[Tensor, "task head m key"],
    keys: Float[Tensor, "task head n key"],
    values: Float[Tensor, "task head n key"],
    query_keys: Float[Tensor, "task head m key"],
    query_values: Float[Tensor, "task head m key"],
    mask: Bool[Tensor, "task n"],
) -> Float[Tensor, "task head m key"]:
    """Lets each query attend to the memory's visible slots and itself, never to another query.

    One softmax runs over the ``n + 1`` scores of a query. With an empty or fully masked memory the
    query attends to itself alone, and its result is its own value.

    Args:
        queries: The queries.
        keys: The memory's keys.
        values: The memory's values; finite at hidden slots too.
        query_keys: The key of each query.
        query_values: The value of each query.
        mask: True where a slot of the memory is visible.

    Returns:
        The attended values, differentiable in every float argument.

    A memory of two slots, one of them masked. All scores are 0, so the result is the mean of
    the visible slot's value, 3, and the query's, 1:

    >>> zeros = torch.zeros(1, 1, 2, 1)
    >>> slots = torch.tensor([3.0, 100.0]).view(1, 1, 2, 1)
    >>> query = torch.tensor([[[[1.0]]]])
    >>> mask = torch.tensor([[True, False]])
    >>> attend_memory_and_self(query, zeros, slots, zeros[:, :, :1], query, mask).item()
    2.0
    """
    num_queries, num_slots = queries.shape[2], keys.shape[2]
    # The memory may have been made under autocast, and is now read without it.
    keys, values = keys.to(query_keys.dtype), values.to(query_values.dtype)
    # Two ways to compute the same numbers. Appending the queries' keys to the memory's computes m^2
    # scores too many but runs in one fused kernel. Forward and backward on one CPU core (256 tasks,
    # 4 heads of 16 numbers, 16 to 24 slots) take half the time of separate scores at 1 to 4
    # queries, 0.8 of it at 10, the same at twice as many queries as slots, and more beyond.
    if num_queries <= 2 * num_slots:
        itself = torch.eye(num_queries, dtype=torch.bool, device=mask.device)
        visible = torch.cat(
            [
                mask[:, None].expand(-1, num_queries, -1),
                itself.expand(mask.shape[0], -1, -1),
            ],
            2,
        )
        return F.scaled_dot_product_attention(
            queries,
            torch.cat([keys, query_keys], 2),
            torch.cat([values, query_values], 2),
            visible[:, None],
        )
    queries = queries * queries.shape[3] ** -0.5
    scores = (queries @ keys.transpose(2, 3)).masked_fill(~mask[:, None, None], -torch.inf)
    self_scores = (queries * query_keys).sum(3, keepdim=True)
    weights, self_weights = (
        torch.cat([scores, self_scores], 3).softmax(3).split_with_sizes([num_slots, 1], 3)
    )
    return weights @ values + self_weights * query_values
