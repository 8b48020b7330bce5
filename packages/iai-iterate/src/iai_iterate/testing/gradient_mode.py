"""The contract of a gradient mode."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from iai_iterate.interfaces import GradientMode
from iai_iterate.testing.comparison import check_refused, check_same

_ROUNDING = 1e-9
_STEPS = 5


def check_gradient_mode(mode: GradientMode[Any]) -> None:
    """Checks that a gradient mode does what `Iterated`, or any other training loop, relies on.

    It takes any pytree and reads the minibatches once, in order. Its losses and its last state are
    those of the plain loop, with gradients enabled and without, and the state is detached. The loss
    after a single step has a gradient by the start. A step that changes the state's structure,
    shapes or dtypes, or works in place, is refused, and so is a rollout without a minibatch. What
    was given is left as it was.

    Which gradients cross several steps is up to the mode, and not checked.

    Args:
        mode: What to check.

    Raises:
        AssertionError: With the sentence that does not hold.

    >>> from iai_iterate import truncated
    >>> check_gradient_mode(truncated(3))
    """
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    learned = {"a": draw.requires_grad_(), "b": (draw.detach()[:, 0].clone().requires_grad_(),)}
    rates = torch.linspace(0.1, 0.5, _STEPS, dtype=torch.float64).requires_grad_()

    def step(state: _Nested, index: int) -> _Nested:
        a, (b,) = state.parts["a"], state.parts["b"]
        moved = a - rates[index] * (a.sin() + b[:, None])
        return _Nested({"a": moved, "b": (b * (1 - rates[index]),)}, state.seen + 1)

    start = _Nested(learned, torch.zeros(3, dtype=torch.float64))
    before = tree_map(lambda leaf: leaf.detach().clone(), start)
    expected, plain = [], start
    for index in range(_STEPS):
        plain = step(plain, index)
        expected.append(_loss(plain))

    losses, state = mode(step, _loss, start, iter(range(_STEPS)))
    assert losses.shape == (_STEPS, 3), (
        f"There is a loss a step and task, {(_STEPS, 3)}; got {tuple(losses.shape)}."
    )
    sentence = "The losses are those of the plain loop."
    check_same(losses, torch.stack(expected), sentence, _ROUNDING)
    check_same(state, plain, "The last state is that of the plain loop.", _ROUNDING)
    check_same(start, before, "The start is left as it was.")
    assert not any(leaf.requires_grad for leaf in tree_leaves(state)), "The state is detached."
    single, _ = mode(step, _loss, start, iter(range(1)))
    sentence = "The loss after a single step has a gradient by the start."
    assert single.requires_grad, sentence
    of_start = torch.autograd.grad(single.sum(), tree_leaves(learned), materialize_grads=True)
    assert all((leaf != 0).any() for leaf in of_start), sentence
    with torch.no_grad():
        again, _ = mode(step, _loss, start, iter(range(_STEPS)))
    check_same(again, losses, "The losses are the same without gradients.", _ROUNDING)
    sentence = "A rollout without a minibatch is a ValueError."
    check_refused(lambda: mode(step, _loss, start, iter(())), sentence)
    _check_refusals(mode, start)


class _Nested(NamedTuple):
    parts: dict[str, Any]
    seen: Tensor


def _loss(state: _Nested) -> Tensor:
    error: Tensor = state.parts["a"] + state.parts["b"][0][:, None]
    return error.square().sum(1) + 0 * state.seen


def _check_refusals(mode: GradientMode[Any], start: _Nested) -> None:
    def zeros(state: Any) -> Tensor:
        return torch.zeros(3, dtype=torch.float64)

    def count_in_place(state: _Nested, _: int) -> _Nested:
        state.seen.add_(1)
        return state

    changed = "A step that changes a state's structure, shapes or dtypes is a ValueError."
    steps = {
        lambda state, _: state._replace(parts=[state.parts["a"], state.parts["b"]]): changed,
        lambda state, _: state._replace(seen=state.seen[:, None]): changed,
        lambda state, _: state._replace(seen=state.seen.float()): changed,
        count_in_place: "A step that changes the state that it is given in place is a ValueError.",
    }
    for step, sentence in steps.items():
        spare = start._replace(seen=start.seen.clone())
        check_refused(lambda: mode(step, zeros, spare, iter(range(1))), sentence)  # noqa: B023
