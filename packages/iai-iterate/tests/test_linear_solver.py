import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_iterate import ConjugateGradient, LinearSolver, Neumann
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

SEEDS = st.integers(0, 2**32)


def spectra(seed, eigenvalues):
    """Symmetric matrices, `task d d`, of the eigenvalues given, `task d`; a draw for the rest."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    eigenvalues = torch.as_tensor(eigenvalues, dtype=torch.float64)
    basis = torch.linalg.qr(draw(*eigenvalues.shape, eigenvalues.shape[-1]))[0]
    return basis @ torch.diag_embed(eigenvalues) @ basis.mT, draw


def times(matrix, calls=None):
    def product(x):
        if calls is not None:
            calls.append(x)
        return (matrix @ x[..., None])[..., 0]

    return product


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@given(seed=SEEDS, num_tasks=st.integers(1, 4), d=st.integers(1, 6))
def test_conjugate_gradients_solve_d_equations_in_d_steps(seed, num_tasks, d):
    matrix, draw = spectra(seed, [[1.0 + 0.5 * i for i in range(d)]] * num_tasks)
    right = draw(num_tasks, d)
    solve = ConjugateGradient(steps=d).solve(times(matrix), right)
    close(solve.solution, torch.linalg.solve(matrix, right), 1e-10)
    assert (solve.steps == d).all() and (solve.residual < 1e-10).all() and not solve.negative.any()


@given(seed=SEEDS, steps=st.integers(1, 5))
def test_the_residual_is_that_of_the_solution_given(seed, steps):
    matrix, draw = spectra(seed, torch.linspace(0.1, 1.9, 24).reshape(3, 8))
    right = draw(3, 8)
    for solver in (ConjugateGradient(steps=steps), Neumann(steps=steps)):
        solve = solver.solve(times(matrix), right)
        left = right - times(matrix)(solve.solution)
        close(solve.residual, left.norm(dim=1) / right.norm(dim=1), 1e-10)
        assert (solve.steps == steps).all() and not solve.negative.any()


def test_any_pytree_with_leaves_of_any_shape():
    matrix, draw = spectra(0, torch.linspace(1, 4, 21).reshape(3, 7))
    right = {"theta": draw(3, 2, 2), "rest": (draw(3), [draw(3, 2)])}

    def flat(tree):
        return torch.cat([leaf.reshape(3, -1) for leaf in tree_leaves(tree)], 1)

    def product(tree):
        a, b, c = times(matrix)(flat(tree)).split([4, 1, 2], 1)
        return {"theta": a.reshape(3, 2, 2), "rest": (b[:, 0], [c])}

    expected = torch.linalg.solve(matrix, flat(right))
    for solver in (ConjugateGradient(steps=7), Neumann(steps=300, scale=0.4)):
        solution = solver.solve(product, right).solution
        assert tree_map(lambda leaf: leaf.shape, solution) == tree_map(lambda x: x.shape, right)
        close(flat(solution), expected, 1e-10)


@given(seed=SEEDS, tolerance=st.sampled_from([0.0, 1e-6, 1e-2]))
def test_a_batch_is_its_tasks_one_at_a_time(seed, tolerance):
    # The identity is solved in a step, two eigenvalues in two; one task is indefinite, one is 0.
    eigenvalues = [[1.0] * 4, [1.0, 1.0, 3.0, 3.0], [1.0, 2.0, 3.0, 9.0], [-1.0, 1.0, 2.0, 3.0]]
    matrix, draw = spectra(seed, [*eigenvalues, [1.0, 2.0, 3.0, 4.0]])
    right = draw(5, 4)
    right[4] = 0
    conjugate = ConjugateGradient(steps=4, tolerance=tolerance)
    for solver in (conjugate, Neumann(steps=5, scale=0.1)):
        whole = solver.solve(times(matrix), right)
        for task in range(5):
            rows = slice(task, task + 1)
            alone = solver.solve(times(matrix[rows]), right[rows])
            for one, other in zip(alone, whole, strict=True):
                close(one, other[rows])
    steps = conjugate.solve(times(matrix), right).steps.tolist()
    assert steps[4] == 0 and (tolerance == 0 or (steps[:2] == [1, 2] and 2 <= steps[2] <= 4))


def test_it_stops_when_every_task_is_near_enough():
    matrix, draw = spectra(1, [[1.0] * 9, [float(i) for i in range(1, 10)]])
    right, calls = draw(2, 9), []
    solve = ConjugateGradient(steps=9, tolerance=0.05).solve(times(matrix, calls), right)
    assert len(calls) == solve.steps.max() < 9 and solve.steps[0] == 1
    assert (solve.residual <= 0.05).all()
    before = ConjugateGradient(steps=len(calls) - 1).solve(times(matrix), right)
    assert before.residual[1] > 0.05
    calls.clear()
    ConjugateGradient(steps=9).solve(times(matrix, calls), right)
    assert len(calls) == 9


class Reads(TorchDispatchMode):
    """Counts the numbers that the program itself waits for."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_no_step_waits_for_the_device_unless_asked_to_stop():
    matrix, draw = spectra(1, [[1.0, 2.0, 3.0]] * 2)
    right = draw(2, 3)
    for solver, reads in [
        (ConjugateGradient(steps=3), 0),
        (ConjugateGradient(steps=3, tolerance=1e-30), 3),
        (Neumann(steps=3), 0),
    ]:
        with Reads() as counted:
            solver.solve(times(matrix), right)
        assert counted.count == reads


