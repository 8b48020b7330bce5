"""A learned optimizer that reads running means of the gradient: one MLP for all coordinates."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iai_regimes.check import check_positive, check_sizes
from iai_regimes.evidence import Evidence
from iai_regimes.gradient_rule import GradientRule
from iai_regimes.interfaces import Theta
from iai_regimes.precision import as_weights
from iai_regimes.ravel import ravel, shifted, task_zeros
from iai_regimes.zero_linear import zero_linear

DECAYS = (0.9, 0.99, 0.999)
SQUARE_DECAY = 0.999
_LARGEST = 1e15  # of a gradient: its square is finite, and so are sums of it
TIMESCALES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5)


class MLPCarry(NamedTuple):
    """Running means of the raveled gradient, one for each decay, and of its square."""

    means: Float[Tensor, "task p decay"]
    square: Float[Tensor, "task p"]
    steps: Float[Tensor, " task"]


class MLPRule(GradientRule):
    """Moves each coordinate of theta by an MLP of its momenta, its value and the time.

    With g the gradient, m_i its running means (decays 0.9, 0.99, 0.999) and v that of its square
    (0.999), all bias-corrected as Adam's are, the features of a coordinate are g, theta, the m_i
    and sqrt(v), each divided by its root mean square over the parameter tensor; the scale-free
    m_i / sqrt(v); and tanh(t / T - 1) of the number t of earlier steps, for T from 1 to 10^5. An
    MLP with one hidden layer maps them to a direction and a magnitude, and the step is

        theta <- theta - step_mult * exp(exp_mult * magnitude) * (m_1 / sqrt(v) + direction).

    The MLP's output starts at zero: untrained, the rule is Adam with the rate `step_mult`. The
    coordinates share its weights, so a rule trained on one network moves any other.

    Args:
        hidden_dim: Width of the hidden layer.
        step_mult: About the length of a step.
        exp_mult: How strongly the magnitude changes that length.
        differentiate_gradient: Whether outer gradients flow through the gradient, and so through
            its means; by default it is a constant. They flow through theta in any case.

    Raises:
        ValueError: If `hidden_dim` is below 1 or a multiplier is not above 0.

    Source:
        `small_fc_lopt` of Metz et al. (2022), arXiv 2203.11860. Ours: Adam in the step and the
        zeros of the last layer, bias correction, the root of v in place of v and of its inverse
        root, and m_i / sqrt(v) as it is. Left out: the row and column means of Adafactor.

    >>> rule, theta = MLPRule(step_mult=0.01), {"w": torch.zeros(1, 2)}
    >>> gradient, one = {"w": torch.tensor([[2.0, -3.0]])}, torch.ones(1)
    >>> moved, _ = rule.move(theta, rule.start(theta), gradient, Evidence((), one, 0 * one, True))
    >>> moved["w"].tolist()  # Adam's first step
    [[-0.00999..., 0.00999...]]
    """

    def __init__(
        self,
        *,
        hidden_dim: int = 32,
        step_mult: float = 1e-2,
        exp_mult: float = 1e-3,
        differentiate_gradient: bool = False,
    ) -> None:
        super().__init__(differentiate_gradient=differentiate_gradient)
        check_sizes(hidden_dim=hidden_dim)
        check_positive(step_mult=step_mult, exp_mult=exp_mult)
        self.step_mult, self.exp_mult = step_mult, exp_mult
        self.coordinate = nn.Linear(3 + 2 * len(DECAYS), hidden_dim)
        self.time = nn.Linear(len(TIMESCALES), hidden_dim, bias=False)
        self.timescales: Tensor
        self.register_buffer("timescales", torch.tensor(TIMESCALES), persistent=False)
        self.head = zero_linear(hidden_dim, 2)

    def start(self, theta: Theta) -> MLPCarry:
        """Running means of nothing: zeros."""
        zeros = torch.zeros_like(ravel(theta))
        return MLPCarry(zeros[..., None].repeat(1, 1, len(DECAYS)), zeros, task_zeros(theta))

    def move(
        self, theta: Theta, carry: MLPCarry, gradient: Theta, evidence: Evidence
    ) -> tuple[Theta, MLPCarry]:
        """The step of the class; outer gradients flow to theta, the carry and the weights."""
        g = ravel(gradient).clamp(-_LARGEST, _LARGEST)
        means = [  # the decays as numbers: tensors of them would be copied to the device each step
            decay * mean + (1 - decay) * g
            for decay, mean in zip(DECAYS, carry.means.unbind(-1), strict=True)
        ]
        square = SQUARE_DECAY * carry.square + (1 - SQUARE_DECAY) * g.square()
        new = MLPCarry(torch.stack(means, dim=-1), square, carry.steps + 1)
        scaled, ratios = _features(theta, g, new)
        time = (carry.steps[:, None] / self.timescales.to(g.dtype) - 1).tanh()
        weight = self.time.weight
        features = as_weights(torch.cat([scaled, ratios], dim=-1), weight)
        hidden = self.coordinate(features) + self.time(as_weights(time, weight))[:, None]
        direction, magnitude = self.head(hidden.relu()).to(g.dtype).unbind(-1)
        length = self.step_mult * (self.exp_mult * magnitude).exp()
        return shifted(theta, -length * (ratios[..., 0] + direction)), new


def _features(
    theta: Theta, gradient: Tensor, carry: MLPCarry
) -> tuple[Float[Tensor, "task p scaled"], Float[Tensor, "task p decay"]]:
    """[g, theta, m_i, sqrt(v)] over their root mean squares, and m_i / sqrt(v)."""
    steps = carry.steps[:, None]
    means = carry.means / torch.stack([1 - decay**steps for decay in DECAYS], dim=-1)
    square = (carry.square / (1 - SQUARE_DECAY**steps))[..., None]
    # A root has no derivative at 0, where the means are 0 too.
    positive = square > 0
    root = torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)
    ratios = means / torch.where(positive, root, 1.0)
    values = torch.cat([gradient[..., None], ravel(theta)[..., None], means, root], dim=-1)
    sizes = [value.shape[1:].numel() for value in theta.values()]
    scaled = [
        # Values far below 3e-3 stay small.
        part * (part.square().mean(1, keepdim=True) + 1e-5).rsqrt()
        for part in torch.split(values, sizes, dim=1)
    ]
    return torch.cat(scaled, dim=1), ratios
