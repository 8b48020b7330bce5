"""A learned optimizer with a memory of its own for each coordinate: one small LSTM for all."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iai_regimes.gradient import gradient_at
from iai_regimes.gradient_feature import clipped_log
from iai_regimes.interfaces import Examples, Objective


class RecurrentCarry(NamedTuple):
    """The LSTM's memory of every coordinate, one tensor a layer."""

    hidden: tuple[Float[Tensor, "task p hidden"], ...]
    cell: tuple[Float[Tensor, "task p hidden"], ...]


class RecurrentRule(nn.Module):
    """Each coordinate of theta moves by what an LSTM makes of its own gradients so far.

    The coordinates share the LSTM's weights and nothing else, so that a rule trained on one network
    moves any other. It reads the logarithm and the sign of the gradient, not its size as such.
    Untrained, it is sign descent with steps of `scale`: training starts from that, not from
    nothing. A task without an observed example in the minibatch keeps theta and memory.

    Args:
        hidden_dim: Numbers of a layer's memory of one coordinate.
        num_layers: LSTM layers.
        scale: What the head's output is multiplied by: about the length of a step.
        differentiate_gradient: Whether outer gradients flow through the gradient that is read; by
            default it is a constant. They flow through theta and the memory in any case.

    Raises:
        ValueError: If a size is below 1 or `scale` is not above 0.

    Source:
        Andrychowicz et al. (2016), arXiv 1606.04474: two layers of 20, the features of its appendix
        with p = 10, the gradient as a constant. The scale is that of the authors' program. Ours:
        the head reads the features beside the last layer, and starts at minus the sign.

    >>> class Linear:
    ...     shared = False
    ...     def loss(self, theta):
    ...         return (theta * torch.tensor([2.0, -3.0])).sum(-1)
    ...     def residual(self, theta):
    ...         return theta[:, None]
    >>> rule = RecurrentRule(scale=0.01)
    >>> theta, seen = torch.zeros(1, 2), torch.zeros(1)
    >>> moved, _ = rule.step(theta, rule.start(theta), torch.ones(1), Linear(), seen, True)
    >>> moved.tolist()  # against the sign
    [[-0.00999..., 0.00999...]]
    """

    def __init__(
        self,
        *,
        hidden_dim: int = 20,
        num_layers: int = 2,
        scale: float = 0.01,
        differentiate_gradient: bool = False,
    ) -> None:
        super().__init__()
        for name, size in (("hidden_dim", hidden_dim), ("num_layers", num_layers)):
            if size < 1:
                raise ValueError(f"`{name}` must be at least 1; got {size}.")
        if not scale > 0:
            raise ValueError(f"`scale` must be above 0; got {scale}.")
        self.scale, self.differentiate_gradient = scale, differentiate_gradient
        num_features = clipped_log(torch.zeros(1, 1)).shape[-1]
        self.layers = nn.ModuleList(
            nn.LSTMCell(hidden_dim if layer else num_features, hidden_dim)
            for layer in range(num_layers)
        )
        self.hidden_dim = hidden_dim
        self.head = nn.Linear(hidden_dim + num_features, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        with torch.no_grad():
            self.head.weight[0, -1] = -1.0  # the feature that is the sign

    def start(self, theta: Float[Tensor, "task p"]) -> RecurrentCarry:
        """The memory of nothing: zeros."""
        zeros = theta.new_zeros(*theta.shape, self.hidden_dim)
        return RecurrentCarry((zeros,) * len(self.layers), (zeros,) * len(self.layers))

    def encode(self, batch: Examples) -> Float[Tensor, " task"]:
        """How many examples each task has in the minibatch."""
        return batch.mask.sum(1).to(batch.x.dtype)

    def step(
        self,
        theta: Float[Tensor, "task p"],
        carry: RecurrentCarry,
        evidence: Float[Tensor, " task"],
        objective: Objective,
        seen: Float[Tensor, " task"],
        fresh: bool,
    ) -> tuple[Float[Tensor, "task p"], RecurrentCarry]:
        """One step; outer gradients flow to theta, to the memory and to the weights."""
        gradient = gradient_at(objective, theta, differentiate=self.differentiate_gradient)
        informed = (evidence > 0)[:, None]
        # A coordinate is a row of the LSTM's batch: it meets no other.
        h = features = clipped_log(gradient).flatten(0, 1)
        hidden, cell = [], []
        for layer, old_hidden, old_cell in zip(self.layers, *carry, strict=True):
            h, c = layer(h, (old_hidden.flatten(0, 1), old_cell.flatten(0, 1)))
            hidden.append(_moved(informed, h, old_hidden))
            cell.append(_moved(informed, c, old_cell))
        change = self.head(torch.cat([h, features], dim=-1)).reshape(theta.shape).to(theta.dtype)
        moved = torch.where(informed, theta + self.scale * change, theta)
        return moved, RecurrentCarry(tuple(hidden), tuple(cell))


def _moved(informed: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(informed[..., None], new.reshape(old.shape).to(old.dtype), old)