@given(seed=SEEDS)
def test_negative_curvature_keeps_the_last_iterate_and_is_said(seed):
    matrix, draw = spectra(seed, [[-2.0, -1.0, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0, 5.0]])
    right = draw(2, 5)
    solve = ConjugateGradient(steps=50).solve(times(matrix), right)
    assert solve.negative.tolist() == [True, False]
    assert all(part.isfinite().all() for part in solve)
    close(solve.solution[1], torch.linalg.solve(matrix[1], right[1]), 1e-9)
    taken = int(solve.steps[0])
    if taken:
        last = ConjugateGradient(steps=taken).solve(times(matrix), right)
        assert torch.equal(last.solution[0], solve.solution[0]) and not last.negative[0]
    else:
        assert (solve.solution[0] == 0).all()
    left = right - times(matrix)(solve.solution)
    close(solve.residual, left.norm(dim=1) / right.norm(dim=1), 1e-9)


@given(seed=SEEDS)
def test_singular_systems(seed):
    matrix, draw = spectra(seed, [[0.0, 0.0, 1.0, 2.0, 3.0]] * 3)
    right = draw(3, 5)
    right[0] = matrix[0] @ right[0]
    matrix[2] = 0
    solve = ConjugateGradient(steps=40).solve(times(matrix), right)
    # What has a solution finds the least one; what has none says so, and stays finite.
    close(solve.solution[0], torch.linalg.pinv(matrix[0]) @ right[0], 1e-9)
    assert not solve.negative[0] and solve.residual[0] < 1e-12
    assert solve.negative[1:].all() and (solve.residual[1:] > 1e-3).all()
    assert all(part.isfinite().all() for part in solve)
    assert (solve.solution[2] == 0).all()


@pytest.mark.parametrize("solver", [ConjugateGradient(), Neumann(steps=9, scale=0.3)])
def test_a_right_hand_side_of_nothing(solver):
    matrix, draw = spectra(4, [[1.0, 2.0, 3.0]] * 3)
    right = draw(3, 3)
    right[1], right[2, 0] = 0, torch.nan
    solve = solver.solve(times(matrix), right)
    assert (solve.solution[1] == 0).all() and solve.residual[1] == 0 and not solve.negative.any()
    alone = solver.solve(times(matrix[:1]), right[:1])
    close(solve.solution[:1], alone.solution)
    assert solve.solution[2].isnan().any() and solve.residual[2].isnan()


