"""Each task's loss, its gradient, and products of its Hessian with vectors."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from iai_regimes.gradient import refuse_inference_mode


def hessian_products(
    loss: Callable[[Tensor], Tensor], theta: Float[Tensor, "task p"]
) -> tuple[Float[Tensor, " task"], Float[Tensor, "task p"], Callable[[Tensor], Tensor]]:
    """Each task's loss, its gradient, and the product of its Hessian with a vector.

    All products share one graph of the gradient. They are computed in full precision, also under
    autocast: Lanczos' method and conjugate gradients subtract nearly equal vectors.

    Args:
        loss: Gives one loss a task; a task's loss depends on its own row alone.
        theta: The point at which the derivatives are taken.

    Returns:
        The losses, the gradient, `task p`, and a function of `task p` to `task p`. All give
        constants: no outer gradient flows through them.

    Raises:
        ValueError: In inference mode.

    >>> loss = lambda theta: (theta**3).sum(-1)
    >>> _, gradient, product = hessian_products(loss, torch.tensor([[1.0, 2.0]]))
    >>> gradient.tolist(), product(torch.ones(1, 2)).tolist()  # 3 theta^2, 6 theta
    ([[3.0, 12.0]], [[6.0, 12.0]])
    """
    refuse_inference_mode()
    with torch.enable_grad(), torch.autocast(theta.device.type, enabled=False):
        point = theta.detach().requires_grad_()
        losses = loss(point)
        (gradient,) = torch.autograd.grad(losses.sum(), point, create_graph=True)

    def product(vector: Tensor) -> Tensor:
        if not gradient.requires_grad:  # a loss that is linear in theta
            return torch.zeros_like(vector)
        with torch.autocast(theta.device.type, enabled=False):
            (result,) = torch.autograd.grad(
                gradient, point, vector, retain_graph=True, materialize_grads=True
            )
        return result

    return losses.detach(), gradient.detach(), product
