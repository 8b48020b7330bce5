"""The adapted parameters of each task as one vector, for rules that need one."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from iai_regimes.interfaces import Theta


def ravel(theta: Theta) -> Float[Tensor, "task p"]:
    """All parameters of each task, one behind another in the order of the dict; gradients flow.

    >>> ravel({"weight": torch.tensor([[[1.0, 2.0]]]), "bias": torch.tensor([[3.0]])})
    tensor([[1., 2., 3.]])
    """
    return torch.cat([value.reshape(len(value), -1) for value in theta.values()], dim=1)


def unravel(flat: Float[Tensor, "task p"], like: Theta) -> Theta:
    """The inverse of `ravel`: views of the vectors under the names and shapes of `like`.

    >>> like = {"weight": torch.zeros(1, 1, 2), "bias": torch.zeros(1, 1)}
    >>> unravel(torch.tensor([[1.0, 2.0, 3.0]]), like)["weight"]
    tensor([[[1., 2.]]])
    """
    sizes = [value.shape[1:].numel() for value in like.values()]
    pieces = zip(like.items(), torch.split(flat, sizes, dim=1), strict=True)
    return {name: piece.reshape(len(flat), *value.shape[1:]) for (name, value), piece in pieces}


def of_vectors(
    loss: Callable[[Theta], Float[Tensor, " task"]], like: Theta
) -> Callable[[Float[Tensor, "task p"]], Float[Tensor, " task"]]:
    """A loss of adapted parameters as a function of the vectors that `ravel` makes of them."""
    return lambda flat: loss(unravel(flat, like))


def shifted(theta: Theta, shift: Float[Tensor, "task p"]) -> Theta:
    """Theta plus vectors; gradients flow to both."""
    return {name: theta[name] + piece for name, piece in unravel(shift, theta).items()}


def task_zeros(theta: Theta) -> Float[Tensor, " task"]:
    """One zero per task, on the device of `theta` and in its dtype, in float32 at least.

    >>> task_zeros({"w": torch.zeros(2, 3, dtype=torch.bfloat16)})
    tensor([0., 0.])
    """
    value = next(iter(theta.values()))
    return value.new_zeros(len(value), dtype=torch.promote_types(value.dtype, torch.float32))