def test_the_size_of_the_right_hand_side_does_not_matter():
    matrix, draw = spectra(5, [[1.0, 2.0, 3.0]] * 3)
    matrix, right = matrix.float(), draw(1, 3).float()
    sizes = torch.tensor([[1e-35], [1.0], [1e35]])
    solve = ConjugateGradient(steps=3).solve(times(matrix[:1].expand(3, 3, 3)), sizes * right)
    expected = torch.linalg.solve(matrix[:1], right)
    torch.testing.assert_close(solve.solution / sizes, expected.expand(3, 3), rtol=1e-4, atol=1e-5)


def test_half_precision_is_solved_in_single_and_comes_back_half():
    matrix, draw = spectra(6, [[1.0, 2.0, 3.0]])
    right = {"a": draw(1, 2).bfloat16(), "b": draw(1).double()}

    def product(tree):
        whole = torch.cat([tree["a"].double(), tree["b"][:, None]], 1)
        moved = times(matrix)(whole)
        return {"a": moved[:, :2].bfloat16(), "b": moved[:, 2]}

    solve = ConjugateGradient(steps=3).solve(product, right)
    assert solve.solution["a"].dtype == torch.bfloat16
    assert solve.solution["b"].dtype == solve.residual.dtype == torch.float64
    only = ConjugateGradient(steps=1).solve(lambda x: 2 * x, right["a"])
    assert only.solution.dtype == torch.bfloat16 and only.residual.dtype == torch.float32
    assert torch.equal(only.solution, right["a"] / 2)


@given(seed=SEEDS, steps=st.integers(1, 6), scale=st.sampled_from([0.5, 1.0]))
def test_neumann_is_its_series_for_any_matrix(seed, steps, scale):
    _, draw = spectra(seed, [[1.0]])
    matrix, right = draw(2, 4, 4), draw(2, 4)
    solve = Neumann(steps=steps, scale=scale).solve(times(matrix), right)
    rest = torch.eye(4, dtype=torch.float64) - scale * matrix
    series = sum(scale * torch.linalg.matrix_power(rest, k) for k in range(steps))
    close(solve.solution, times(series)(right), 1e-10)


def test_neumann_converges_for_a_contraction_and_says_where_it_does_not():
    _, draw = spectra(7, [[1.0]])
    rotation = torch.tensor([[0.0, -0.5], [0.5, 0.0]], dtype=torch.float64)
    matrix = torch.eye(2, dtype=torch.float64) - torch.stack([rotation, 4 * rotation])
    right = draw(2, 2)
    solve = Neumann(steps=60).solve(times(matrix), right)
    close(solve.solution[0], torch.linalg.solve(matrix[0], right[0]))
    assert solve.residual[0] < 1e-15 and solve.residual[1] > 1e15


@pytest.mark.parametrize("solver", [ConjugateGradient(), Neumann(steps=3)])
def test_solves_are_constants(solver):
    scale = torch.ones(2, 3, requires_grad=True)
    solve = solver.solve(lambda x: scale * x, torch.ones(2, 3, requires_grad=True))
    assert isinstance(solver, LinearSolver) and not any(part.requires_grad for part in solve)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ConjugateGradient(steps=0), "`steps` must be at least 1; got 0."),
        (lambda: ConjugateGradient(tolerance=-1.0), "`tolerance` must be at least 0; got -1.0."),
        (
            lambda: ConjugateGradient(tolerance=torch.nan),
            "`tolerance` must be at least 0; got nan.",
        ),
        (lambda: Neumann(steps=0), "`steps` must be at least 1; got 0."),
        (lambda: Neumann(steps=1, scale=0.0), "`scale` must be above 0; got 0.0."),
    ],
)
def test_errors(make, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        make()
