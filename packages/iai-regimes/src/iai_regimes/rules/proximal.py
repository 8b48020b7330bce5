"""A rule that is pulled back to where it started."""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iai_regimes.check import check_numbers, check_solver
from iai_regimes.gradient import gradient_at
from iai_regimes.interfaces import Examples, Objective, Solver


class ProximalCarry(NamedTuple):
    """The wrapped rule's carry, and the start that it is pulled back to."""

    inner: Any
    anchor: Float[Tensor, "task p"]  # gradients flow to it


class Proximal(nn.Module):
    """Gives a rule the objective `loss(theta) + strength / 2 * |theta - anchor|^2`.

    The anchor is the start of theta: however long the rule runs on one minibatch, its solution
    depends on the start. Outer gradients flow to the anchor and to a learned strength.

    Args:
        rule: What moves theta on that objective.
        strength: The paper's lambda: a number, or a tensor of the shape () or (p,); an
            `nn.Parameter` is learned. A learned strength is not held above 0: below minus the least
            curvature of the loss, the objective has no minimum. To keep it positive, call
            `torch.nn.utils.parametrize.register_parametrization(rule, "strength", nn.Softplus())`.

    Raises:
        ValueError: If `strength` is negative or not finite, has another shape, or is no
            floating-point tensor.
        TypeError: If `rule` has no residual.

    Source:
        Rajeswaran et al. (2019), arXiv 1909.04630, equation 3.

    >>> import torch
    >>> from iai_regimes import GradientDescent
    >>> class Zero:
    ...     shared = False
    ...     def loss(self, theta):
    ...         return 0.0 * theta.sum(-1)
    ...     def residual(self, theta):
    ...         return theta[:, None]
    >>> rule = Proximal(GradientDescent(0.25), strength=2.0)
    >>> carry, theta = rule.start(torch.zeros(1, 1)), torch.tensor([[4.0]])
    >>> moved, _ = rule.step(theta, carry, torch.ones(1), Zero(), torch.zeros(1), True)
    >>> moved.item()  # 4 - 2 * 4 / 4
    2.0
    """

    def __init__(self, rule: Solver, strength: float | Tensor) -> None:
        super().__init__()
        check_solver(rule)
        if isinstance(strength, Tensor):
            check_numbers("strength", strength)
        self.rule = rule
        self.strength: float | Tensor
        if isinstance(strength, nn.Parameter):
            self.strength = strength
        elif isinstance(strength, Tensor):
            self.register_buffer("strength", strength)
        else:
            if not 0 <= strength < math.inf:
                raise ValueError(f"`strength` must be finite and at least 0; got {strength}.")
            self.strength = strength
        if isinstance(strength, Tensor) and strength.dim() > 1:
            raise ValueError(
                f"`strength` must have the shape () or (p,); got {tuple(strength.shape)}."
            )

    def start(self, theta: Float[Tensor, "task p"]) -> ProximalCarry:
        """The rule's own start, with theta as the anchor.

        Raises:
            ValueError: If `strength` does not fit theta.
        """
        shape = tuple(self.strength.shape) if isinstance(self.strength, Tensor) else ()
        if shape not in ((), (theta.shape[1],)):
            raise ValueError(
                f"`strength` must have the shape () or ({theta.shape[1]},); got {shape}."
            )
        return ProximalCarry(self.rule.start(theta), theta)

    def encode(self, batch: Examples) -> Any:
        """What the rule makes of the minibatch."""
        return self.rule.encode(batch)

    def step(
        self,
        theta: Float[Tensor, "task p"],
        carry: ProximalCarry,
        evidence: Any,
        objective: Objective,
        seen: Float[Tensor, " task"],
        fresh: bool,
    ) -> tuple[Float[Tensor, "task p"], ProximalCarry]:
        """The rule's step on the proximal objective."""
        proximal = _Anchored(objective, self.strength, carry.anchor)
        theta, inner = self.rule.step(theta, carry.inner, evidence, proximal, seen, fresh)
        return theta, ProximalCarry(inner, carry.anchor)

    def residual(
        self, theta: Float[Tensor, "task p"], carry: ProximalCarry, objective: Objective
    ) -> Float[Tensor, "task p"]:
        """The rule's residual on the proximal objective."""
        proximal = _Anchored(objective, self.strength, carry.anchor)
        return self.rule.residual(theta, carry.inner, proximal)


class _Anchored:
    """An objective and the pull of the anchor."""

    def __init__(self, objective: Objective, strength: float | Tensor, anchor: Tensor) -> None:
        self._objective, self._strength, self._anchor = objective, strength, anchor

    @property
    def shared(self) -> bool:
        learned = isinstance(self._strength, Tensor) and self._strength.requires_grad
        return learned or self._anchor.requires_grad or self._objective.shared

    def loss(self, theta: Float[Tensor, "task p"]) -> Float[Tensor, " task"]:
        """The loss and the pull; that of a task without an example is the pull alone."""
        pull = 0.5 * (self._strength * (theta - self._anchor).square()).sum(-1)
        return self._objective.loss(theta) + pull

    def gradient_at(
        self, theta: Float[Tensor, "task p"], *, differentiate: bool
    ) -> Float[Tensor, "task p"]:
        """As the function of this name; the pull needs no graph for its gradient."""
        gradient = gradient_at(self._objective, theta, differentiate=differentiate)
        follow = differentiate and torch.is_grad_enabled()
        with torch.set_grad_enabled(follow):
            away = theta - self._anchor
            if isinstance(self._strength, Tensor):
                return torch.addcmul(gradient, self._strength, away)
            return torch.add(gradient, away, alpha=self._strength)

    def residual(self, theta: Float[Tensor, "task p"]) -> Float[Tensor, "task n num_outputs"]:
        """No example's own loss changes."""
        return self._objective.residual(theta)
