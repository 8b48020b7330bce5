"""Meta-gradients from the equation that a solution satisfies, whatever way led to it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import (
    tree_flatten,
    tree_leaves,
    tree_map,
    tree_map_only,
    tree_unflatten,
)

from iai_iterate.interfaces import Loss, Rollout, State, Step
from iai_iterate.linear_solver import LinearSolver, Solve
from iai_iterate.modes.implicit_function import Equation, implicit_function
from iai_iterate.rollout import detach, stacked
from iai_iterate.steady import steady
from iai_iterate.task_matrix import to_matrix


class ImplicitReport(NamedTuple):
    """How far an implicit gradient can be trusted. All are constants."""

    residual: Float[Tensor, " task"]  # |F| at the last state: the gradient is that of its root
    solve: Solve | None  # of the linear systems; None before a backward pass


@dataclass(eq=False)
class _Record:
    """A report in the making: the backward pass adds to it."""

    residual: Tensor
    solve: Solve | None = None

    def keep(self, solve: Solve) -> None:
        self.solve = solve


def _whole(state: Any) -> Any:
    return state


class ImplicitGradient:
    """A gradient mode: differentiates the solution of F(solution, start, batch) = 0.

    The steps run without a graph, so that memory grows neither with them nor with the steps of the
    solver. The gradient of the last loss by the solution goes through the linear systems
    (dF/dsolution)' v = gradient, and then, as -v, through F to all that F depends on: the start,
    and what stands in its closure, such as shared weights and a learned strength. Every product
    with (dF/dsolution)' goes through one graph of F.

    What the last loss depends on besides the solution has its gradient as usual. The losses before
    it are constants; so is what of the state is not solved for. The step has no gradient of its
    own: what it shares with F learns through F.

    The gradient is exact where F is 0 and is off, without a sign of it, where the steps did not get
    there: `report.residual` says how near they came, and `report.solve` how well the systems were
    solved. A few steps that stop on the way are what `unrolled` is for.

    Args:
        residual: `residual(solution, start, batch)`: F at two states and the last minibatch, shaped
            as `solved(solution)`. Tasks do not mix in it. It reads what is solved for from the
            first state, which has the numbers of the last step, and the rest from the second. It
            is differentiable: where it takes a gradient itself, it does with `create_graph=True`.
        solver: Of the linear systems. `ConjugateGradient` is right where dF/dsolution is symmetric
            and positive definite, as where F is the gradient of a strongly convex objective;
            `Neumann` where its series converges.
        solved: The part of a state that is solved for, such as `operator.attrgetter("theta")`: a
            pytree whose leaves are floating leaves of the state. By default all of it.

    Source:
        Rajeswaran, Finn, Kakade and Levine (2019), arXiv 1909.04630: with F the gradient by phi of
        `L(phi) + strength / 2 |phi - theta|^2`, where theta is the start, dF/dsolution is
        H + strength I and the gradient by theta is strength v = (I + H / strength)^-1 gradient,
        their equation 7. They have no gradient for what else F depends on.

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
        self._record: _Record | None = None

    @property
    def report(self) -> ImplicitReport:
        """Of the latest rollout, and of the latest backward pass through it.

        Raises:
            RuntimeError: If there was no rollout yet.
        """
        if self._record is None:
            raise RuntimeError("`report` is of the latest rollout; there was none yet.")
        return ImplicitReport(self._record.residual, self._record.solve)

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
            the last state, detached. A second derivative is refused when it is asked for.

        Raises:
            ValueError: If there is no minibatch; `loss` is not one number a task; `solved` gives
                anything but leaves of the state that lead with these tasks; or `residual` is not
                shaped as what is solved for or does not depend on it differentiably; and what
                `steady` raises.
        """
        start, step, read = state, steady(step), list[Any]()
        losses: list[Tensor] = []
        for batch in batches:
            with torch.no_grad():
                if read:
                    losses.append(loss(state))
                state = step(state, batch)
            read = [batch]
        if not read:
            raise ValueError("`batches` must hold at least one minibatch; got none.")
        # One tensor under two names becomes two: a leaf is known by its identity from here on.
        end: State = tree_map_only(Tensor, Tensor.detach, state)
        losses.append(loss(self._solution(end, start, read[0])))
        values = stacked(losses)
        _check_lead(self.solved(end), values.shape[1])
        return values, end

    def _solution(self, end: State, start: State, batch: Any) -> State:
        """The last state, its solved leaves with the gradient of the solution."""
        leaves, structure = tree_flatten(end)
        picked = _places(leaves, self.solved(end))

        def replaced(others: Iterable[Tensor]) -> Any:
            everything = list(leaves)
            for place, leaf in zip(picked, others, strict=True):
                everything[place] = leaf
            return tree_unflatten(everything, structure)

        unknowns = [leaves[place].detach().requires_grad_() for place in picked]
        with torch.enable_grad():
            solution = replaced(unknowns)
            values = self.residual(solution, start, batch)
        _check_residual(values, self.solved(solution))
        residual = torch.linalg.vector_norm(to_matrix(detach(values)), dim=1)
        self._record = _Record(residual)
        equation = Equation(unknowns, values, self.solver, self._record.keep)
        state: State = replaced(implicit_function(equation))
        return state


def _places(leaves: list[Any], part: Any) -> list[int]:
    """Where the leaves of a part of a state stand among those of the state."""
    known = {id(leaf): place for place, leaf in enumerate(leaves)}
    picked = [known[id(leaf)] for leaf in tree_leaves(part) if id(leaf) in known]
    chosen = [leaves[place] for place in picked]
    right = len(set(picked)) == len(tree_leaves(part)) > 0 and all(
        isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dim() > 0 for leaf in chosen
    )
    if not right or len({leaf.shape[0] for leaf in chosen}) > 1:
        raise ValueError(
            "`solved` must give floating leaves of the state, each once, that lead with the tasks; "
            f"got {_shapes(part)}."
        )
    return picked


def _check_lead(solved: Any, num_tasks: int) -> None:
    if any(leaf.shape[0] != num_tasks for leaf in tree_leaves(solved)):
        raise ValueError(
            f"`solved` must lead with the {num_tasks} tasks that have a loss; got "
            f"{_shapes(solved)}."
        )


def _check_residual(values: Any, solved: Any) -> None:
    if tree_flatten(values)[1] != tree_flatten(solved)[1] or _shapes(values) != _shapes(solved):
        raise ValueError(
            f"`residual` must be shaped as what is solved for, {_shapes(solved)}; "
            f"got {_shapes(values)}."
        )


def _shapes(tree: Any) -> Any:
    def shape(leaf: Any) -> Any:
        return tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__

    return tree_map(shape, tree)
