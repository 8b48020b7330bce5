"""Orders of the variables of a graph, made by removing leaf after leaf, and their errors."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from iai_tasks.causal.random_graph import subgraph
from iai_tasks.examples import Examples, TaskBatch


def order_by_leaves(
    score: Callable[[Float[Tensor, "task n node"]], Float[Tensor, "task node"]],
    x: Float[Tensor, "task n node"],
) -> Int64[Tensor, "task node"]:
    """Orders variables, causes first, by removing the likeliest leaf again and again.

    Args:
        score: How much each variable of a table looks like a leaf, which causes no other variable.
            It is called with the columns that are left, as long as there are two.
        x: Samples of the variables of each task.

    Returns:
        The variables; the last is the one that was removed first.

    Raises:
        ValueError: If a score is NaN, or there is not one for each variable.

    >>> order_by_leaves(lambda x: x.var(1), torch.tensor([[[0.0, 3.0, 1.0], [0.0, -3.0, -1.0]]]))
    tensor([[0, 2, 1]])
    """
    num_tasks, _, num_nodes = x.shape
    left = torch.arange(num_nodes, device=x.device).expand(num_tasks, -1)
    removed = []
    for _ in range(num_nodes - 1):
        scores = score(_columns(x, left))
        if scores.shape != left.shape:
            raise ValueError(
                f"`score` must give one number a variable, {tuple(left.shape)}; "
                f"got {tuple(scores.shape)}."
            )
        if scores.isnan().any():
            raise ValueError("`score` must give no NaN.")
        leaf = scores.argmax(1)
        removed.append(left.gather(1, leaf[:, None]))
        left = _without(left, leaf)
    return torch.cat([left, *removed[::-1]], dim=1)


def order_error(
    order: Int64[Tensor, "task node"], graph: Bool[Tensor, "task node node"]
) -> Float[Tensor, " task"]:
    """Fraction of removals of a variable that was no leaf among those that were left.

    Variables are removed from the last of the order on. Removing the only one that is left does not
    count, so a graph of one variable has error 0.

    Args:
        order: The variables, causes first.
        graph: True at [i, j] where i is a cause of j.

    Raises:
        ValueError: If an order does not hold every variable once.

    >>> chain = torch.tensor([[[False, True, False], [False, False, True], [False] * 3]])
    >>> order_error(torch.tensor([[1, 0, 2]]), chain)  # 2 is a leaf; then 0, which causes 1, is not
    tensor([0.5000])
    """
    num_nodes = order.shape[1]
    if (order.sort(1).values != torch.arange(num_nodes, device=order.device)).any():
        raise ValueError(f"`order` must hold each of {num_nodes} variables once.")
    # When a variable is removed, those before it are left: it is no leaf if it causes one of them.
    wrong = subgraph(graph, order).tril(diagonal=-1).any(2)[:, 1:]
    return wrong.sum(1) / max(num_nodes - 1, 1)


def variance_order(x: Float[Tensor, "task n node"]) -> Int64[Tensor, "task node"]:
    """Orders variables by their variance, the smallest first: a baseline that sees scales alone.

    Raises:
        ValueError: If there are no samples, or some are not finite.

    Source:
        Reisach, Seiler, Weichwald, 2021, "Beware of the Simulated DAG!", arXiv 2102.13647.

    >>> variance_order(torch.tensor([[[0.0, 3.0, 1.0], [0.0, -3.0, -1.0]]]))
    tensor([[0, 2, 1]])
    """
    if not x.shape[1] or not x.isfinite().all():
        raise ValueError("`x` must have samples, all of them finite.")
    return x.var(1, unbiased=False).argsort(dim=1, stable=True)


def without_leaves(
    batch: TaskBatch,
    graph: Bool[Tensor, "task node node"],
    num_removed: int,
    generator: torch.Generator,
) -> TaskBatch:
    """Removes random leaves one after another: the tasks that are met while an order is made.

    Train a learner on them that `order_by_leaves` will ask. A query asks about each variable that
    is left, once.

    Args:
        batch: Tasks of `StructuralCausalModels`.
        graph: Their graphs.
        num_removed: How many variables to remove; at least one is left.
        generator: Source of every random number.

    Returns:
        Tasks of fewer variables: `support.x` is `task n node`, `query.x` the indices of its
        columns, and `query.y` 1 for a leaf. There is no latent: it would be of the tasks before.

    Raises:
        ValueError: If there are too few variables to remove so many.
    """
    num_tasks, num_nodes = graph.shape[:2]
    if not 0 <= num_removed < max(num_nodes, 1):
        raise ValueError(
            f"`num_removed` must be from 0 to {num_nodes - 1}, to leave one; got {num_removed}."
        )
    left = torch.arange(num_nodes, device=graph.device).expand(num_tasks, -1)
    for _ in range(num_removed):
        keys = torch.rand(left.shape, generator=generator, device=graph.device)
        is_cause = subgraph(graph, left).any(2)
        left = _without(left, keys.masked_fill(is_cause, -1.0).argmax(1))
    x = _columns(batch.support.x, left)
    index = torch.arange(left.shape[1], device=x.device, dtype=x.dtype)
    is_leaf = ~subgraph(graph, left).any(2)
    return TaskBatch(
        support=Examples(x=x, mask=batch.support.mask),
        query=Examples(x=index[:, None].repeat(num_tasks, 1, 1), y=is_leaf.long()),
    )


def _columns(
    x: Float[Tensor, "task n node"], nodes: Int64[Tensor, "task chosen"]
) -> Float[Tensor, "task n chosen"]:
    return x.gather(2, nodes[:, None].expand(-1, x.shape[1], -1))


def _without(
    nodes: Int64[Tensor, "task node"], removed: Int64[Tensor, " task"]
) -> Int64[Tensor, "task left"]:
    """Drops the node at one index of each row."""
    index = torch.arange(nodes.shape[1] - 1, device=nodes.device)
    return nodes.gather(1, index + (index >= removed[:, None]))
