"""The gradient of a task's loss, the curvature around it, and a Newton step damped by evidence."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iai_regimes.evidence import annealed_gain
from iai_regimes.gradient import refuse_inference_mode


class Curvature(NamedTuple):
    """A gradient g, and how the loss curves in the directions that it leads to."""

    gradient: Float[Tensor, "task p"]
    sizes: Float[Tensor, "task m"]  # of the curvature along each direction, at least 0
    parts: Float[Tensor, "task m p"]  # of the gradient along each direction; they add up to it

    def mean_size(self) -> Float[Tensor, " task"]:
        """Mean size over the directions that were found; 0 where there is none.

        A part of less than 1e-4 of the gradient may be what rounding left, and is not counted.
        """
        shortest = 1e-4 * self.gradient.norm(dim=-1, keepdim=True)
        found = self.parts.norm(dim=-1) > shortest
        mean: Tensor = (self.sizes * found).sum(-1) / found.sum(-1).clamp(min=1)
        return mean


def curvature_at(
    loss: Callable[[Tensor], Tensor],
    theta: Float[Tensor, "task p"],
    num_products: int,
    *,
    differentiate: bool = False,
) -> Curvature:
    """The gradient, split along the Ritz vectors of the Hessian in the gradient's Krylov space.

    Lanczos' method with full orthogonalisation forms Hessian-vector products only. Sizes are
    absolute values: along a direction of negative curvature a Newton step then goes down instead of
    up.

    Args:
        loss: Gives one loss a task; a task's loss depends on its own row alone.
        theta: Where.
        num_products: Hessian-vector products, the most directions found; 0 for the gradient alone.
            With as many as the Hessian has different eigenvalues, the split is exact.
        differentiate: Whether outer gradients flow through the gradient; otherwise it is a
            constant. The curvature always is.

    Returns:
        The gradient and its parts. Where the Krylov space has fewer dimensions, the parts in excess
        are zero. Those of a gradient that is not finite are not finite either.

    Raises:
        ValueError: In inference mode.

    Source:
        Lanczos (1950); the absolute values are those of saddle-free Newton, Dauphin et al. (2014),
        arXiv 1406.2572.

    >>> sizes = torch.tensor([1.0, 3.0])
    >>> loss = lambda theta: 0.5 * (sizes * theta.square()).sum(-1)
    >>> found = curvature_at(loss, torch.tensor([[2.0, 0.0]]), 1)
    >>> found.gradient.tolist(), found.sizes.tolist(), found.parts.tolist()
    ([[2.0, 0.0]], [[1.0]], [[[2.0, 0.0]]])
    """
    gradient, point = _gradient(loss, theta, differentiate, graph=num_products > 0)
    return split(
        _constant_unless(differentiate, gradient), _products(gradient, point), num_products
    )


def split(
    gradient: Float[Tensor, "task p"], product: Callable[[Tensor], Tensor], num_products: int
) -> Curvature:
    """The parts of a gradient along Ritz vectors, from products of the Hessian with vectors.

    In other coordinates it is another split: hand in the gradient and the products in them.

    Args:
        gradient: What is split; also the first direction that is looked along.
        product: The Hessian of each task times a vector, `task p` to `task p`.
        num_products: How many products to form; see `curvature_at`.
    """
    with torch.autocast(gradient.device.type, enabled=False):
        sizes, parts = _ritz(product, gradient.detach(), num_products)
    return Curvature(gradient, sizes, parts)


def hessian_products(
    loss: Callable[[Tensor], Tensor], theta: Float[Tensor, "task p"], *, differentiate: bool = False
) -> tuple[Float[Tensor, "task p"], Callable[[Tensor], Tensor]]:
    """The gradient of each task's loss, and the product of its Hessian with a vector.

    One graph of the gradient serves all products, in full precision: differences of nearly parallel
    vectors are all that Lanczos lives on.

    Args:
        loss: Gives one loss a task; a task's loss depends on its own row alone.
        theta: Where.
        differentiate: Whether outer gradients flow through the gradient; otherwise it is a
            constant. The products always are.

    Returns:
        The gradient, `task p`, and a function of `task p` to `task p`.

    Raises:
        ValueError: In inference mode.

    >>> loss = lambda theta: (theta**3).sum(-1)
    >>> gradient, product = hessian_products(loss, torch.tensor([[1.0, 2.0]]))
    >>> gradient.tolist(), product(torch.ones(1, 2)).tolist()  # 3 theta^2, 6 theta
    ([[3.0, 12.0]], [[6.0, 12.0]])
    """
    gradient, point = _gradient(loss, theta, differentiate, graph=True)
    return _constant_unless(differentiate, gradient), _products(gradient, point)


def _gradient(
    loss: Callable[[Tensor], Tensor], theta: Tensor, differentiate: bool, *, graph: bool
) -> tuple[Tensor, Tensor]:
    """The gradient, in full precision, and the point that its graph begins at."""
    refuse_inference_mode()
    follow = differentiate and torch.is_grad_enabled()
    with torch.enable_grad(), torch.autocast(theta.device.type, enabled=False):
        point = theta if follow and theta.requires_grad else theta.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(point).sum(), point, create_graph=follow or graph)
    return gradient, point


def _constant_unless(differentiate: bool, gradient: Tensor) -> Tensor:
    return gradient if differentiate and torch.is_grad_enabled() else gradient.detach()


def _products(gradient: Tensor, point: Tensor) -> Callable[[Tensor], Tensor]:
    def product(vector: Tensor) -> Tensor:
        if not gradient.requires_grad:  # a loss that is linear in theta
            return torch.zeros_like(vector)
        (result,) = torch.autograd.grad(
            gradient, point, vector, retain_graph=True, materialize_grads=True
        )
        return result

    return product


def _ritz(
    product: Callable[[Tensor], Tensor], start: Tensor, num_products: int
) -> tuple[Tensor, Tensor]:
    num_tasks, size = start.shape
    if num_products == 0:
        return start.new_zeros(num_tasks, 0), start.new_zeros(num_tasks, 0, size)
    length = start.norm(dim=-1, keepdim=True)
    vector, basis = start, start.new_zeros(num_tasks, 0, size)
    images: list[Tensor] = []
    for _ in range(num_products):
        norm = vector.norm(dim=-1, keepdim=True)
        new = norm > 1e-6 * length if images else norm > 0
        unit = torch.where(new, vector / torch.where(new, norm, 1.0), 0.0)
        basis = torch.cat([basis, unit[:, None]], dim=1)
        images.append(product(unit))
        vector = images[-1]
        for _ in range(2):  # the second pass removes what rounding left of the first
            overlap = (basis * vector[:, None]).sum(-1, keepdim=True)
            vector = vector - (overlap * basis).sum(1)
        length = images[-1].norm(dim=-1, keepdim=True)
    projected = (basis[:, :, None] * torch.stack(images, 1)[:, None]).sum(-1)
    symmetric = torch.nan_to_num((projected + projected.mT) / 2, 0.0, 0.0, 0.0)
    sizes, rotation = torch.linalg.eigh(symmetric)  # raises where a number is not finite
    vectors = (rotation.mT[..., None] * basis[:, None]).sum(2)
    parts = (vectors * start[:, None]).sum(-1, keepdim=True) * vectors
    return sizes.abs(), parts


class DampedNewton(nn.Module):
    """A Newton step on a minibatch that leaves alone what earlier evidence has settled.

    With n examples behind theta and b in the minibatch, the step solves
    ((1 - w) H + w h I) d = g, where H is the minibatch's Hessian, h the recent mean size of the
    curvature, and w = (n + n_0) / (n + n_0 + b), with a learned n_0: the examples that
    the prior is worth, and d has the factor (n + b) / (n + n_0 + b). Moved by the annealed gain,
    this is the Kalman filter's step for a linear Gaussian model whose earlier evidence is alike in
    all directions. It is not, and least of all early on; so h has two learned factors, one of which
    tends to 1 as the root of the gain tends to 0.

    >>> step = DampedNewton()
    >>> found = Curvature(torch.ones(1, 1), torch.full((1, 1), 2.0), torch.ones(1, 1, 1))
    >>> step(found, torch.tensor([2.0]), torch.zeros(1), torch.ones(1)).item()  # 0.5 of g / H
    0.25
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_prior_count = nn.Parameter(torch.zeros(()))
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.early_log_scale = nn.Parameter(torch.zeros(()))

    def forward(
        self,
        curvature: Curvature,
        mean_size: Float[Tensor, " task"],
        seen: Float[Tensor, " task"],
        count: Float[Tensor, " task"],
    ) -> Float[Tensor, "task p"]:
        """The step; gradients flow to the learned numbers alone. Zero without any curvature."""
        behind = seen + self.log_prior_count.exp()
        weight = (behind / (behind + count))[:, None]
        log_scale = self.log_scale + annealed_gain(seen, count).sqrt() * self.early_log_scale
        damped = (1 - weight) * curvature.sizes + weight * (log_scale.exp() * mean_size)[:, None]
        solved = damped > 0
        inverse = torch.where(solved, 1 / torch.where(solved, damped, 1.0), 0.0)
        inverse = inverse * ((seen + count) / (behind + count))[:, None]
        return (inverse[..., None] * curvature.parts).sum(1)
