"""A learned optimizer that remembers each coordinate's gradients: one small LSTM for all."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iai_regimes.check import check_positive, check_sizes
from iai_regimes.evidence import Evidence
from iai_regimes.gradient_rule import GradientRule
from iai_regimes.interfaces import Theta
from iai_regimes.precision import as_weights
from iai_regimes.ravel import ravel, shifted
from iai_regimes.zero_linear import zero_linear


class RecurrentCarry(NamedTuple):
    """The LSTM's memory of every coordinate of the raveled theta, one tensor a layer."""

    hidden: tuple[Float[Tensor, "task p hidden"], ...]
    cell: tuple[Float[Tensor, "task p hidden"], ...]


class RecurrentRule(GradientRule):
    """Moves each coordinate of theta by what an LSTM makes of its gradients so far.

    The coordinates share the LSTM's weights and nothing else, so a rule trained on one network
    moves any other. It reads the logarithm and the sign of the gradient (`clipped_log`). Untrained,
    it is sign descent with steps of length `scale`.

    Args:
        hidden_dim: Numbers of a layer's memory of one coordinate.
        num_layers: LSTM layers.
        scale: What the head's output is multiplied by: about the length of a step.
        differentiate_gradient: Whether outer gradients flow through the gradient; by default it is
            a constant. They flow through theta and the memory in any case.

    Raises:
        ValueError: If a size is below 1 or `scale` is not above 0.

    Source:
        Andrychowicz et al. (2016), arXiv 1606.04474: two layers of 20, the gradient as a constant.
        The scale is that of the authors' program. Ours: the head reads the features beside the last
        layer, and starts at minus the sign.

    >>> rule, theta = RecurrentRule(scale=0.01), {"w": torch.zeros(1, 2)}
    >>> gradient, one = {"w": torch.tensor([[2.0, -3.0]])}, torch.ones(1)
    >>> moved, _ = rule.move(theta, rule.start(theta), gradient, Evidence((), one, 0 * one, True))
    >>> moved["w"].tolist()  # against the sign
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
        super().__init__(differentiate_gradient=differentiate_gradient)
        check_sizes(hidden_dim=hidden_dim, num_layers=num_layers)
        check_positive(scale=scale)
        self.scale, self.hidden_dim, num_features = scale, hidden_dim, 2
        self.layers = nn.ModuleList(
            nn.LSTMCell(hidden_dim if layer else num_features, hidden_dim)
            for layer in range(num_layers)
        )
        self.head = zero_linear(hidden_dim + num_features, 1)
        with torch.no_grad():
            self.head.weight[0, -1] = -1.0  # the feature that is the sign

    def start(self, theta: Theta) -> RecurrentCarry:
        """The memory of nothing: zeros."""
        flat = ravel(theta)
        zeros = flat.new_zeros(*flat.shape, self.hidden_dim)
        return RecurrentCarry((zeros,) * len(self.layers), (zeros,) * len(self.layers))

    def move(
        self, theta: Theta, carry: RecurrentCarry, gradient: Theta, evidence: Evidence
    ) -> tuple[Theta, RecurrentCarry]:
        """The LSTM's step; outer gradients flow to the memory and to the weights."""
        g = ravel(gradient)
        # A coordinate is a row of the LSTM's batch: it meets no other.
        weight = self.head.weight
        h = features = as_weights(clipped_log(g).flatten(0, 1), weight)
        hidden, cell = [], []
        for layer, old_hidden, old_cell in zip(self.layers, *carry, strict=True):
            memory = (as_weights(old.flatten(0, 1), weight) for old in (old_hidden, old_cell))
            h, c = layer(h, tuple(memory))
            hidden.append(h.reshape(old_hidden.shape).to(old_hidden.dtype))
            cell.append(c.reshape(old_cell.shape).to(old_cell.dtype))
        change = self.head(torch.cat([h, features], dim=-1)).reshape(g.shape).to(g.dtype)
        return shifted(theta, self.scale * change), RecurrentCarry(tuple(hidden), tuple(cell))


def clipped_log(gradient: Float[Tensor, "task p"]) -> Float[Tensor, "task p 2"]:
    """`(log|g| / 10, sign g)` where `|g| >= e^-10`, else `(-1, e^10 g)`.

    Source: Andrychowicz et al. (2016), arXiv 1606.04474, appendix A, with p = 10.

    >>> clipped_log(torch.tensor([[1.0, 0.0]])).tolist()
    [[[0.0, 1.0], [-1.0, 0.0]]]
    """
    p = 10.0
    size = gradient.abs()
    large = size >= math.exp(-p)
    log = torch.where(large, size.clamp(min=math.exp(-p)).log() / p, -1.0)
    sign = torch.where(large, gradient.sign(), gradient * math.exp(p))
    return torch.stack([log, sign], dim=-1)
