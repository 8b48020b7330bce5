"""L-BFGS as a rule: curvature from the last steps, for each task by itself."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from iai_regimes.check import check_sizes
from iai_regimes.evidence import Evidence
from iai_regimes.gradient import gradient_at
from iai_regimes.gradient_rule import DescentRule
from iai_regimes.interfaces import Objective, Theta
from iai_regimes.ravel import of_vectors, ravel, shifted
from iai_regimes.rules.line_search import descend


class LBFGSCarry(NamedTuple):
    """The last steps and the changes of the gradient, the newest last; zeros for missing ones."""

    moves: Float[Tensor, "task history p"]  # of theta
    changes: Float[Tensor, "task history p"]  # of the gradient, on the same minibatch


class LBFGS(DescentRule):
    """Steps along -B g on each minibatch, as far as its loss falls.

    B approximates the inverse Hessian by the last steps and the changes of the gradient along them.
    Both ends of a change are on the same minibatch, which takes a second gradient per step, so that
    differences between minibatches are not mistaken for curvature. A step along which the loss does
    not curve upwards is not remembered. Each task's rate is halved until its loss falls enough; if
    it never does, the task forgets its steps and goes along -g. The loss never rises, but for
    rounding.

    Outer gradients take the step for a constant and pass to theta unchanged. Differentiate through
    the solution instead, by an implicit gradient of `residual`. A task without an observed example
    in the minibatch stays as it is.

    Args:
        history: Number of steps that are remembered; each takes twice the memory of theta.

    Raises:
        ValueError: If `history` is below 1.

    Source:
        Nocedal and Wright (2006), algorithms 7.4 and 7.5, with Armijo's condition alone. Pairs from
        one minibatch: Schraudolph, Yu and Guenter (2007).

    >>> class Quadratic:
    ...     shared = False
    ...     def loss(self, theta):
    ...         return 0.25 * theta["w"].square().sum(-1)
    ...     def residual(self, theta):
    ...         return theta["w"][:, None]
    >>> rule, theta = LBFGS(), {"w": torch.tensor([[4.0]])}
    >>> told = Evidence((), torch.ones(1), torch.zeros(1), True)
    >>> carry, path = rule.start(theta), []
    >>> for _ in range(2):
    ...     theta, carry = rule.step(theta, carry, told, Quadratic())
    ...     path.append(theta["w"].item())
    >>> path  # down the gradient first; then the curvature is known
    [2.0, 0.0]
    """

    def __init__(self, *, history: int = 10) -> None:
        check_sizes(history=history)
        self.history = history

    def start(self, theta: Theta) -> LBFGSCarry:
        """No step yet."""
        flat = ravel(theta)
        zeros = flat.new_zeros(len(flat), self.history, flat.shape[1])
        return LBFGSCarry(zeros, zeros)

    def step(
        self, theta: Theta, carry: LBFGSCarry, evidence: Evidence, objective: Objective
    ) -> tuple[Theta, LBFGSCarry]:
        """One step, a constant; gradients pass to `theta` unchanged."""
        with torch.no_grad():
            gradient = ravel(gradient_at(objective, theta, differentiate=False))
            gradient = torch.where(evidence.informed[:, None], gradient, 0.0)
            direction = -_inverse_hessian(gradient, carry)
            loss = of_vectors(objective.loss, theta)
            shift, rate = descend(loss, ravel(theta), gradient, direction)
            moved = gradient_at(objective, shifted(theta, shift), differentiate=False)
            carry = _remember(carry, shift, ravel(moved) - gradient, forget=rate == 0)
        return shifted(theta, shift), carry


def _inverse_hessian(vector: Tensor, carry: LBFGSCarry) -> Tensor:
    """B times the vector, by the recursion from the newest step to the oldest and back."""
    moves, changes = carry
    products = (moves * changes).sum(-1)  # above 0 for a step, 0 where there was none
    inverse = torch.where(products > 0, 1 / torch.where(products > 0, products, 1.0), 0.0)
    shares = torch.zeros_like(inverse)
    for index in reversed(range(moves.shape[1])):
        shares[:, index] = inverse[:, index] * (moves[:, index] * vector).sum(-1)
        vector = vector - shares[:, index, None] * changes[:, index]
    square = changes[:, -1].square().sum(-1)
    scale = torch.where(square > 0, products[:, -1] / torch.where(square > 0, square, 1.0), 1.0)
    vector = scale[:, None] * vector
    for index in range(moves.shape[1]):
        back = inverse[:, index] * (changes[:, index] * vector).sum(-1)
        vector = vector + (shares[:, index] - back)[:, None] * moves[:, index]
    return vector


def _remember(carry: LBFGSCarry, move: Tensor, change: Tensor, *, forget: Tensor) -> LBFGSCarry:
    """The memory with one more step where the loss curved upwards along it."""
    precision = torch.finfo(move.dtype).eps
    lengths = move.norm(dim=-1) * change.norm(dim=-1)
    curved = ((move * change).sum(-1) > precision * lengths)[:, None, None]
    forgotten = (forget & (move != 0).any(-1))[:, None, None]

    def shifted(old: Tensor, new: Tensor) -> Tensor:
        old = torch.where(forgotten, 0.0, old)
        return torch.where(curved, torch.cat([old[:, 1:], new[:, None]], dim=1), old)

    return LBFGSCarry(shifted(carry.moves, move), shifted(carry.changes, change))
