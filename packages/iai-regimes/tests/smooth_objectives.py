"""Objectives of one parameter, "w", with a known solution; and a linear solver."""

from typing import NamedTuple

import torch
from iai_regimes import Evidence
from iai_regimes.ravel import ravel
from torch import Tensor


class Quadratic:
    """theta' A theta / 2 - b' theta of each task."""

    shared = False

    def __init__(self, matrix, vector):
        self.matrix, self.vector = matrix, vector

    @classmethod
    def draw(cls, num_tasks, size, seed, dtype=torch.float64):
        generator = torch.Generator().manual_seed(seed)
        root = torch.randn(num_tasks, size, size, generator=generator, dtype=dtype)
        vector = torch.randn(num_tasks, size, generator=generator, dtype=dtype)
        return cls(root @ root.mT + 0.1 * torch.eye(size, dtype=dtype), vector)

    def loss(self, theta):
        image = (self.matrix * theta["w"][:, None]).sum(-1)
        return (theta["w"] * (image / 2 - self.vector)).sum(-1)

    def residual(self, theta):
        return theta["w"][:, None]

    def solution(self):
        return torch.linalg.solve(self.matrix, self.vector)


class Rosenbrock:
    """(a - x)^2 + b (y - x^2)^2 of each task, with its minimum at (a, a^2)."""

    shared = False

    def __init__(self, a, b):
        self.a, self.b = a, b

    def loss(self, theta):
        x, y = theta["w"].unbind(-1)
        return (self.a - x) ** 2 + self.b * (y - x**2) ** 2

    def residual(self, theta):
        return theta["w"][:, None]

    def solution(self):
        return torch.stack([self.a, self.a**2], dim=-1)

    def alone(self, task):
        return Rosenbrock(self.a[task : task + 1], self.b[task : task + 1])


class Solve(NamedTuple):
    solution: Tensor
    negative: Tensor


class DenseSolver:
    """Writes the matrix out and solves; where it is indefinite, it has no solution to offer."""

    def __init__(self, damping=0.0):
        self.damping = damping

    def solve(self, product, right):
        num_tasks, size = right.shape
        unit = torch.eye(size, dtype=right.dtype)
        matrix = torch.stack([product(row.expand(num_tasks, -1)) for row in unit], dim=1)
        matrix = (matrix + matrix.mT) / 2 + self.damping * unit
        negative = torch.linalg.eigvalsh(matrix)[:, 0] <= 0
        safe = torch.where(negative[:, None, None], unit, matrix)
        solution = torch.linalg.solve(safe, right)
        return Solve(torch.where(negative[:, None], 0.0, solution), negative)


def evidence(num_tasks, seen=0.0):
    """One observed example in each task."""
    ones = torch.ones(num_tasks, dtype=torch.float64)
    return Evidence((), ones, seen * ones, seen == 0)


def run(rule, objective, theta, num_steps):
    """The vectors of theta after every step, the start first; and the last carry."""
    carry, path = rule.start(theta), [ravel(theta)]
    for index in range(num_steps):
        theta, carry = rule.step(theta, carry, evidence(len(path[0]), float(index)), objective)
        path.append(ravel(theta))
    return path, carry
