import gc

import pytest
import torch
from iai_iterate import (
    ConjugateGradient,
    ImplicitGradient,
    first_order,
    rematerialised,
    reptile,
    unrolled,
)


def adapt(mode, start, rate):
    """A meta-step whose inner gradients are taken inside the step."""

    def step(state, target):
        with torch.enable_grad():
            at = state if state.requires_grad else state.detach().requires_grad_()
            error = (at - target).square().sum()
            (slope,) = torch.autograd.grad(error, at, create_graph=True)
        return state - rate.exp() * slope

    losses, _ = mode(step, lambda state: state.square().sum(1), start, [1.0, 2.0])
    losses.mean().backward()


def num_tensors():
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


@pytest.mark.parametrize(
    "mode", [first_order, rematerialised, reptile, unrolled], ids=["first", "again", "rep", "un"]
)
def test_thousands_of_meta_steps_leave_nothing_behind(mode, own_errors):
    start, rate = torch.ones(2, 3, requires_grad=True), torch.tensor(-2.0, requires_grad=True)
    adapt(mode, start, rate)
    gc.collect()
    gc.disable()  # what waits for the garbage collector counts as left behind
    try:
        before = num_tensors()
        for _ in range(1000):
            adapt(mode, start, rate)
        assert num_tensors() == before
    finally:
        gc.enable()


def solve(start):
    """A meta-step with an implicit gradient, whose state is nested."""

    def step(state, target):
        return {"w": state["w"] - 0.2 * residual(state, {"w": start}, target)["w"]}

    def residual(state, anchor, target):
        return {"w": state["w"] - target + 3 * (state["w"] - anchor["w"])}

    implicit = ImplicitGradient(residual, ConjugateGradient(steps=20))
    losses, _ = implicit(step, lambda state: state["w"].square().sum(1), {"w": start}, [1.0, 2.0])
    losses[-1].sum().backward()


META_STEPS = {
    "first": lambda start, rate: adapt(first_order, start, rate),
    "again": lambda start, rate: adapt(rematerialised, start, rate),
    "reptile": lambda start, rate: adapt(reptile, start, rate),
    "unrolled": lambda start, rate: adapt(unrolled, start, rate),
    "implicit": lambda start, rate: solve(start),
}


@pytest.mark.parametrize("name", META_STEPS)
def test_a_meta_step_leaves_nothing_to_the_garbage_collector(name, own_errors):
    start, rate = torch.ones(2, 3, requires_grad=True), torch.tensor(-2.0, requires_grad=True)
    META_STEPS[name](start, rate)
    gc.collect()
    gc.disable()
    try:
        META_STEPS[name](start, rate)
        assert gc.collect() == 0
    finally:
        gc.enable()
