"""Orders of the variables of a graph, found leaf by leaf, and how wrong they are."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from iai_tasks.examples import Examples, TaskBatch


def order_by_leaves(
    score: Callable[[Float[Tensor, "task n node"]], Float[Tensor, "task node"]],
    x: Float[Tensor, "task n node"],
) -> Int64[Tensor, "task node"]:
    """Removes the likeliest leaf, again and again, until an order of all variables stands.

    Args:
        score: How much each variable of a table looks like a leaf, that is, one that causes no
            other. It is asked again about the variables that are left, as long as there are two.
        x: Samples of the variables of each task.

    Returns:
        The variables, causes first: the last is the one that was removed first.

    Raises:
        ValueError: If a score is NaN or there is not one a variable.

    >>> order_by_leaves(lambda x: x.var(1), torch.tensor([[[0.0, 3.0, 1.0], [0.0, -3.0, -1.0]]]))
    tensor([[0, 2, 1]])
    """
    num_tasks, num_nodes = x.shape[0], x.shape[2]
    left = torch.arange(num_nodes, device=x.device).expand(num_tasks, -1)
    removed = []
    for _ in range(num_nodes - 1):
        scores = score(x)
        if scores.shape != left.shape:
            raise ValueError(
                f"`score` must give one number a variable, {tuple(left.shape)}; "
                f"got {tuple(scores.shape)}."
            )
        if scores.isnan().any():
            raise ValueError("`score` must give no NaN.")
        leaf = scores.argmax(1)
        removed.append(left.gather(1, leaf[:, None]))
        kept = _others(leaf, left.shape[1])
        left = left.gather(1, kept)
        x = x.gather(2, kept[:, None].expand(-1, x.shape[1], -1))
    return torch.cat([left, *removed[::-1]], dim=1)


def order_error(
    order: Int64[Tensor, "task node"], graph: Bool[Tensor, "task node node"]
) -> Float[Tensor, " task"]:
    """Fraction of removals, from the last of the order on, that were of no leaf of what was left.

    The removal of the only one that is left is not counted: a graph of one variable has no error.

    Args:
        order: The variables, causes first.
        graph: True at [i, j] where i is a cause of j.

    Raises:
        ValueError: If an order does not hold every variable once.

    >>> chain = torch.tensor([[[False, True, False], [False, False, True], [False] * 3]])
    >>> order_error(torch.tensor([[1, 0, 2]]), chain)  # 2 is a leaf; of 0 and 1, 0 is none
    tensor([0.5000])
    """
    num_nodes = order.shape[1]
    if (order.sort(1).values != torch.arange(num_nodes, device=order.device)).any():
        raise ValueError(f"`order` must hold each of {num_nodes} variables once.")
    rows = graph.gather(1, order[:, :, None].expand_as(graph))
    placed = rows.gather(2, order[:, None].expand_as(graph))
    # When place k is removed, the places before it are what is left.
    wrong = placed.tril(diagonal=-1).any(2)[:, 1:]
    return wrong.sum(1) / max(num_nodes - 1, 1)


def variance_order(x: Float[Tensor, "task n node"]) -> Int64[Tensor, "task node"]:
    """The variables by their variance, the smallest first: what a scale alone tells of the order.

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
    """The tasks as they are when some leaves have been removed, each drawn from those there are.

    So a learner is trained on what it meets when an order is made. All variables that are left are
    asked about, each once.

    Args:
        batch: Tasks of `StructuralCausalModels`.
        graph: Their graphs.
        num_removed: How many variables go, fewer than there are.
        generator: Source of every random number.

    Returns:
        Tasks of fewer variables: `support.x` is `task n node`, `query.x` is their places and
        `query.y` 1 where one is now a leaf. The latent is gone: it is of other tasks.

    Raises:
        ValueError: If there are not so many variables to remove.
    """
    num_tasks, num_nodes = graph.shape[:2]
    if not 0 <= num_removed < max(num_nodes, 1):
        raise ValueError(
            f"`num_removed` must be from 0 to {num_nodes - 1}, to leave one; got {num_removed}."
        )
    x = batch.support.x
    for _ in range(num_removed):
        keys = torch.rand(graph.shape[:2], generator=generator, device=graph.device)
        kept = _others(keys.masked_fill(graph.any(2), -1.0).argmax(1), graph.shape[1])
        graph = graph.gather(1, kept[:, :, None].expand(-1, -1, graph.shape[2]))
        graph = graph.gather(2, kept[:, None].expand(-1, graph.shape[1], -1))
        x = x.gather(2, kept[:, None].expand(-1, x.shape[1], -1))
    place = torch.arange(graph.shape[1], device=x.device, dtype=x.dtype)
    return TaskBatch(
        support=Examples(x=x, mask=batch.support.mask),
        query=Examples(x=place[:, None].repeat(num_tasks, 1, 1), y=(~graph.any(2)).long()),
    )


def _others(removed: Int64[Tensor, " task"], num: int) -> Int64[Tensor, "task left"]:
    """The places that are left when one of `num` is removed, in their order."""
    place = torch.arange(num - 1, device=removed.device)
    return place + (place >= removed[:, None])
