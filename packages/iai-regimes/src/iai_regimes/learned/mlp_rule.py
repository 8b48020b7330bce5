"""A learned optimizer that reads running means of the gradient: one MLP for all coordinates."""

import copy
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iai_regimes.evidence import moved_where
from iai_regimes.gradient import gradient_at
from iai_regimes.interfaces import Examples, Objective

DECAYS = (0.9, 0.99, 0.999)
SQUARE_DECAY = 0.999
TIMESCALES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5)

SelfT = TypeVar("SelfT", bound="MLPRule")


class MLPCarry(NamedTuple):
    """Running means of the gradient, by decay, and of its square."""

    means: Float[Tensor, "task p decay"]
    square: Float[Tensor, "task p"]
    steps: Float[Tensor, " task"]


class MLPRule(nn.Module):
    """Each coordinate of theta moves by what an MLP reads of it: its momenta, itself, the time.

    With g the gradient, m_i its running means (decays 0.9, 0.99, 0.999) and v that of its square
    (0.999), all bias-corrected as Adam's are, a coordinate's features are g, theta, the m_i and
    sqrt(v), each over its root mean square in the tensor it belongs to, and the m_i / sqrt(v),
    which have no scale. Beside them stand tanh(t / T - 1) of the steps t taken before, for T from 1
    to 10^5. One hidden layer makes two numbers of these, and the step is

        theta <- theta - step_mult * (m_1 / sqrt(v) + direction) * exp(exp_mult * magnitude).

    The two numbers start at zero: untrained, the rule is Adam with the rate `step_mult`, and
    training starts from that, not from nothing. A task without an observed example in the minibatch
    keeps theta and its means.

    Args:
        sizes: Numbers of each tensor of theta, one behind another: what features are normalised
            over. `[shape.numel() for shape in predictor.shapes.values()]` for a predictor's.
        hidden_dim: Width of the hidden layer.
        step_mult: About the length of a step.
        exp_mult: How strongly the magnitude counts.
        differentiate_gradient: Whether outer gradients flow through the gradient that is read; by
            default it is a constant, and so are its means. They flow through theta in any case.

    Raises:
        ValueError: If a size is below 1, there is none, or a multiplier is not above 0.

    Source:
        `small_fc_lopt` of Metz et al. (2022), arXiv 2203.11860. Ours: Adam in the step and the
        zeros of the last layer, bias correction, the root of v in place of v and of its inverse
        root, and m_i / sqrt(v) as it is. Left out: the row and column means of Adafactor, which
        need a tensor's shape.

    >>> class Linear:
    ...     shared = False
    ...     def loss(self, theta):
    ...         return (theta * torch.tensor([2.0, -3.0])).sum(-1)
    ...     def residual(self, theta):
    ...         return theta[:, None]
    >>> rule = MLPRule([2], step_mult=0.01)
    >>> theta, seen = torch.zeros(1, 2), torch.zeros(1)
    >>> moved, _ = rule.step(theta, rule.start(theta), torch.ones(1), Linear(), seen, True)
    >>> moved.tolist()  # Adam's first step
    [[-0.00999..., 0.00999...]]
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        hidden_dim: int = 32,
        step_mult: float = 1e-2,
        exp_mult: float = 1e-3,
        differentiate_gradient: bool = False,
    ) -> None:
        super().__init__()
        if hidden_dim < 1:
            raise ValueError(f"`hidden_dim` must be at least 1; got {hidden_dim}.")
        for name, multiplier in (("step_mult", step_mult), ("exp_mult", exp_mult)):
            if not multiplier > 0:
                raise ValueError(f"`{name}` must be above 0; got {multiplier}.")
        self.sizes = _checked(sizes)
        self.step_mult, self.exp_mult = step_mult, exp_mult
        self.differentiate_gradient = differentiate_gradient
        self.coordinate = nn.Linear(3 + 2 * len(DECAYS), hidden_dim)
        self.time = nn.Linear(len(TIMESCALES), hidden_dim, bias=False)
        self.timescales: Tensor
        self.register_buffer("timescales", torch.tensor(TIMESCALES), persistent=False)
        self.head = nn.Linear(hidden_dim, 2)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def resized(self: SelfT, sizes: Sequence[int]) -> SelfT:
        """The same weights, shared with this rule, for a theta of other tensors.

        Raises:
            ValueError: If a size is below 1, or there is none.

        >>> rule = MLPRule([6, 2])
        >>> other = rule.resized([300, 20, 20])
        >>> other.sizes, other.head.weight is rule.head.weight
        ((300, 20, 20), True)
        """
        other = copy.copy(self)  # shares what it has registered
        other.sizes = _checked(sizes)
        return other

    def start(self, theta: Float[Tensor, "task p"]) -> MLPCarry:
        """Running means of nothing.

        Raises:
            ValueError: If theta has not the numbers of `sizes`.
        """
        if theta.shape[1] != sum(self.sizes):
            raise ValueError(
                f"`sizes` must add up to the {theta.shape[1]} numbers of theta; "
                f"got {sum(self.sizes)}."
            )
        means = theta.new_zeros(*theta.shape, len(DECAYS))
        return MLPCarry(means, torch.zeros_like(theta), theta.new_zeros(theta.shape[0]))

    def encode(self, batch: Examples) -> Float[Tensor, " task"]:
        """How many examples each task has in the minibatch."""
        return batch.mask.sum(1).to(batch.x.dtype)

    def step(
        self,
        theta: Float[Tensor, "task p"],
        carry: MLPCarry,
        evidence: Float[Tensor, " task"],
        objective: Objective,
        seen: Float[Tensor, " task"],
        fresh: bool,
    ) -> tuple[Float[Tensor, "task p"], MLPCarry]:
        """One step; outer gradients flow to theta and to the weights."""
        gradient = gradient_at(objective, theta, differentiate=self.differentiate_gradient)
        means = [  # the decays as numbers: tensors of them would be copied to the device each step
            decay * mean + (1 - decay) * gradient
            for decay, mean in zip(DECAYS, carry.means.unbind(-1), strict=True)
        ]
        new = MLPCarry(
            torch.stack(means, dim=-1),
            SQUARE_DECAY * carry.square + (1 - SQUARE_DECAY) * gradient.square(),
            carry.steps + 1,
        )
        time = (carry.steps[:, None] / self.timescales.to(theta.dtype) - 1).tanh()
        scaled, ratios = self._features(theta, gradient, new)
        hidden = self.coordinate(torch.cat([scaled, ratios], dim=-1)) + self.time(time)[:, None]
        direction, magnitude = self.head(hidden.relu()).to(theta.dtype).unbind(-1)
        length = self.step_mult * (self.exp_mult * magnitude).exp()
        moved = theta - length * (ratios[..., 0] + direction)
        theta, carry = moved_where(evidence > 0, (moved, new), (theta, carry))
        return theta, carry

    def _features(
        self, theta: Tensor, gradient: Tensor, new: MLPCarry
    ) -> tuple[Float[Tensor, "task p scaled"], Float[Tensor, "task p decay"]]:
        steps = new.steps[:, None]
        means = new.means / torch.stack([1 - decay**steps for decay in DECAYS], dim=-1)
        square = (new.square / (1 - SQUARE_DECAY**steps))[..., None]
        # A root has no derivative at 0, where the means are 0 too.
        positive = square > 0
        root = torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)
        ratios = means / torch.where(positive, root, 1.0)
        scaled = torch.cat([gradient[..., None], theta[..., None], means, root], dim=-1)
        parts = [_normalised(part) for part in torch.split(scaled, list(self.sizes), dim=1)]
        return torch.cat(parts, dim=1), ratios


def _normalised(values: Float[Tensor, "task size feature"]) -> Tensor:
    """Values over their root mean square in a tensor; far below 3e-3, they stay small."""
    return values * (values.square().mean(1, keepdim=True) + 1e-5).rsqrt()


def _checked(sizes: Sequence[int]) -> tuple[int, ...]:
    if not sizes:
        raise ValueError("`sizes` must name at least one tensor; got none.")
    if min(sizes) < 1:
        raise ValueError(f"`sizes` must be at least 1; got {list(sizes)}.")
    return tuple(sizes)
