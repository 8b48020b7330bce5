from operator import attrgetter
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_iterate import ConjugateGradient, ImplicitGradient, Neumann, unrolled
from iai_iterate.testing import check_gradient_mode
from solved_problems import Logistic, Quadratic, implicit, numbers
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._pytree import tree_map

SEEDS = st.integers(0, 2**32)


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def test_contract():
    def residual(solution, start, batch):
        return tree_map(torch.sub, solution, start)

    check_gradient_mode(ImplicitGradient(residual, ConjugateGradient()), shared=False)


@pytest.mark.parametrize("seed", [0, 1])
def test_finite_differences_by_anchor_shared_weights_and_strength(seed):
    problem = Logistic(seed, num_tasks=2)

    def last(*learned):
        return problem.losses(implicit(steps=6), learned)[0][-1]

    assert torch.autograd.gradcheck(last, problem.learned)


@given(seed=SEEDS)
def test_at_the_solution_unrolled_newton_steps_agree(seed):
    problem = Logistic(seed)
    actual, mode = problem.gradients(implicit(steps=6))
    expected, _ = problem.gradients(lambda residual: unrolled)
    assert (mode.report.residual < 1e-12).all()
    close(actual, expected, 1e-7)


@pytest.mark.parametrize("seed", range(6))
def test_a_batch_is_its_tasks_one_at_a_time(seed):
    problem = Logistic(seed, num_tasks=4)
    with torch.no_grad():
        problem.x[0] = 0  # its Hessian has two eigenvalues: fewer steps than the others take
        problem.x[1] *= 5
    whole, mode = problem.gradients(implicit(steps=9, tolerance=1e-5))
    totals = [torch.zeros_like(leaf) for leaf in problem.learned[2:]]
    for task in range(4):
        rows = slice(task, task + 1)
        alone, own = problem.rows(rows).gradients(implicit(steps=9, tolerance=1e-5))
        close(alone[:2], (whole[0][rows], whole[1][rows]))
        totals = [total + leaf for total, leaf in zip(totals, alone[2:], strict=True)]
        close(own.report.residual, mode.report.residual[rows])
        assert own.report.solve.steps.equal(mode.report.solve.steps[rows])
    close(tuple(totals), whole[2:])
    assert mode.report.solve.steps[0] < mode.report.solve.steps.max()


def test_a_fixed_point_that_is_not_symmetric():
    draw = numbers(0)
    weights, start, x = 0.2 * draw(4, 4), draw(2, 4), draw(2, 4)

    def losses(weights, start, x, mode=None):
        def step(state, item):
            return (state @ weights.mT + 0.3 * start + x).tanh()

        if mode is None:
            mode = ImplicitGradient(lambda now, _, item: now - step(now, item), Neumann(steps=80))
        return mode(step, lambda state: state.cos().sum(1), start, range(80))[0]

    learned = [leaf.requires_grad_() for leaf in (weights, start, x)]
    assert torch.autograd.gradcheck(lambda *leaves: losses(*leaves)[-1], learned)
    one, other = (
        torch.autograd.grad(losses(*learned, mode)[-1].sum(), learned) for mode in (None, unrolled)
    )
    close(one, other, 1e-9)


def test_what_was_not_solved_is_reported():
    problem = Quadratic(0, num_tasks=3)
    mode = ImplicitGradient(problem.residual, ConjugateGradient(steps=2))
    with pytest.raises(RuntimeError, match=r"`report` is of the latest rollout; there was none"):
        mode.report  # noqa: B018
    losses, state = mode(problem.descent, problem.loss, problem.anchor, range(2))
    left = problem.residual(state, problem.anchor, None).norm(dim=1).detach()
    close(mode.report.residual, left)
    assert (left > 0.1).all() and mode.report.solve is None
    early = mode.report
    torch.autograd.grad(losses[-1].sum(), problem.anchor)
    report = mode.report
    assert early.solve is None and report.residual is early.residual
    with pytest.raises(AttributeError):
        report.solve = None
    right = (state - problem.target)[..., None]
    rest = right - problem.matrix @ report.solve.solution[..., None]
    close(report.solve.residual, (rest.norm(dim=1) / right.norm(dim=1))[:, 0], 1e-9)
    assert not any(leaf.requires_grad for leaf in (report.residual, *report.solve))
    mode(problem.exact, problem.loss, problem.anchor, range(1))
    assert (mode.report.residual < 1e-12).all() and mode.report.solve is None
    assert (report.residual == left).all()


