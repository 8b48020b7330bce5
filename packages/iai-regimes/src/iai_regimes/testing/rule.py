"""The contract of a rule."""

from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from iai_regimes.interfaces import Examples, Likelihood, Rule, Solver, Theta
from iai_regimes.predictor import Predictor
from iai_regimes.ravel import ravel, unravel
from iai_regimes.regimes.parametric import AdaptedState, Parametric
from iai_regimes.testing.comparison import (
    check_near,
    check_same,
    double,
    in_float64,
    noise,
    shifted,
    spoilt,
)


def check_rule(rule: Rule, predictor: Predictor, likelihood: Likelihood, support: Examples) -> None:
    """Hold a rule to its role, on a predictor that it adapts.

    A step keeps the names, shapes and dtypes of theta and the structure of the carry, changes
    nothing that it is given, and works with gradients disabled. A task without an observed example
    keeps its theta and its carry. The order of a minibatch, its padding (NaN included) and the
    other tasks change nothing, neither in values nor in gradients. A step depends on what it is
    given alone: what it counts or remembers is in the carry, so that a run that was stopped goes on
    as it would have. A step gives every weight a finite gradient, also beside a task without an
    observed example. The residual of a `Solver` has the names and shapes of theta, and a gradient
    by it. The weights of the copy are moved a little, so that a learned rule that starts at zero
    moves theta.

    Args:
        rule: What to check.
        predictor: What it adapts; the rule may have been built for it.
        likelihood: Of the targets.
        support: At least two tasks of four examples with targets, all observed.

    Raises:
        AssertionError: With the sentence that does not hold.

    >>> from typing import NamedTuple
    >>> from iai_regimes import Adam, Gaussian
    >>> from torch import nn
    >>> class Examples(NamedTuple):
    ...     x: Tensor
    ...     y: Tensor
    ...     mask: Tensor
    >>> x = torch.linspace(-1, 1, 24).reshape(2, 4, 3)
    >>> examples = Examples(x, x[..., :1] ** 2, torch.ones(2, 4, dtype=torch.bool))
    >>> check_rule(Adam(0.1), Predictor(nn.Linear(3, 1)), Gaussian(1, scale=1.0), examples)
    """
    assert isinstance(rule, Rule), "A rule has the methods `start`, `encode` and `step`."
    assert support.y is not None, "The suite needs targets."
    examples = _Set(double(support.x), double(support.y), support.mask.cpu())
    num_tasks, num_examples = examples.mask.shape
    enough = num_tasks > 1 and num_examples > 3 and bool(examples.mask.all())
    assert enough, "The suite needs two tasks of four examples, all observed."
    model = in_float64(Parametric(predictor, likelihood, rule))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * noise(*parameter.shape))
    _check_step(model, examples)
    _check_nothing(model, examples)
    _check_company(model, examples)
    _check_gradients(model, examples)
    if isinstance(model.rule, Solver):
        _check_residual(model, examples)


class _Set(NamedTuple):
    x: Tensor
    y: Tensor
    mask: Tensor

    def at(self, *index: Any) -> "_Set":
        return _Set(*(field[index] for field in self))

    def padded(self, *hidden: Any, finite: bool = False) -> "_Set":
        """The set without the examples of these indices, where x and y become impossible.

        With `finite` they become other numbers and stay possible: only the mask tells them apart.
        """
        mask, change = self.mask.clone(), shifted if finite else spoilt
        for index in hidden:
            mask[index] = False
        return _Set(change(self.x, mask), change(self.y, mask), mask)


def _read(model: Parametric, *batches: _Set) -> AdaptedState:
    state = model.init(len(batches[0].mask))
    for batch in batches:
        state = model.update(state, model.encode(batch))
    return state


def _check_step(model: Parametric, support: _Set) -> None:
    num_tasks = len(support.mask)
    start = model.init(num_tasks)
    for leaf in tree_leaves(start.carry):
        led = isinstance(leaf, Tensor) and leaf.shape[:1] == (num_tasks,)
        got = f"shape {tuple(leaf.shape)}" if isinstance(leaf, Tensor) else repr(leaf)
        sentence = "A carry is a pytree of tensors that lead with the tasks, () to carry nothing"
        assert led, f"{sentence}; got {got}."
    before = tree_map(Tensor.clone, start)
    state = model.update(start, model.encode(support))
    check_same(start, before, "A step leaves theta and the carry as they were.")
    same = _kinds(state) == _kinds(start)
    assert same, "A step keeps the names, shapes and dtypes of theta and of the carry."
    again = model.update(start, model.encode(support))
    sentence = "From the same theta, carry and minibatch a step leads to the same, bit for bit."
    check_same(again, state, sentence)
    moved = (ravel(state.theta) - ravel(start.theta)).abs().amax(1) > 1e-9
    assert moved.all(), "A minibatch moves theta in each of its tasks."
    sentence = "A step needs no gradients to be enabled."
    with torch.no_grad():
        try:
            constant = _read(model, support)
        except RuntimeError as error:  # torch's own, of a step that differentiates by theta itself
            raise AssertionError(f"{sentence}\n{error}") from error
        check_near(constant, state, sentence)


