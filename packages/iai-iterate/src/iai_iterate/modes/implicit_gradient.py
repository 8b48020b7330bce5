"""Meta-gradients from the equation that a solution satisfies, whichever steps led to it."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from iai_iterate.interfaces import Loss, Rollout, State, Step
from iai_iterate.linear_solver import LinearSolver
from iai_iterate.modes.implicit_function import (
    Equation,
    ImplicitReport,
    Progress,
    implicit_function,
)
from iai_iterate.rollout import detach, stacked
from iai_iterate.steady import steady
from iai_iterate.task_matrix import to_matrix
from iai_iterate.tree import mapped, survey


def _whole(state: Any) -> Any:
    return state


class ImplicitGradient:
    """A gradient mode: differentiates the solution of F(solution, start, batch) = 0.

    The steps run without a graph, so memory grows neither with their number nor with the solver's.
    The gradient g of the last loss by the solution becomes -v by F, where (dF/dsolution)' v = g,
    and goes on through F to all that F depends on: the start, and what F takes from elsewhere, such
    as shared weights and a learned strength. Every product with (dF/dsolution)' is a backward pass
    through one graph of F.

    What else the last loss depends on has its gradient as usual. The earlier losses are constants,
    and so is the part of the state that is not solved for. The step itself is not differentiated:
    weights that it shares with F are trained through F.

    The gradient is exact where F is 0. Where the steps did not get there it is wrong and looks like
    any other: `report.residual` says how near they came, and `report.solve` how well the linear
    systems were solved. For a few steps that stop on the way there is `unrolled`.

    Args:
        residual: `residual(solution, start, batch)`: F at two states and the last minibatch, shaped
            as `solved(solution)`. Tasks do not mix in it. It reads what is solved for from the
            first state, which has the values of the last step, and the rest from the second. It
            is differentiable: a gradient inside it is taken with `create_graph=True`.
        solver: Solves the linear systems. `ConjugateGradient` where dF/dsolution is symmetric and
            positive definite, as where F is the gradient of a strongly convex objective; `Neumann`
            where its series converges.
        solved: The part of a state that is solved for, such as `operator.attrgetter("theta")`: a
            pytree whose leaves are floating leaves of the state. By default all of it.

    Source:
        Rajeswaran, Finn, Kakade and Levine (2019), arXiv 1909.04630: with F the gradient by phi of
        `L(phi) + strength / 2 |phi - theta|^2`, where theta is the start, dF/dsolution is
        H + strength I and the gradient by theta is strength v = (I + H / strength)^-1 gradient,
        their equation 7. They have no gradient by what else F depends on.

    >>> from iai_iterate import ConjugateGradient
    >>> anchor = torch.tensor([0.0], requires_grad=True)
    >>> step = lambda x, y: x - ((x - y) + 3 * (x - anchor)) / 4  # (x - y)^2 / 2, strength 3
    >>> residual = lambda x, start, y: (x - y) + 3 * (x - start)
    >>> mode = ImplicitGradient(residual, ConjugateGradient())
    >>> losses, solution = mode(step, lambda x: x, anchor, [torch.ones(1)])
    >>> solution, mode.report.residual  # a quarter of the way from the anchor to the target
    (tensor([0.2500]), tensor([0.]))
    >>> torch.autograd.grad(losses[-1].sum(), anchor)[0].item()  # strength / (1 + strength)
    0.75
    """

    def __init__(
        self,
        residual: Callable[[Any, Any, Any], Any],
        solver: LinearSolver,
        *,
        solved: Callable[[Any], Any] = _whole,
    ) -> None:
        self.residual, self.solver, self.solved = residual, solver, solved
        self._progress: Progress | None = None

    @property
    def report(self) -> ImplicitReport:
        """Of the latest rollout, and of the latest backward pass through it until now.

        Raises:
            RuntimeError: If there was no rollout yet.
        """
        if self._progress is None:
            raise RuntimeError("`report` is of the latest rollout; there was none yet.")
        return self._progress.report()

    def __call__(
        self, step: Step[State], loss: Loss[State], state: State, batches: Iterable[Any]
    ) -> Rollout[State]:
        """Rolls out.

        Args:
            step: `step(state, batch) -> state`. One that takes a gradient itself enables them
                itself.
            loss: `loss(state) -> task`, taken after every step.
            state: The start, any pytree of tensors. What is solved for leads with the tasks.
            batches: One minibatch a step. F is taken on the last one.

        Returns:
            The losses, `step task`, with the values of the plain loop and a gradient of the last;
            the last state, detached. Asking for a second derivative raises RuntimeError.

        Raises:
            ValueError: If there is no minibatch; `loss` is not one number a task; `solved` gives
                anything but leaves of the state that lead with these tasks; or `residual` is not
                shaped as what is solved for or does not depend on it differentiably; and what
                `steady` raises.
        """
        start, step, losses = state, steady(step), list[Tensor]()
        latest = list[Any]()
        for batch in batches:
            with torch.no_grad():
                if latest:
                    losses.append(loss(state))
                state = step(state, batch)
            latest = [batch]
        # One tensor under two names becomes two: a leaf is known by its identity from here on.
        end: State = mapped(_detached, state)
        if latest:
            losses.append(loss(self._solution(end, start, latest[0])))
        values = stacked(losses)
        if any(leaf.shape[0] != values.shape[1] for leaf in tree_leaves(self.solved(end))):
            raise ValueError(_unsolvable(self.solved(end)))
        return values, end

    def _solution(self, end: State, start: State, batch: Any) -> State:
        """The last state, its solved leaves with the gradient of the solution."""
        part, known = self.solved(end), {id(leaf) for leaf in tree_leaves(end)}
        unknowns: dict[int, Tensor] = {}
        for leaf in tree_leaves(part):
            if id(leaf) not in known - unknowns.keys() or not _led(leaf):
                raise ValueError(_unsolvable(part))
            unknowns[id(leaf)] = leaf.detach().requires_grad_()
        if len({len(leaf) for leaf in unknowns.values()}) != 1:
            raise ValueError(_unsolvable(part))

        def replaced(leaves: Mapping[int, Tensor]) -> State:
            state: State = mapped(lambda leaf: leaves.get(id(leaf), leaf), end)
            return state

        with torch.enable_grad():
            values = self.residual(replaced(unknowns), start, batch)
        if survey(values)[1] != survey(part)[1]:
            raise ValueError(
                f"`residual` must be shaped as what is solved for, {_shapes(part)}; "
                f"got {_shapes(values)}, or other containers or dtypes."
            )
        self._progress = Progress(torch.linalg.vector_norm(to_matrix(detach(values)), dim=1))
        equation = Equation(list(unknowns.values()), values, self.solver, self._progress)
        return replaced(dict(zip(unknowns, implicit_function(equation), strict=True)))


def _detached(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf


def _led(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dim() > 0


def _unsolvable(part: Any) -> str:
    return (
        "`solved` must give floating leaves of the state, each once, that lead with the tasks; "
        f"got {_shapes(part)}."
    )


def _shapes(tree: Any) -> Any:
    def shape(leaf: Any) -> Any:
        return tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__

    return mapped(shape, tree)