def test_indefinite_and_singular_systems_are_reported_and_finite():
    problem = Quadratic(1, num_tasks=3, d=4, rank=9, strength=0.0)
    eigenvalues = torch.tensor([[-1.0, -0.5, 1, 2], [0, 0, 1, 2], [1, 2, 3, 4]]).double()
    vectors = torch.linalg.eigh(problem.hessian)[1]
    problem.hessian = vectors @ torch.diag_embed(eigenvalues) @ vectors.mT
    mode = ImplicitGradient(problem.residual, ConjugateGradient(steps=20))
    losses, _ = mode(lambda phi, _: phi, problem.loss, problem.anchor, range(1))
    (right,) = torch.autograd.grad(losses[-1].sum(), problem.anchor)
    solve = mode.report.solve
    assert solve.negative.tolist() == [True, True, False]
    assert right.isfinite().all() and all(part.isfinite().all() for part in solve)
    assert (solve.residual[:2] > 1e-3).all() and solve.residual[2] < 1e-12


def peak(work):
    """The most bytes held at once, by every allocation and release that torch made."""
    work()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def test_memory_grows_neither_with_inner_steps_nor_with_those_of_the_solver():
    problem = Quadratic(0, num_tasks=2, d=600)

    def used(num_steps, mode):
        return peak(lambda: problem.gradient(mode, problem.descent, num_steps))

    few, many = (
        ImplicitGradient(problem.residual, ConjugateGradient(steps=steps)) for steps in (5, 100)
    )
    once = used(1, few)
    assert once > 10_000 and used(100, few) <= 1.05 * once and used(1, many) <= 1.05 * once
    assert used(100, unrolled) > 3 * once


class Counted(torch.autograd.Function):
    """The identity; tells how often a gradient passed."""

    @staticmethod
    def forward(ctx, value, passes):
        ctx.passes = passes
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.passes.append(gradient)
        return gradient, None


def test_one_graph_serves_every_product_and_nothing_is_computed_twice():
    problem, calls, passes = Quadratic(0), {"residual": 0, "step": 0, "loss": 0}, []

    def counted(name, function):
        def call(*arguments):
            calls[name] += 1
            return function(*arguments)

        return call

    def residual(phi, anchor, batch):
        return Counted.apply(problem.residual(phi, anchor, batch), passes)

    mode = ImplicitGradient(counted("residual", residual), ConjugateGradient(steps=4))
    losses, _ = mode(
        counted("step", problem.descent), counted("loss", problem.loss), problem.anchor, range(7)
    )
    losses[-1].sum().backward()
    assert calls == {"residual": 1, "step": 7, "loss": 7}
    assert len(passes) == 4 + 1  # the products, and the way out to what F depends on


def test_the_losses_before_the_last_are_constants():
    problem = Quadratic(0)
    mode = ImplicitGradient(problem.residual, ConjugateGradient())
    losses, _ = mode(problem.descent, problem.loss, problem.anchor, range(3))
    (gradient,) = torch.autograd.grad(losses[:2].sum(), problem.anchor)
    assert (gradient == 0).all()


def test_a_graph_can_be_used_again_and_is_freed_otherwise():
    problem = Quadratic(0)
    mode = ImplicitGradient(problem.residual, ConjugateGradient())
    losses, _ = mode(problem.descent, problem.loss, problem.anchor, range(3))
    losses[-1].sum().backward(retain_graph=True)
    once = problem.anchor.grad.clone()
    losses[-1].sum().backward()
    close(problem.anchor.grad, 2 * once)
    with pytest.raises(RuntimeError, match="Trying to backward through the graph a second time"):
        losses[-1].sum().backward()


