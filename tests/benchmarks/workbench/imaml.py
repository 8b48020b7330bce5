"""One meta-gradient of implicit MAML: ours, torchopt's, and the same inner loop unrolled.

As in `maml`, a maker returns `backward(tasks)`. The inner loop takes steps of gradient descent on
loss(w) + strength / 2 * |w - w_0|^2, with the loss on the support and the initial weights w_0.
"""

from operator import attrgetter
from typing import Any, Literal, NamedTuple

import torch
from iai_iterate import ConjugateGradient, ImplicitGradient, Iterated, rematerialised, unrolled
from iai_regimes import Categorical, GradientDescent, Parametric, Predictor, Proximal
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from workbench.maml import Backward, TaskBatch, each

Mode = Literal["implicit", "unrolled", "rematerialised"]
MODES: tuple[Mode, ...] = ("implicit", "unrolled", "rematerialised")


class ProximalAdaptation(NamedTuple):
    """Settings of the inner loop and of the linear solver."""

    ways: int
    steps: int
    rate: float = 0.1
    strength: float = 2.0
    solver_steps: int = 5


def ours(
    module: nn.Module, how: ProximalAdaptation, mode: Mode, *, chunk: int | None = None
) -> Backward:
    """Ours, in batches of `chunk` tasks; None: all tasks in one batch."""
    rule = Proximal(GradientDescent(how.rate), how.strength)
    regime = Parametric(Predictor(module), Categorical(how.ways), rule)
    solver = ConjugateGradient(steps=how.solver_steps)
    gradients: dict[Mode, Any] = {
        "implicit": ImplicitGradient(regime.residual, solver, solved=attrgetter("theta")),
        "unrolled": unrolled,
        "rematerialised": rematerialised,
    }
    learner = Iterated(regime, steps=how.steps, gradient=gradients[mode], loss="last")

    def backward(tasks: TaskBatch) -> None:
        size = chunk or tasks.num_tasks
        for start in range(0, tasks.num_tasks, size):
            losses = learner(tasks[start : start + size]).losses
            (losses.sum() / tasks.num_tasks).backward()

    return backward


def by_torchopt(module: nn.Module, how: ProximalAdaptation) -> Backward:
    """torchopt: implicit differentiation of the root of the inner gradient, by its CG."""
    import torchopt

    names = [name for name, _ in module.named_parameters()]
    weights = tuple(module.parameters())
    Tensors = tuple[Tensor, ...]  # noqa: N806

    def loss(solution: Tensors, x: Tensor, y: Tensor) -> Tensor:
        named = dict(zip(names, solution, strict=True))
        return cross_entropy(functional_call(module, named, (x,)), y)

    def pulled(gradients: Tensors, solution: Tensors, start: Tensors) -> Tensors:
        triples = zip(gradients, solution, start, strict=True)
        return tuple(gradient + how.strength * (w - s) for gradient, w, s in triples)

    def residual(solution: Tensors, start: Tensors, x: Tensor, y: Tensor) -> Tensors:
        return pulled(torch.func.grad(loss)(solution, x, y), solution, start)

    solver = torchopt.linear_solve.solve_cg(maxiter=how.solver_steps, rtol=0.0)

    @torchopt.diff.implicit.custom_root(residual, argnums=1, solve=solver)  # type: ignore[misc]
    def solve(solution: Tensors, start: Tensors, x: Tensor, y: Tensor) -> Tensors:
        for _ in range(how.steps):
            leaves = tuple(w.detach().requires_grad_() for w in solution)
            with torch.enable_grad():
                gradients = torch.autograd.grad(loss(leaves, x, y), leaves)
            moves = pulled(gradients, solution, start)
            solution = tuple(w - how.rate * move for w, move in zip(solution, moves, strict=True))
        return solution

    def backward(tasks: TaskBatch) -> None:
        for (x, y), (query_x, query_y) in each(tasks):
            solution = solve(tuple(w.detach() for w in weights), weights, x, y)
            (loss(solution, query_x, query_y) / tasks.num_tasks).backward()

    return backward
