"""Each sentence of the contract of a linear solver is one that a fault of its own breaks."""

import pytest
import torch
from iai_iterate import ConjugateGradient, Neumann, Solve, from_matrix, to_matrix
from iai_iterate.testing import check_linear_solver
from torch.utils._pytree import tree_map


@pytest.mark.parametrize(
    "solver",
    [
        ConjugateGradient(),
        ConjugateGradient(steps=1),
        ConjugateGradient(steps=20),
        ConjugateGradient(tolerance=0.1),
        Neumann(steps=1),
        Neumann(steps=20),
        Neumann(steps=20, scale=0.3),
    ],
    ids=repr,
)
def test_solvers_that_keep_the_contract(solver):
    check_linear_solver(solver)


def _size(right):
    return to_matrix(right).detach().norm(dim=1)


class Good:
    """Conjugate gradients; a fault changes what comes back."""

    def solve(self, product, right):
        return self.alter(ConjugateGradient(steps=5).solve(product, right), right)


class ForgetsTheResidual(Good):
    def alter(self, solve, right):
        return solve._replace(residual=torch.zeros_like(solve.residual))


class AbsoluteResidual(Good):
    def alter(self, solve, right):
        return solve._replace(residual=solve.residual * _size(right))


class NanForNothing(Good):
    def alter(self, solve, right):
        return solve._replace(residual=solve.residual * _size(right) / _size(right))


class AVectorForATree(Good):
    def alter(self, solve, right):
        return solve._replace(solution=to_matrix(solve.solution))


class InDouble(Good):
    def alter(self, solve, right):
        return solve._replace(solution=tree_map(torch.Tensor.double, solve.solution))


class OneResidual(Good):
    def alter(self, solve, right):
        return solve._replace(residual=solve.residual.amax())


class NoReport(Good):
    def alter(self, solve, right):
        return solve._replace(steps=5)


class CountsTooMany(Good):
    def alter(self, solve, right):
        return solve._replace(steps=solve.steps + 1)


class Overwrites(Good):
    def alter(self, solve, right):
        with torch.no_grad():
            right["w"].mul_(2)
        return solve


class AsksForVectors:
    def solve(self, product, right):
        rebuild = from_matrix(right)
        vectors = ConjugateGradient(steps=5).solve(
            lambda x: to_matrix(product(tuple(rebuild(x).values()))), to_matrix(right)
        )
        return vectors._replace(solution=rebuild(vectors.solution))


class StandsStill(Good):
    def alter(self, solve, right):
        ones = torch.ones_like(solve.residual)
        none = tree_map(torch.zeros_like, right)
        return Solve(none, ones, 0 * solve.steps, solve.negative)


class SteepestDescent:
    """Steps along the residual, each as long as it should be; a fault changes the length."""

    def solve(self, product, right):
        rebuild, b = from_matrix(right), to_matrix(right)
        x, r = torch.zeros_like(b), b
        for _ in range(5):
            q = to_matrix(product(rebuild(r)))
            rate = self.rate(r, q)
            x, r = x + rate * r, r - rate * q
        size = b.norm(dim=1)
        residual = torch.where(size > 0, r.norm(dim=1) / size, 0)
        steps = torch.full_like(size, 5, dtype=torch.int64)
        solve = Solve(rebuild(x), residual, steps, torch.zeros_like(size, dtype=torch.bool))
        return tree_map(torch.Tensor.detach, solve)


class DividesByNothing(SteepestDescent):
    def rate(self, r, q):
        return (r * r).sum(1, keepdim=True) / (r * q).sum(1, keepdim=True)


class TasksMeet(SteepestDescent):
    """One length for all tasks, as an implementation for one vector has it."""

    def rate(self, r, q):
        return (r * r).sum() / (r * q).sum().clamp(min=1e-9)


class LeavesAGraph(SteepestDescent):
    def rate(self, r, q):
        return 0.5

    def solve(self, product, right):
        return super().solve(product, right)._replace(residual=to_matrix(right).norm(dim=1))


class Inverts:
    """Forms the matrix and solves it, though nothing says that it is not singular."""

    def solve(self, product, right):
        rebuild, b = from_matrix(right), to_matrix(right)
        units = torch.eye(b.shape[1], dtype=b.dtype)
        columns = [to_matrix(product(rebuild(unit.expand_as(b)))) for unit in units]
        matrix = torch.stack(columns, -1)
        x = torch.linalg.solve_ex(matrix, b)[0]
        left = (b - (matrix @ x[..., None])[..., 0]).norm(dim=1)
        residual = torch.where(left > 0, left / b.norm(dim=1), 0)
        steps = torch.full_like(residual, 5, dtype=torch.int64)
        solve = Solve(rebuild(x), residual, steps, torch.zeros_like(residual, dtype=torch.bool))
        return tree_map(torch.Tensor.detach, solve)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (torch.nn.Identity, "A linear solver has a method `solve`"),
        (ForgetsTheResidual, "The residual is |b - A x| / |b| at the solution where A is singular"),
        (AbsoluteResidual, "The residual is |b - A x| / |b| at the solution where A is singular"),
        (NanForNothing, "A right-hand side of 0 has the solution 0 and the residual 0"),
        (AVectorForATree, "A solution has the structure, shapes and dtypes of the right-hand side"),
        (InDouble, "A solution keeps the dtype torch.float32"),
        (OneResidual, "`residual` is a number a task, of dtype torch.float64"),
        (NoReport, "`steps` is a number a task, of dtype torch.int64"),
        (CountsTooMany, "`steps` counts products"),
        (Overwrites, "The right-hand side is left as it was"),
        (AsksForVectors, "A product is asked for a pytree such as the right-hand side"),
        (StandsStill, "A solution is nearer than 0 where A is positive definite"),
        (DividesByNothing, "The solution is finite where A is zero"),
        (TasksMeet, "A task has the same solution alone and in a batch"),
        (LeavesAGraph, "What a solver returns is constant"),
        (Inverts, "The solution is finite where A is zero"),
    ],
)
def test_solvers_that_do_not(fault, sentence, own_errors):
    with pytest.raises(AssertionError, match=sentence.replace("|", r"\|")):
        check_linear_solver(fault())