@pytest.mark.parametrize("loss", [Tensor.square, Tensor.clone], ids=["curved", "linear"])
def test_a_second_derivative_is_refused(loss):
    scale, anchor = (torch.ones(2, requires_grad=True) for _ in range(2))
    mode = ImplicitGradient(lambda x, start, _: scale * x + 3 * (x - start), ConjugateGradient())
    losses, _ = mode(lambda x, _: x, loss, anchor, range(1))
    first = torch.autograd.grad(losses.sum(), (scale, anchor), create_graph=True)
    for gradient in first:
        for leaf in (scale, anchor):
            with pytest.raises(RuntimeError, match="An implicit gradient has no second derivative"):
                torch.autograd.grad(gradient.sum(), leaf, retain_graph=True)


def test_without_gradients_there_are_losses_and_a_report_and_no_graph():
    problem = Logistic(0)
    expected, _ = problem.losses(implicit())
    with torch.no_grad():
        losses, mode = problem.losses(implicit())
    close(losses, expected.detach())
    assert not losses.requires_grad and (mode.report.residual < 1e-12).all()


def test_a_tensor_that_stands_twice_in_a_state_is_solved_for_once():
    class Pulled(NamedTuple):
        theta: Tensor
        anchor: Tensor

    both = torch.tensor([1.0, 2.0], requires_grad=True)
    mode = ImplicitGradient(
        lambda solution, start, _: solution.theta - solution.anchor + 3 * solution.theta
        - 3 * start.anchor,
        ConjugateGradient(),
        solved=attrgetter("theta"),
    )  # fmt: skip
    losses, _ = mode(lambda state, _: state, lambda state: state.theta, Pulled(both, both), [0])
    (gradient,) = torch.autograd.grad(losses.sum(), both)
    assert gradient.tolist() == [0.75, 0.75]  # `solution.anchor` is a constant


@pytest.mark.parametrize(
    ("solved", "got"),
    [
        (lambda state: 2 * state["theta"], r"\(2, 3\)"),
        (lambda state: [state["theta"], state["theta"]], r"\[\(2, 3\), \(2, 3\)\]"),
        (lambda state: state["count"], r"\(2,\)"),
        (lambda state: [], r"\[\]"),
        (lambda state: {"a": state["theta"], "b": state["other"]}, "{'a': .*, 'b': .*}"),
        (lambda state: (state["theta"], 1.0), r"\(\(2, 3\), 'float'\)"),
    ],
)
def test_what_cannot_be_solved_for(solved, got):
    start = {"theta": torch.ones(2, 3), "count": torch.ones(2).long(), "other": torch.ones(3)}
    mode = ImplicitGradient(lambda solution, start, _: solution, ConjugateGradient(), solved=solved)
    with pytest.raises(ValueError, match=f"`solved` must give floating leaves .*; got {got}\\.$"):
        mode(lambda state, _: state, lambda state: state["theta"].sum(1), start, [0])


def test_residuals_that_do_not_fit():
    start = torch.ones(2, 3, requires_grad=True)

    def rollout(residual):
        mode = ImplicitGradient(residual, ConjugateGradient())
        losses, _ = mode(lambda x, _: x, lambda x: x.sum(1), start, [0])
        torch.autograd.grad(losses.sum(), start)

    shaped = r"`residual` must be shaped as what is solved for, \(2, 3\); got "
    with pytest.raises(ValueError, match=shaped + r"\(2,\)"):
        rollout(lambda x, start, _: x.sum(1))
    with pytest.raises(ValueError, match=shaped + r"\[\(2, 3\)\]"):
        rollout(lambda x, start, _: [x])
    differentiable = r"`residual` must depend differentiably .* `create_graph=True`"
    with pytest.raises(ValueError, match=differentiable):
        rollout(lambda x, start, _: x.detach())
    with pytest.raises(ValueError, match=differentiable):
        rollout(lambda x, start, _: x.detach() - start)


def test_what_is_solved_for_leads_with_the_tasks_that_have_a_loss():
    start = torch.ones(5, 3, requires_grad=True)
    mode = ImplicitGradient(lambda solution, start, _: solution - start, ConjugateGradient())
    led = r"`solved` must give floating leaves .* that lead with the tasks; got \(5, 3\)\."
    with pytest.raises(ValueError, match=led):
        mode(lambda x, _: x, lambda x: x.sum()[None], start, [0])
