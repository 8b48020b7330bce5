"""The contract of a gradient mode."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from iai_iterate.interfaces import GradientMode, Rollout
from iai_iterate.testing.comparison import check_refused, check_same

_ROUNDING = 1e-9
_STEPS = 5
_REPEATS = 8  # a mode that draws one of two things draws the same 8 times in 1 of 128 tests


def check_gradient_mode(mode: GradientMode[Any], *, shared: bool = True) -> None:
    """Checks that a gradient mode does what `Iterated`, or any other training loop, relies on.

    It takes any pytree and reads the minibatches once, in order. Its losses and its last state are
    those of the plain loop, with gradients enabled and without, and the state is detached. The loss
    after a single step has a gradient by the start, and by what the steps share: the weights of a
    learned rule reach a mode through `step` alone, and one that only asks for gradients by the
    state trains none of them. A step that changes the state's structure, shapes or dtypes, or works
    in place, is refused, and so is a rollout without a minibatch. What was given is left as it was.

    A mode that draws, draws from torch's global generators: their states are in a checkpoint, so
    that a run that was stopped goes on with the same draws. From the same states the mode gives the
    same losses and gradients, whatever it did before.

    Which gradients cross several steps is up to the mode, and not checked.

    Args:
        mode: What to check.
        shared: Whether the mode trains what the steps share. False for one that trains the start
            alone, such as `reptile`, or `ImplicitGradient` of an F that does not depend on it.

    Raises:
        AssertionError: With the sentence that does not hold.

    >>> from iai_iterate import truncated
    >>> check_gradient_mode(truncated(3))
    """
    loop = _loop()
    _check_values(mode, loop)
    _check_gradients(mode, loop, shared=shared)
    _check_draws(mode, loop)
    sentence = "A rollout without a minibatch is a ValueError."
    check_refused(lambda: _roll(mode, loop, 0), sentence)
    _check_refusals(mode, loop.start)


class _Nested(NamedTuple):
    parts: dict[str, Any]
    seen: Tensor


class _Loop(NamedTuple):
    """A learned start, and a step with a rate for each minibatch, which the tasks share."""

    start: _Nested
    rates: Tensor
    leaves: list[Tensor]  # of the start; those that are learned

    def step(self, state: _Nested, index: int) -> _Nested:
        a, (b,) = state.parts["a"], state.parts["b"]
        moved = a - self.rates[index] * (a.sin() + b[:, None])
        return _Nested({"a": moved, "b": (b * (1 - self.rates[index]),)}, state.seen + 1)


def _loop() -> _Loop:
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    learned = {"a": draw.requires_grad_(), "b": (draw.detach()[:, 0].clone().requires_grad_(),)}
    rates = torch.linspace(0.1, 0.5, _STEPS, dtype=torch.float64).requires_grad_()
    start = _Nested(learned, torch.zeros(3, dtype=torch.float64))
    return _Loop(start, rates, tree_leaves(learned))


def _loss(state: _Nested) -> Tensor:
    error: Tensor = state.parts["a"] + state.parts["b"][0][:, None]
    return error.square().sum(1) + 0 * state.seen


def _roll(mode: GradientMode[Any], loop: _Loop, steps: int = _STEPS) -> Rollout[_Nested]:
    return mode(loop.step, _loss, loop.start, iter(range(steps)))


def _check_values(mode: GradientMode[Any], loop: _Loop) -> None:
    before = tree_map(lambda leaf: leaf.detach().clone(), loop.start)
    expected, plain = [], loop.start
    for index in range(_STEPS):
        plain = loop.step(plain, index)
        expected.append(_loss(plain))

    losses, state = _roll(mode, loop)
    assert losses.shape == (_STEPS, 3), (
        f"There is a loss a step and task, {(_STEPS, 3)}; got {tuple(losses.shape)}."
    )
    sentence = "The losses are those of the plain loop."
    check_same(losses, torch.stack(expected), sentence, _ROUNDING)
    check_same(state, plain, "The last state is that of the plain loop.", _ROUNDING)
    check_same(loop.start, before, "The start is left as it was.")
    assert not any(leaf.requires_grad for leaf in tree_leaves(state)), "The state is detached."
    with torch.no_grad():
        again, _ = _roll(mode, loop)
    check_same(again, losses, "The losses are the same without gradients.", _ROUNDING)


def _check_gradients(mode: GradientMode[Any], loop: _Loop, *, shared: bool) -> None:
    losses, _ = _roll(mode, loop, 1)
    sentence = "The loss after a single step has a gradient by the start."
    assert losses.requires_grad, sentence
    *of_start, of_rates = _gradients(losses, loop)
    assert all((leaf != 0).any() for leaf in of_start), sentence
    assert not shared or (of_rates != 0).any(), (
        "The loss after a single step has a gradient by the weights that `step` uses; a mode that "
        "trains the start alone says so by `shared=False`."
    )


def _check_draws(mode: GradientMode[Any], loop: _Loop) -> None:
    rollouts = []
    for _ in range(_REPEATS):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            losses, _ = _roll(mode, loop)
        rollouts.append((losses, *_gradients(losses, loop)))
    sentence = (
        "From the same state of torch's generators a mode gives the same losses and gradients: a "
        "generator of its own, or a count of its calls, is in no checkpoint."
    )
    for other in rollouts[1:]:
        check_same(other, rollouts[0], sentence, _ROUNDING)


def _gradients(losses: Tensor, loop: _Loop) -> tuple[Tensor, ...]:
    leaves = [*loop.leaves, loop.rates]
    return torch.autograd.grad(losses.sum(), leaves, materialize_grads=True)


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
