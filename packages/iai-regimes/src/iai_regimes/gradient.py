"""Each task's own gradient of its loss, as constant or as differentiable as is asked for."""

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
    """The gradient of each task's loss at its own parameters, in full precision.

    It is a constant, and no graph is kept, unless someone can use one: gradients are enabled, the
    caller asks for it, and theta or what the objective shares with it requires gradients.

    An objective that has a method `gradient_at(theta, *, differentiate, scale)` of its own is asked
    instead: one that adds a quadratic to another knows that gradient without a graph.

    Args:
        objective: The loss.
        theta: Where.
        differentiate: Whether outer gradients flow through the gradient.
        scale: What the gradient of each task is multiplied by, within its computation: that saves
            a pass over it. Outer gradients flow to the scale.

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
    # Without a graph, a learned scale would get no gradient through the loss.
    outside = scale is not None and scale.requires_grad and not follow
    # A task alone goes without its axis, which is a view of each parameter, there and back.
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
