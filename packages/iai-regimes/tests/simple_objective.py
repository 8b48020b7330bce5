"""Objectives of one parameter, "w", whose gradients are known without a network."""

import torch
from iai_regimes import Evidence


class Linear:
    """The gradient is the same everywhere."""

    shared = False

    def __init__(self, gradient):
        self.gradient = gradient

    def loss(self, theta):
        return (self.gradient * theta["w"]).sum(-1)

    def residual(self, theta):
        return theta["w"][:, None]


class Quadratic:
    """Half the squares, each `sizes` times."""

    shared = False

    def __init__(self, sizes):
        self.sizes = sizes

    def loss(self, theta):
        return 0.5 * (self.sizes * theta["w"].square()).sum(-1)

    def residual(self, theta):
        return theta["w"][:, None]


def one_example(num_tasks=1, dtype=torch.float64):
    """Evidence of one observed example in each task, and none before."""
    one = torch.ones(num_tasks, dtype=dtype)
    return Evidence((), one, torch.zeros_like(one), True)


def run(rule, w, gradients):
    """The parameter and the carry after a step for each gradient, every task informed."""
    theta = {"w": w}
    carry = rule.start(theta)
    for gradient in gradients:
        theta, carry = rule.step(theta, carry, one_example(len(w), w.dtype), Linear(gradient))
    return theta["w"], carry
