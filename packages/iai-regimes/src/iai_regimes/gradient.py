"""Each task's own gradient of its loss, as constant or as differentiable as is asked for."""

import torch
from jaxtyping import Float
from torch import Tensor

from iai_regimes.interfaces import Objective


def gradient_at(
    objective: Objective, theta: Float[Tensor, "task p"], *, differentiate: bool
) -> Float[Tensor, "task p"]:
    """The gradient of each task's loss at its own row of theta, in full precision.

    It is a constant, and no graph is kept, unless someone can use one: gradients are enabled, the
    caller asks for it, and theta or what the objective shares with it requires gradients.

    An objective that knows its gradient without a graph, as one that adds to another does, has a
    method `gradient_at` of the same arguments, which is asked instead.

    Args:
        objective: The loss.
        theta: Where.
        differentiate: Whether outer gradients flow through the gradient.

    Returns:
        One row a task.

    Raises:
        ValueError: In inference mode.

    >>> class Quadratic:
    ...     shared = False
    ...     def loss(self, theta):
    ...         return 0.5 * theta.square().sum(-1)
    ...     def residual(self, theta):
    ...         return theta[:, None]
    >>> gradient_at(Quadratic(), torch.tensor([[3.0, -1.0]]), differentiate=True)
    tensor([[ 3., -1.]])
    """
    refuse_inference_mode()
    own = getattr(objective, "gradient_at", None)
    if own is not None:
        gradient: Tensor = own(theta, differentiate=differentiate)
        return gradient
    follow = differentiate and torch.is_grad_enabled()
    follow = follow and (theta.requires_grad or objective.shared)
    with torch.enable_grad(), torch.autocast(theta.device.type, enabled=False):
        # A new node: where the objective holds theta itself (as an anchor, say), that is constant.
        follows_theta = follow and theta.requires_grad
        point = theta.view_as(theta) if follows_theta else theta.detach().requires_grad_()
        return torch.autograd.grad(objective.loss(point).sum(), point, create_graph=follow)[0]


def refuse_inference_mode() -> None:
    """Raises ValueError in inference mode, which `torch.enable_grad` does not leave."""
    if torch.is_inference_mode_enabled():
        raise ValueError("Inference mode forbids gradients, which are needed; use torch.no_grad().")
