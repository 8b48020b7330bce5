import gc

import pytest
import torch
from iai_iterate import first_order, rematerialised, reptile, unrolled


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
