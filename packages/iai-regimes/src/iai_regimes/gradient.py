"""The gradient of each task's loss by its own parameters, with a graph only where one is of use."""

import torch
from jaxtyping import Float
from torch import Tensor

from iai_regimes.evidence import spread
from iai_regimes.interfaces import Objective, Theta


def gradient_at(
    objective: Objective,
    theta: Theta,
    *,
    differentiate: bool,
    scale: Float[Tensor, " task"] | None = None,
) -> Theta:
    """The gradient of each task's loss by its own parameters, in full precision.

    It has a graph only if gradients are enabled, `differentiate` is True, and theta or something
    that the objective shares requires gradients; otherwise it is a constant.

    An objective may compute its gradient itself, in a method `gradient_at(theta, *, differentiate,
    scale)`: one that adds a quadratic to another objective needs no graph for the quadratic.

    Args:
        objective: The loss.
        theta: The point at which the gradient is taken.
        differentiate: Whether outer gradients flow through the gradient.
        scale: A factor of each task's gradient. It enters the vector-Jacobian product, which costs
            less than a product with the gradient. Outer gradients flow to it.

    Returns:
        Names and shapes as in `theta`; zero for a parameter on which the loss does not depend.

    Raises:
        ValueError: In inference mode.

    >>> class Quadratic:
    ...     shared = False
    ...     def loss(self, theta):
    ...         return 0.5 * theta["w"].square().sum(-1)
    ...     def residual(self, theta):
    ...         return theta["w"][:, None]
    >>> gradient_at(Quadratic(), {"w": torch.tensor([[3.0, -1.0]])}, differentiate=True)
    {'w': tensor([[ 3., -1.]])}
    """
    refuse_inference_mode()
    own = getattr(objective, "gradient_at", None)
    if own is not None:
        gradient: Theta = own(theta, differentiate=differentiate, scale=scale)
        return gradient
    values = theta.values()
    follow = differentiate and torch.is_grad_enabled()
    follow = follow and (objective.shared or any(value.requires_grad for value in values))
    # A gradient without a graph would pass none on to a learned scale.
    outside = scale is not None and scale.requires_grad and not follow
    # A single task is computed without its axis: fewer views for autograd to go back through.
    alone = getattr(objective, "loss_alone", None) if len(next(iter(values))) == 1 else None
    with torch.enable_grad(), torch.autocast(next(iter(values)).device.type, enabled=False):
        point = {}
        for name, value in theta.items():
            # A new node: where the objective holds theta itself (as an anchor), that is constant.
            leaf = value.squeeze(0) if alone else value.view_as(value)
            follows = follow and value.requires_grad
            point[name] = leaf if follows else leaf.detach().requires_grad_()
        losses = objective.loss(point) if alone is None else alone(point)
        weight = torch.ones_like(losses) if scale is None or outside else scale
        gradients = torch.autograd.grad(
            losses, list(point.values()), weight, create_graph=follow, materialize_grads=True
        )
    gradient = {name: g[None] if alone else g for name, g in zip(theta, gradients, strict=True)}
    if scale is None or not outside:
        return gradient
    return {name: spread(scale, value) * value for name, value in gradient.items()}


def refuse_inference_mode() -> None:
    """Raises ValueError in inference mode, which `torch.enable_grad` does not leave."""
    if torch.is_inference_mode_enabled():
        raise ValueError("Inference mode forbids gradients, which are needed; use torch.no_grad().")
