"""The contract of a linear solver."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from iai_iterate.linear_solver import LinearSolver, Solve
from iai_iterate.task_matrix import from_matrix, to_matrix
from iai_iterate.testing.comparison import check_same

_EIGENVALUES = {
    "positive definite": [0.5, 0.75, 1.0, 1.25, 1.5],
    "singular": [0.0, 0.5, 1.0, 1.25, 1.5],
    "indefinite": [-0.5, -0.1, 1.0, 1.25, 1.5],
    "zero": [0.0] * 5,
}


def check_linear_solver(solver: LinearSolver) -> None:
    """Checks that a linear solver does what `ImplicitGradient` and the rules that solve rely on.

    The systems A x = b have five unknowns in a pytree of three leaves. x is a pytree such as b; x,
    the residual, the products and `negative` are constants. The residual is `|b - A x| / |b|` at
    the x that is returned, whatever A is: positive definite, singular, indefinite, or 0. Nothing is
    infinite or NaN in them. Where A is positive definite with eigenvalues from 1/2 to 3/2, x is
    nearer than 0 is. A b of zeros has the x of zeros and the residual 0, also where A is 0, as in a
    task without an example. The other tasks change nothing: not those that are done sooner, nor one
    that holds NaN. Half precision and gradients that are enabled change no dtype and leave no
    graph. What was given is left as it was.

    Args:
        solver: What to check. It has steps enough for x to come nearer in the systems above.

    Raises:
        AssertionError: With the sentence that does not hold.

    >>> from iai_iterate import ConjugateGradient
    >>> check_linear_solver(ConjugateGradient(steps=5))
    """
    assert isinstance(solver, LinearSolver), "A linear solver has a method `solve`."
    generator = torch.Generator().manual_seed(0)
    matrix = torch.cat([_symmetric(values, generator) for values in _EIGENVALUES.values()])
    right = torch.randn(len(matrix), 5, generator=generator, dtype=torch.float64)
    _check_form(solver, matrix, right)
    _check_residual(_solve(solver, matrix, right), matrix, right)
    _check_zero(solver, matrix)
    _check_company(solver, matrix, right)
    _check_dtypes(solver)


def _symmetric(eigenvalues: list[float], generator: torch.Generator) -> Tensor:
    basis = torch.linalg.qr(torch.randn(1, 5, 5, generator=generator, dtype=torch.float64))[0]
    matrix: Tensor = basis @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.mT
    return matrix


def _tree(vectors: Tensor) -> dict[str, Any]:
    return {"w": vectors[:, :4].reshape(-1, 2, 2), "b": (vectors[:, 4],)}


def _times(matrix: Tensor, x: Any) -> Any:
    return from_matrix(x)((matrix @ to_matrix(x)[..., None])[..., 0])


def _solve(solver: LinearSolver, matrix: Tensor, right: Tensor) -> Solve:
    return solver.solve(partial(_times, matrix), _tree(right))


def _check_form(solver: LinearSolver, matrix: Tensor, right: Tensor) -> None:
    calls, given = [], _tree(right.clone().requires_grad_())
    before = tree_map(lambda leaf: leaf.detach().clone(), given)
    weights = matrix.clone().requires_grad_()

    def product(x: Any) -> Any:
        calls.append(_kinds(x))
        return _times(weights, x)

    solve = solver.solve(product, given)
    check_same(tree_map(Tensor.detach, given), before, "The right-hand side is left as it was.")
    kinds = _kinds(given)
    same = all(call == kinds for call in calls)
    assert same, "A product is asked for a pytree such as the right-hand side."
    sentence = "A solution has the structure, shapes and dtypes of the right-hand side."
    assert _kinds(solve.solution) == kinds, sentence
    report = {"residual": torch.float64, "steps": torch.int64, "negative": torch.bool}
    for name, dtype in report.items():
        value = getattr(solve, name, None)
        sentence = f"`{name}` is a number a task, of dtype {dtype}."
        assert isinstance(value, Tensor), sentence
        assert value.dtype == dtype and value.shape == right.shape[:1], sentence
    assert not any(leaf.requires_grad for leaf in tree_leaves(tuple(solve))), (
        "What a solver returns is constant."
    )
    assert solve.steps.min() >= 0 and solve.steps.max() <= len(calls), (
        f"`steps` counts products: {len(calls)} were asked for; got {solve.steps.tolist()}."
    )


def _kinds(tree: Any) -> Any:
    leaves, structure = tree_flatten(tree)
    return structure, [
        (leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else type(leaf) for leaf in leaves
    ]


def _check_residual(solve: Solve, matrix: Tensor, right: Tensor) -> None:
    x = to_matrix(solve.solution)
    left = right - (matrix @ x[..., None])[..., 0]
    size = right.norm(dim=1)
    relative = left.norm(dim=1) / size
    for task, name in enumerate(_EIGENVALUES):
        finite = bool(x[task].isfinite().all() and solve.residual[task].isfinite())
        assert finite, f"The solution is finite where A is {name}."
        sentence = f"The residual is |b - A x| / |b| at the solution where A is {name}."
        check_same(solve.residual[task], relative[task], sentence, 1e-6)
    assert relative[0] < 1, "A solution is nearer than 0 where A is positive definite."


def _check_zero(solver: LinearSolver, matrix: Tensor) -> None:
    solve = _solve(solver, matrix, torch.zeros_like(matrix[:, 0]))
    sentence = "A right-hand side of 0 has the solution 0 and the residual 0, whatever A is."
    check_same(to_matrix(solve.solution), torch.zeros_like(matrix[:, 0]), sentence)
    check_same(solve.residual, torch.zeros_like(solve.residual), sentence)


def _check_company(solver: LinearSolver, matrix: Tensor, right: Tensor) -> None:
    lonely = right.clone()
    lonely[1:] = 0
    poisoned = right.clone()
    poisoned[1:] = torch.nan
    together = _solve(solver, matrix, right)
    for task in range(len(matrix)):
        rows = slice(task, task + 1)
        alone = _solve(solver, matrix[rows], right[rows])
        _check_task(together, alone, task, "A task has the same solution alone and in a batch.")
    alone = _solve(solver, matrix[:1], right[:1])
    for others, what in ((lonely, "0"), (poisoned, "NaN")):
        sentence = f"A task has the same solution beside others whose right-hand side is {what}."
        _check_task(_solve(solver, matrix, others), alone, 0, sentence)


def _check_task(solve: Solve, alone: Solve, task: int, sentence: str) -> None:
    rows = slice(task, task + 1)
    for one, other in (
        (to_matrix(solve.solution), to_matrix(alone.solution)),
        (solve.residual, alone.residual),
    ):
        check_same(one[rows], other, sentence, 1e-6)
    assert torch.equal(solve.negative[rows], alone.negative), sentence


def _check_dtypes(solver: LinearSolver) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        right = _tree(torch.ones(2, 5, dtype=dtype))
        solve = solver.solve(lambda x: x, right)
        assert _kinds(solve.solution) == _kinds(right), f"A solution keeps the dtype {dtype}."
        finite = all(bool(leaf.isfinite().all()) for leaf in tree_leaves(solve.solution))
        assert finite, f"A solution of the identity is finite in {dtype}."
