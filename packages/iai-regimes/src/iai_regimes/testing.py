"""Contract suites for anyone who writes a likelihood, a rule or a regime: one call in a test.

Each suite asks for results that the role makes equal, and raises AssertionError with the sentence
of the role that does not hold. It works in float64 on a copy, in evaluation mode, on the CPU. A
rule is held to its role inside a regime: check `Parametric(predictor, likelihood, rule)`.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from iai_regimes.interfaces import Examples, Likelihood, Solver


def check_likelihood(likelihood: Likelihood, y: Tensor) -> None:
    """Hold a likelihood to its role.

    Each target is judged by its own outputs alone, `residual` is the derivative of `negative_log`,
    and `check` refuses what cannot be, wherever it is observed and only there.

    Args:
        likelihood: What to check.
        y: Targets that can be, at least two tasks of two: `task n y_dim` or `task n`.

    Raises:
        AssertionError: With the sentence that does not hold.

    Example:
        >>> from iai_regimes import Categorical
        >>> check_likelihood(Categorical(3), torch.tensor([[0, 1], [2, 0]]))
    """
    assert isinstance(likelihood, Likelihood), "A likelihood has every method of its role."
    model, y = _in_float64(likelihood), _double(y)
    tasks_and_n = tuple(y.shape[:2])
    assert min(tasks_and_n) > 1, f"The suite needs two tasks of two targets; got {tasks_and_n}."
    generator = torch.Generator().manual_seed(0)
    shape = (*tasks_and_n, model.num_outputs)
    outputs = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    losses = model.negative_log(outputs, y)

    assert losses.shape == tasks_and_n, "There is a negative log-likelihood a target."
    assert losses.isfinite().all(), "The loss is finite at any outputs."
    features = model.features(y)
    assert features.shape == (*tasks_and_n, model.num_features), "Features are `num_features`."
    if model.num_features:
        assert (features != features[:1, :1]).any(), "Different targets have different features."
    (derivative,) = torch.autograd.grad(losses.sum(), outputs)
    _check_equal(
        model.residual(outputs, y), derivative, "The residual is the loss's derivative by outputs."
    )
    for part in (slice(1, 2), slice(0, 1)):
        _check_equal(
            model.negative_log(outputs[part, part], y[part, part]),
            losses[part, part],
            "A target has the same loss alone and beside others.",
        )
    mask = torch.ones(tasks_and_n, dtype=torch.bool)
    mask[0, 0] = False
    bad = y.masked_fill(~_spread(mask, y), _impossible(y))
    model.check(y, torch.ones_like(mask))
    model.check(bad, mask)
    _check_refuses(lambda: model.check(bad, ~mask), "An observed target that cannot be")
    if model.num_features:
        _check_refuses(lambda: model.check(None, mask), "A set without targets")


def check_regime(regime: Any, support: Examples, query: Examples) -> None:
    """Hold a regime, an `nn.Module`, to its role.

    The order of a minibatch, its padding (NaN included), the other queries and the other tasks
    change no answer; an empty minibatch changes nothing at all; `seen` counts distinct examples;
    one step gives every parameter a finite gradient; adapting needs no gradients to be enabled. Of
    a rule that is a `Solver`, the residual has the same promises.
    The weights of the copy are moved off their start a little, so that a rule that does nothing at
    first shows what it does.

    Args:
        regime: What to check.
        support: At least two tasks of four examples, all observed.
        query: At least two queries to each task, all observed.

    Raises:
        AssertionError: With the sentence that does not hold.

    Example:
        >>> from typing import NamedTuple
        >>> from iai_regimes import Adam, Gaussian, Parametric, Predictor
        >>> class Examples(NamedTuple):
        ...     x: Tensor
        ...     y: Tensor
        ...     mask: Tensor
        >>> x = torch.linspace(-1, 1, 24).reshape(2, 4, 3)
        >>> examples = Examples(x, x[..., :1] ** 2, torch.ones(2, 4, dtype=torch.bool))
        >>> regime = Parametric(Predictor(nn.Linear(3, 1)), Gaussian(1, scale=1.0), Adam(0.1))
        >>> check_regime(regime, examples, examples)
    """
    assert isinstance(regime, nn.Module), "A regime is an nn.Module."
    model = _in_float64(regime)
    support, query = _own(support), _own(query)
    num_tasks, num_examples = support.mask.shape
    assert num_tasks > 1 and num_examples > 3 and query.mask.shape[1] > 1, (
        "The suite needs two tasks of four examples and two queries."
    )
    assert support.mask.all() and query.mask.all(), "The suite needs examples that are observed."
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.1 * noise)

    run = _Run(model, query.x)
    _check_state(run, support, query)
    _check_invariances(run, support, query)
    _check_padding(run, support, query)
    _check_gradients(run, support, query)
    _check_validation(model, support)
    if isinstance(getattr(model, "rule", None), Solver):
        _check_residual(run, support)


@dataclass(frozen=True)
class _Set:
    x: Tensor
    y: Tensor | None
    mask: Tensor

    def __getitem__(self, key: Any) -> "_Set":
        return _Set(self.x[key], None if self.y is None else self.y[key], self.mask[key])


class _Run(NamedTuple):
    model: Any
    query_x: Tensor

    def start(self) -> Any:
        return self.model.init(self.query_x.shape[0], self.query_x)

    def read(self, state: Any, *batches: _Set, fresh: bool = True) -> Any:
        for batch in batches:
            state = self.model.update(state, self.model.encode(batch), self.query_x, fresh)
        return state

    def answer(self, state: Any) -> Tensor:
        outputs: Tensor = self.model.predict(state, self.query_x)
        return outputs

    def answers(self, *batches: _Set) -> Tensor:
        return self.answer(self.read(self.start(), *batches))


def _check_state(run: _Run, support: _Set, query: _Set) -> None:
    model, num_tasks = run.model, run.query_x.shape[0]
    start = run.start()
    first, second = support[:, :2], support[:, 2:]
    for leaf in tree_leaves(start):
        assert isinstance(leaf, Tensor), f"A state is a pytree of tensors; got {type(leaf)}."
        assert leaf.shape[0] == num_tasks, "Each tensor of a state leads with the tasks."
    _check_same(start.seen, torch.zeros(num_tasks), "A start has seen nothing.")
    before = tree_map(Tensor.clone, start)
    state = run.read(start, first)
    _check_same(start, before, "An update leaves the state that it is given as it was.")
    _check_same(state.seen, torch.full((num_tasks,), 2), "`seen` counts the examples read.")
    again = run.read(state, first, fresh=False)
    _check_same(again.seen, state.seen, "Examples read again add nothing to `seen`.")
    state = run.read(state, second)

    outputs = run.answer(state)
    assert outputs.shape[:2] == query.mask.shape, "There is an answer a query."
    assert outputs.dtype == torch.float64, "Answers have the dtype of the model."
    losses = model.loss(outputs, query)
    assert losses.shape == (num_tasks,), "There is a loss a task."
    assert losses.isfinite().all(), "Losses are finite."
    moved = (run.answers(support) - run.answer(start)).abs().amax(dim=(1, 2)) > 1e-9
    assert moved.all(), "A minibatch moves the answers of its task."

    sentence = "A minibatch without an observed example changes nothing."
    hidden = replace(support, mask=torch.zeros_like(support.mask))
    for of in (start, state):
        for empty in (support[:, :0], hidden):
            for fresh in (True, False):
                _check_same(run.read(of, empty, fresh=fresh), of, sentence)
    with torch.no_grad():
        _check_equal(
            run.answers(first, second), outputs, "Adapting needs no gradients to be enabled."
        )


def _check_invariances(run: _Run, support: _Set, query: _Set) -> None:
    model, query_x = run.model, run.query_x
    answers = run.answers(support[:, :2], support[:, 2:])
    order = torch.arange(support.mask.shape[1]).flip(0)
    _check_equal(
        run.answers(support[:, order]),
        run.answers(support),
        "The order of a minibatch changes no answer.",
    )
    losses = model.loss(answers, query)
    for task in range(query_x.shape[0]):
        one = slice(task, task + 1)
        alone = _Run(model, query_x[one])
        sentence = "A task has the same answers alone and in a batch."
        _check_equal(alone.answers(support[one, :2], support[one, 2:]), answers[one], sentence)
        _check_equal(
            model.loss(answers[one], query[one]),
            losses[one],
            "A task has the same loss alone and in a batch.",
        )
    for subset in ([1], [1, 0]):
        _check_equal(
            _Run(model, query_x[:, subset]).answers(support[:, :2], support[:, 2:]),
            answers[:, subset],
            "A subset of the queries has the same answers.",
        )
    if model.needs_query:
        _check_refuses(lambda: model.init(query_x.shape[0], None), "A start without its queries")
        return
    state = model.init(query_x.shape[0], None)
    for batch in (support[:, :2], support[:, 2:]):
        state = model.update(state, model.encode(batch), None, True)
    _check_equal(
        run.answer(state), answers, "A state that needs no query is the same whatever the query."
    )


def _check_padding(run: _Run, support: _Set, query: _Set) -> None:
    mask = support.mask.clone()
    mask[0, 1] = mask[1, 2:] = False
    padded = _pad(support, mask)
    sentence = "A masked example, NaN included, changes no answer."
    answers = run.answers(padded)
    _check_equal(answers[:1], _alone(run, support, 0, [0, *range(2, mask.shape[1])]), sentence)
    _check_equal(answers[1:2], _alone(run, support, 1, [0, 1]), sentence)
    _check_equal(answers[2:], run.answers(support)[2:], sentence)

    answers = run.answers(support)
    hidden = torch.ones_like(query.mask)
    hidden[0, 0] = False
    _check_equal(
        run.model.loss(answers, _pad(query, hidden))[:1],
        run.model.loss(answers[:1, 1:], query[:1, 1:]),
        "A masked query changes no loss.",
    )
    nothing = _pad(query, torch.zeros_like(query.mask))
    assert run.model.loss(answers, nothing).isfinite().all(), "A loss on no queries is finite."


def _check_gradients(run: _Run, support: _Set, query: _Set) -> None:
    mask, hidden = support.mask.clone(), query.mask.clone()
    mask[0, 1] = hidden[0, 0] = False
    outputs = run.answers(_pad(support, mask))
    losses = run.model.loss(outputs, _pad(query, hidden))
    trained = {name: p for name, p in run.model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(losses.sum(), list(trained.values()), allow_unused=True)
    for name, gradient in zip(trained, gradients, strict=True):
        assert gradient is not None, f"One step gives every parameter a gradient; {name} has none."
        assert gradient.isfinite().all(), (
            f"Gradients are finite, whatever padding holds; that of {name} is not."
        )


def _check_residual(run: _Run, support: _Set) -> None:
    model, start = run.model, run.start()
    state = run.read(start, support)
    residual = model.residual(state, start, (support, True))
    assert residual.shape == state.theta.shape, "A residual has the shape of what is adapted."
    _check_equal(
        model.residual(state, start, (support, False)),
        residual,
        "A residual is the same whether or not the minibatch is fresh.",
    )
    theta = state.theta.detach().requires_grad_()
    followed = model.residual(state._replace(theta=theta), start, (support, True))
    (gradient,) = torch.autograd.grad(followed.sum(), theta, allow_unused=True)
    assert gradient is not None, "Gradients flow through a residual to what is adapted."
    one = slice(0, 1)
    alone = _Run(model, run.query_x[one])
    mask = support.mask.clone()
    mask[0, 1] = False
    padded = _pad(support, mask)
    kept = padded[one, [0, *range(2, mask.shape[1])]]
    _check_equal(
        model.residual(alone.read(alone.start(), kept), alone.start(), (kept, True)),
        model.residual(run.read(start, padded), start, (padded, True))[one],
        "A task has the same residual alone, and without its padding.",
    )


def _check_validation(model: Any, support: _Set) -> None:
    mask = support.mask.clone()
    mask[0, 1] = False
    padded = _pad(support, mask)
    model.validate(support)
    model.validate(padded)
    _check_refuses(
        lambda: model.validate(replace(support, x=padded.x)), "An observed input that is NaN"
    )
    if support.y is not None:
        _check_refuses(
            lambda: model.validate(replace(support, y=padded.y)),
            "An observed target that cannot be",
        )


def _alone(run: _Run, support: _Set, task: int, kept: list[int]) -> Tensor:
    one = slice(task, task + 1)
    return _Run(run.model, run.query_x[one]).answers(support[one, kept])


def _in_float64(thing: Any) -> Any:
    thing = copy.deepcopy(thing)
    return thing.cpu().double().eval() if isinstance(thing, nn.Module) else thing


def _double(values: Tensor) -> Tensor:
    return values.detach().cpu().to(torch.float64 if values.is_floating_point() else values.dtype)


def _own(examples: Examples) -> _Set:
    y = None if examples.y is None else _double(examples.y)
    return _Set(_double(examples.x), y, examples.mask.cpu())


def _pad(examples: _Set, mask: Tensor) -> _Set:
    x = examples.x.masked_fill(~_spread(mask, examples.x), torch.nan)
    if examples.y is None:
        return _Set(x, None, mask)
    y = examples.y
    return _Set(x, y.masked_fill(~_spread(mask, y), _impossible(y)), mask)


def _impossible(y: Tensor) -> float | int:
    return torch.nan if y.is_floating_point() else -(10**6)


def _spread(mask: Tensor, values: Tensor) -> Tensor:
    return mask.reshape(*mask.shape, *[1] * (values.dim() - 2))


def _check_same(actual: Any, expected: Any, sentence: str) -> None:
    pairs = zip(tree_leaves(actual), tree_leaves(expected), strict=True)
    assert all(bool((one == other).all()) for one, other in pairs), sentence


def _check_equal(actual: Tensor, expected: Tensor, sentence: str) -> None:
    torch.testing.assert_close(
        actual, expected, rtol=1e-9, atol=1e-10, msg=lambda details: f"{sentence}\n{details}"
    )


def _check_refuses(call: Callable[[], object], what: str) -> None:
    try:
        call()
    except ValueError:
        return
    raise AssertionError(f"{what} raises ValueError.")