def _check_nothing(model: Parametric, support: _Set) -> None:
    sentence = "A task without an observed example keeps its theta and its carry."
    none, finite = support.at(slice(None), slice(0)), support.padded(..., finite=True)
    nothing = (none, support.padded(...), finite)
    for state in (model.init(len(support.mask)), _read(model, support)):
        for empty, fresh in product(nothing, (True, False)):
            check_same(model.update(state, model.encode(empty), fresh=fresh), state, sentence)
        partly = model.update(state, model.encode(support.padded(0)))
        check_same(_task(partly, 0), _task(state, 0), sentence)


def _check_company(model: Parametric, support: _Set) -> None:
    """Order, padding and the other tasks change nothing."""
    backwards = _Set(*(field.flip(1) for field in support))
    sentence = "The order of a minibatch changes nothing."
    check_near(_read(model, backwards), _read(model, support), sentence)
    sentence = "A task moves alike alone and in a batch, with and without padding (NaN, say)."
    for finite in (True, False):
        padded = support.padded((0, 1), (1, slice(2, None)), finite=finite)
        state = _read(model, padded, support)
        for task in range(len(support.mask)):
            rows, kept = slice(task, task + 1), padded.mask[task].nonzero()[:, 0]
            alone = _read(model, support.at(rows, kept), support.at(rows))
            check_near(_task(state, task), alone, sentence)


def _check_gradients(model: Parametric, support: _Set) -> None:
    padded = support.padded((0, 1))
    state = _read(model, padded)
    losses = model.loss(model.predict(state, support.x), padded)
    for name, gradient in _gradients(model, losses).items():
        assert gradient is not None, f"A step gives every weight a gradient; {name} has none."
        finite = bool(gradient.isfinite().all())
        assert finite, f"Gradients are finite, whatever padding holds; that of {name} is not."
    partly = _read(model, support.padded(0), support)
    losses = model.loss(model.predict(partly, support.x), support)
    for name, gradient in _gradients(model, losses).items():
        finite = gradient is None or bool(gradient.isfinite().all())
        sentence = "Gradients are finite where a task's own gradient is 0, as without an example"
        assert finite, f"{sentence}; that of {name} is not."

    at, point = _beside(state)
    _check_apart(model.update(at, model.encode(padded)).theta, point)


def _gradients(model: Parametric, losses: Tensor) -> dict[str, Tensor | None]:
    """Those of the sum by the weights that are trained; None for one that it does not depend on."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(losses.sum(), list(trained.values()), allow_unused=True)
    return dict(zip(trained, gradients, strict=True))


def _check_residual(model: Parametric, support: _Set) -> None:
    start, state = model.init(len(support.mask)), _read(model, support)
    at, point = _beside(state)
    residual = model.residual(at, start, (support, True))
    same = _kinds(residual) == _kinds(state.theta)
    assert same, "A residual has the names, shapes and dtypes of theta."
    sentence = "Gradients flow through a residual to theta."
    assert ravel(residual).requires_grad, sentence
    assert _check_apart(residual, point).any(), sentence
    kept = support.at(slice(1), [0, *range(2, support.mask.shape[1])])
    alone = model.residual(_task(state, 0), _task(start, 0), (kept, True))
    together = model.residual(state, start, (support.padded((0, 1)), True))
    sentence = "A task has the same residual alone, and without its padding."
    check_near(_task(together, 0), alone, sentence)


def _beside(state: AdaptedState) -> tuple[AdaptedState, Tensor]:
    """The state as a function of the vectors of theta, and these, to take gradients by."""
    point = ravel(state.theta).detach().requires_grad_()
    return state._replace(theta=unravel(point, state.theta)), point


def _check_apart(theta: Theta, point: Tensor) -> Tensor:
    """The gradient of a task's numbers by its own vector."""
    total = ravel(theta)[0].sum()
    (gradient,) = torch.autograd.grad(total, point, materialize_grads=True)
    assert not gradient[1:].any(), "No gradient flows from a task to another."
    return gradient[0]


def _task(tree: Any, index: int) -> Any:
    return tree_map(lambda leaf: leaf[index : index + 1], tree)


def _kinds(tree: Any) -> Any:
    leaves, structure = tree_flatten(tree)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]
