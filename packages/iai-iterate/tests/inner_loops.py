"""Inner loops for gradient modes: nested states, closures that learn, gradients inside a step."""

import torch
from torch import Tensor
from torch.utils._pytree import tree_map


def problem(seed, num_steps):
    """Three tasks whose nested state moves by learned rates; and the tensors that are learned."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    start, rates = {"a": draw(3, 2), "b": (draw(3), [draw(3, 1)])}, draw(num_steps)
    start["count"] = torch.arange(3)

    def step(state, index):
        (b, [c]), rate = state["b"], rates[index]
        a = state["a"] - rate * (state["a"] * c).sin()
        b = (b + rate * a.sum(1), [c * (1 + rate) / (1 + c**2)])
        return {"a": a, "b": b, "count": state["count"] + 1}

    def loss(state):
        return (state["a"].square().sum(1) + state["b"][0]).tanh() * state["count"]

    return step, loss, start, [start["a"], start["b"][0], start["b"][1][0], rates]


def adaptation(seed, *, dropout=0.0):
    """Two tasks adapt by gradients taken inside the step; rates and features are learned outside.

    Returns:
        Step, loss and start; what is learned, leaves and what is made of them; and the leaves.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, y = draw(8, 2, 5, 3), draw(8, 2, 5, 4)
    raw, weight = draw(4).sub(2).requires_grad_(), draw(3, 4).requires_grad_()
    theta = draw(2, 4, 4).requires_grad_()
    rate, features = raw.exp(), (x @ weight).tanh()

    def inner(theta, index):
        hidden = torch.nn.functional.dropout(features[index] @ theta, dropout, dropout > 0)
        return (hidden.sin() - y[index]).square().mean((1, 2)).sum()

    def step(state, index):
        theta, count = state
        create_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            at = theta if theta.requires_grad else theta.detach().requires_grad_()
            (slope,) = torch.autograd.grad(inner(at, index), at, create_graph=create_graph)
        return theta - rate * slope, count + 1

    def loss(state):
        return (features[-1] @ state[0] - y[-1]).square().mean((1, 2))

    start = (theta, torch.zeros(2, dtype=torch.int64))
    return step, loss, start, [theta, rate, features], [theta, raw, weight]


def constant(tree):
    return tree_map(Tensor.detach, tree)


def by_hand(step, loss, start, num_steps, stretch):
    state, losses = start, []
    for index in range(num_steps):
        if index and index % stretch == 0:
            state = constant(state)
        state = step(state, index)
        losses.append(loss(state))
    return torch.stack(losses)


def gradients(losses, learned, **options):
    total = losses.square().sum()
    return torch.autograd.grad(total, learned, materialize_grads=True, **options)
