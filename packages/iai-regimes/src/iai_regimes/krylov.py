"""The gradient of a task's loss, and what its curvature makes of it."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def krylov_directions(
    loss: Callable[[Tensor], Tensor],
    theta: Float[Tensor, "task p"],
    num_products: int,
    *,
    differentiate: bool = False,
) -> list[Float[Tensor, "task p"]]:
    """The gradient g and the directions H g, H^2 g, .., each over the factor by which H stretched the one before.

    Combinations of these directions are what conjugate gradients and Newton's method build their steps of: a rule that
    learns a rate for each can solve a small linear system where the gradient alone takes a step downhill. Only
    Hessian-vector products are formed.

    Args:
        loss: Gives one loss a task; a task's loss depends on its own row alone.
        theta: Where.
        num_products: How many products with the Hessian; 0 for the gradient alone.
        differentiate: Whether outer gradients flow through the directions; otherwise they are constants.

    Returns:
        `num_products + 1` directions. Where the Hessian maps a direction to zero, the next ones are zero.

    >>> curvature = torch.tensor([1.0, 3.0])
    >>> loss = lambda theta: 0.5 * (curvature * theta.square()).sum(-1)
    >>> [d.tolist() for d in krylov_directions(loss, torch.tensor([[1.0, 0.0]]), 1)]
    [[[1.0, 0.0]], [[1.0, 0.0]]]
    """
    follow = differentiate and torch.is_grad_enabled()
    with torch.enable_grad():
        point = theta if follow and theta.requires_grad else theta.detach().requires_grad_()
        value = loss(point).sum()
        (gradient,) = torch.autograd.grad(value, point, create_graph=follow or num_products > 0)
        directions = [gradient if follow else gradient.detach()]
        for _ in range(num_products):
            last = directions[-1]
            (product,) = torch.autograd.grad(
                gradient,
                point,
                last,
                create_graph=follow,
                retain_graph=True,
                materialize_grads=True,
            )
            stretch = product.norm(dim=-1, keepdim=True) / _nonzero(last.norm(dim=-1, keepdim=True))
            directions.append(product / _nonzero(stretch))
    return directions


def _nonzero(value: Tensor) -> Tensor:
    return torch.where(value > 0, value, torch.ones_like(value))
