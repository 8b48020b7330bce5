"""The contract of a likelihood."""

import torch
from torch import Tensor

from iai_regimes.interfaces import Likelihood
from iai_regimes.testing.comparison import (
    check_near,
    check_refused,
    check_same,
    double,
    in_float32,
    in_float64,
    noise,
    spoilt,
)


def check_likelihood(likelihood: Likelihood, y: Tensor) -> None:
    """Hold a likelihood to its role.

    Each target is judged by its own outputs alone, `residual` is the derivative of `negative_log`,
    and `check` refuses what cannot be, wherever it is observed and only there: NaN, a class out of
    range, a real number for a class or a class for a real number. The loss and its derivative are
    finite at any outputs, +-1,000 among them, in float32 too. What is given is left as it was.

    Args:
        likelihood: What to check.
        y: Targets that can be, at least two tasks of two: `task n y_dim` or `task n`.

    Raises:
        AssertionError: With the sentence that does not hold.

    >>> from iai_regimes import Categorical
    >>> check_likelihood(Categorical(3), torch.tensor([[0, 1], [2, 0]]))
    """
    assert isinstance(likelihood, Likelihood), "A likelihood has every method of its role."
    model, y = in_float64(likelihood), double(y)
    tasks_and_n = tuple(y.shape[:2])
    assert min(tasks_and_n) > 1, f"The suite needs two tasks of two targets; got {tasks_and_n}."
    fits = y.ndim == 3 or not y.is_floating_point()
    assert fits, f"Real targets are `task n y_dim`; got shape {tuple(y.shape)}."
    features = model.features(y)
    assert features.shape == (*tasks_and_n, model.num_features), "Features are `num_features`."
    if model.num_features:
        assert (features != features[:1, :1]).any(), "Different targets have different features."
    _check_loss(model, y)
    _check_far(model, y)
    _check_far(in_float32(likelihood), y.float() if y.is_floating_point() else y)
    _check_refusals(model, y)


def _check_loss(model: Likelihood, y: Tensor) -> None:
    outputs = noise(*y.shape[:2], model.num_outputs).requires_grad_()
    before = y.clone(), outputs.detach().clone()
    losses = model.negative_log(outputs, y)
    assert losses.shape == y.shape[:2], "There is a negative log-likelihood a target."
    assert losses.isfinite().all(), "The loss is finite at any outputs."
    (derivative,) = torch.autograd.grad(losses.sum(), outputs)
    residual = model.residual(outputs, y)
    check_near(residual, derivative, "The residual is the loss's derivative by outputs.")
    check_same((y, outputs), before, "A likelihood leaves outputs and targets as they were.")
    for part in (slice(1, 2), slice(0, 1)):
        alone = model.negative_log(outputs[part, part], y[part, part])
        sentence = "A target has the same loss alone and beside others."
        check_near(alone, losses[part, part], sentence)


def _check_far(model: Likelihood, y: Tensor) -> None:
    """Outputs that no trained model gives, and some untrained ones do."""
    dtype = y.dtype if y.is_floating_point() else torch.get_default_dtype()
    signs = noise(*y.shape[:2], model.num_outputs).sign().to(dtype)
    for outputs in (1e3 * signs, torch.full_like(signs, 1e3), torch.full_like(signs, -1e3)):
        outputs.requires_grad_()
        losses = model.negative_log(outputs, y)
        (derivative,) = torch.autograd.grad(losses.sum(), outputs)
        residual = model.residual(outputs, y)
        where = f"at outputs of +-1,000 in {dtype}"
        assert losses.isfinite().all(), f"The loss is finite {where}."
        assert derivative.isfinite().all(), f"The loss has a finite derivative {where}."
        assert residual.isfinite().all(), f"The residual is finite {where}."


def _check_refusals(model: Likelihood, y: Tensor) -> None:
    mask = torch.ones(y.shape[:2], dtype=torch.bool)
    mask[0, 0] = False
    bad = spoilt(y, mask)
    model.check(y, torch.ones_like(mask))
    model.check(bad, mask)
    check_refused(lambda: model.check(bad, ~mask), "An observed target that cannot be")
    if model.num_features:
        check_refused(lambda: model.check(None, mask), "A set without targets")
        real = y.is_floating_point()
        other = y[..., 0].long() if real else y.double()[..., None]
        what = "A class in place of a real target" if real else "A real number in place of a class"
        check_refused(lambda: model.check(other, torch.ones_like(mask)), what)
