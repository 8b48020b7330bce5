"""A rule whose objective has a proximal term around the initial theta."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iai_regimes.check import check_solver
from iai_regimes.evidence import Evidence, spread
from iai_regimes.gradient import gradient_at
from iai_regimes.interfaces import Examples, Objective, Solver, Theta
from iai_regimes.ravel import ravel, task_zeros
from iai_regimes.rules.coefficient import Coefficient, Coefficients


class ProximalCarry(NamedTuple):
    """The wrapped rule's memory, and the initial theta."""

    inner: Any
    anchor: Theta  # gradients flow to it


class Proximal(nn.Module):
    """Gives a rule the objective `loss(theta) + strength / 2 * |theta - anchor|^2`.

    The anchor is the initial theta, so the solution depends on it, however long the rule runs on a
    minibatch. Outer gradients flow to the anchor and to a learned strength.

    Args:
        rule: The rule that moves theta on that objective.
        strength: The paper's lambda: a number, a tensor of the shape (), or a tensor for each
            adapted parameter, under its name and with its shape, such as `predictor.full(2.0)`. An
            `nn.Parameter` is learned, and may become negative: if it falls below minus the least
            curvature of the loss, the objective has no minimum. To keep it positive, call
            `torch.nn.utils.parametrize.register_parametrization(rule.strength, "value",
            nn.Softplus())`.

    Raises:
        ValueError: If `strength` is negative or not finite, or a tensor of it has another shape or
            is not floating point.
        TypeError: If `rule` has no residual.

    Source:
        Rajeswaran et al. (2019), arXiv 1909.04630, equation 3.

    >>> from iai_regimes import GradientDescent
    >>> class Zero:
    ...     shared = False
    ...     def loss(self, theta):
    ...         return 0.0 * theta["w"].sum(-1)
    ...     def residual(self, theta):
    ...         return theta["w"][:, None]
    >>> rule = Proximal(GradientDescent(0.25), strength=2.0)
    >>> carry, theta = rule.start({"w": torch.zeros(1, 1)}), {"w": torch.tensor([[4.0]])}
    >>> told = Evidence((), torch.ones(1), torch.zeros(1), True)
    >>> rule.step(theta, carry, told, Zero())[0]  # 4 - 2 * 4 / 4
    {'w': tensor([[2.]])}
    """

    def __init__(self, rule: Solver, strength: Coefficients) -> None:
        super().__init__()
        check_solver(rule)
        self.rule, self.strength = rule, Coefficient("strength", strength)

    def start(self, theta: Theta) -> ProximalCarry:
        """The wrapped rule's memory, and theta as the anchor.

        Raises:
            ValueError: If `strength` does not fit theta.
        """
        self.strength.check(theta)
        return ProximalCarry(self.rule.start(theta), theta)

    def encode(self, batch: Examples) -> Any:
        """What the wrapped rule makes of the minibatch."""
        return self.rule.encode(batch)

    def step(
        self, theta: Theta, carry: ProximalCarry, evidence: Evidence, objective: Objective
    ) -> tuple[Theta, ProximalCarry]:
        """The wrapped rule's step on the proximal objective."""
        proximal = _Anchored(objective, self.strength, carry.anchor)
        theta, inner = self.rule.step(theta, carry.inner, evidence, proximal)
        return theta, ProximalCarry(inner, carry.anchor)

    def residual(self, theta: Theta, carry: ProximalCarry, objective: Objective) -> Theta:
        """The wrapped rule's residual on the proximal objective."""
        proximal = _Anchored(objective, self.strength, carry.anchor)
        return self.rule.residual(theta, carry.inner, proximal)


class _Anchored:
    """An objective with the proximal term added."""

    def __init__(self, objective: Objective, strength: Coefficient, anchor: Theta) -> None:
        self._objective, self._strength, self._anchor = objective, strength, anchor

    @property
    def shared(self) -> bool:
        anchored = any(value.requires_grad for value in self._anchor.values())
        return self._strength.learned or anchored or self._objective.shared

    def loss(self, theta: Theta) -> Float[Tensor, " task"]:
        """The sum of both; for a task without an observed example, the proximal term alone."""
        squares = {
            name: self._strength.of(name) * (value - self._anchor[name]).square()
            for name, value in theta.items()
        }
        return self._objective.loss(theta) + 0.5 * ravel(squares).sum(1)

    def gradient_at(self, theta: Theta, *, differentiate: bool, scale: Tensor | None) -> Theta:
        """As the function of this name; the proximal term needs no graph for its gradient."""
        scale = 1 + task_zeros(theta) if scale is None else scale
        gradient = gradient_at(self._objective, theta, differentiate=differentiate, scale=scale)
        follow = differentiate and torch.is_grad_enabled()
        with torch.set_grad_enabled(follow):
            away = {name: value - self._anchor[name] for name, value in theta.items()}
        pulled = {}
        for name in theta:
            strength = self._strength.of(name)
            if isinstance(strength, Tensor) and not follow:
                strength = strength.detach()
            # Outer gradients flow to the scale in any case: a learned rate is part of it.
            factor = spread(scale, away[name]) * strength
            pulled[name] = torch.addcmul(gradient[name], factor, away[name])
        return pulled

    def residual(self, theta: Theta) -> Float[Tensor, "task n num_outputs"]:
        """As the objective: the proximal term belongs to no example."""
        return self._objective.residual(theta)
