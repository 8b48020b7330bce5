"""Inner problems that are solved: quadratics in closed form, heads by Newton's method."""

import copy
from operator import attrgetter
from typing import NamedTuple

import torch
from iai_iterate import ConjugateGradient, ImplicitGradient
from torch import Tensor, nn


def numbers(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


class Quadratic:
    """L(phi) = phi' H phi / 2 - b' phi of each task, kept near an anchor, and what is asked of phi.

    H is what `rank` examples give, so that its smallest eigenvalue is 0 where they are few.
    """

    def __init__(self, seed, *, num_tasks=1, d=20, rank=10, strength=2.0):
        draw = numbers(seed)
        examples = draw(num_tasks, d, rank)
        self.hessian = examples @ examples.mT / rank
        self.b, self.anchor, self.target = (draw(num_tasks, d) for _ in range(3))
        self.anchor.requires_grad_()
        self.strength = strength
        self.matrix = self.hessian + strength * torch.eye(d, dtype=torch.float64)
        self.rate = 1 / torch.linalg.eigvalsh(self.matrix)[:, -1:]

    def residual(self, phi, anchor, batch):
        pull = self.strength * (phi - anchor)
        return (self.hessian @ phi[..., None])[..., 0] - self.b + pull

    def descent(self, phi, batch):
        return phi - self.rate * self.residual(phi, self.anchor, batch)

    def exact(self, phi, batch):
        return torch.linalg.solve(self.matrix, self.b + self.strength * self.anchor)

    def loss(self, phi):
        return (phi - self.target).square().sum(1) / 2

    def gradient(self, mode, step, num_steps=1):
        losses, _ = mode(step, self.loss, self.anchor, range(num_steps))
        return torch.autograd.grad(losses[-1].sum(), self.anchor)[0]

    def closed_form(self):
        phi = self.exact(None, None).detach()
        return self.strength * torch.linalg.solve(self.matrix, phi - self.target)


class Head(NamedTuple):
    head: dict[str, Tensor]
    seen: Tensor


class Logistic:
    """Tasks fit a linear head, by Newton's method, on features that they share.

    Learned are the head's anchor, the features' weights, and the strength of the pull. The second
    leaf that is solved for has the shape `task`.
    """

    def __init__(self, seed, num_tasks=3, d=3):
        draw = numbers(seed)
        self.x, self.query_x = draw(num_tasks, 7, 2), draw(num_tasks, 5, 2)
        self.y, self.query_y = (draw(num_tasks, n).sign() for n in (7, 5))
        self.learned = (draw(num_tasks, d), draw(num_tasks), draw(2, d), draw(1).squeeze())
        for leaf in self.learned:
            leaf.requires_grad_()

    def rows(self, rows):
        """One of the tasks, with leaves of its own."""
        part = copy.copy(self)
        for name in ("x", "y", "query_x", "query_y"):
            setattr(part, name, getattr(self, name)[rows])
        anchors, shared = self.learned[:2], self.learned[2:]
        leaves = (*(leaf[rows] for leaf in anchors), *shared)
        part.learned = tuple(leaf.detach().requires_grad_() for leaf in leaves)
        return part

    def losses(self, make_mode, learned=None, num_steps=8):
        w, b, weights, raw = self.learned if learned is None else learned
        start = Head({"w": w, "b": b}, torch.zeros_like(b, dtype=torch.int64))

        def margins(head, x, y):
            features = (x @ weights).tanh()
            return y * ((features @ head["w"][..., None])[..., 0] + head["b"][:, None])

        def residual(solution, start, item):
            parts = list(solution.head.values())
            fit = -nn.functional.logsigmoid(margins(solution.head, self.x, self.y)).mean(1)
            pull = sum(
                (one - other).square().reshape(len(b), -1).sum(1)
                for one, other in zip(parts, start.head.values(), strict=True)
            )
            total = (fit + raw.exp() / 2 * pull).sum()
            slopes = torch.autograd.grad(total, parts, create_graph=True)
            return dict(zip(solution.head, slopes, strict=True))

        def newton(state, item):
            ones = torch.ones_like(self.y)[..., None]
            inputs = torch.cat([(self.x @ weights).tanh(), ones], 2)
            u = torch.cat([state.head["w"], state.head["b"][:, None]], 1)
            anchor = torch.cat([w, b[:, None]], 1)
            wrong = (-margins(state.head, self.x, self.y)).sigmoid()
            slope = -(inputs * (self.y * wrong)[..., None]).mean(1) + raw.exp() * (u - anchor)
            curvature = inputs.mT @ ((wrong * (1 - wrong))[..., None] * inputs) / len(self.y[0])
            curvature = curvature + raw.exp() * torch.eye(u.shape[1], dtype=u.dtype)
            u = u - torch.linalg.solve(curvature, slope)
            return Head({"w": u[:, :-1], "b": u[:, -1]}, state.seen + 1)

        def loss(state):
            asked = margins(state.head, self.query_x, self.query_y)
            return -nn.functional.logsigmoid(asked).mean(1)

        mode = make_mode(residual)
        return mode(newton, loss, start, range(num_steps))[0], mode

    def gradients(self, make_mode):
        losses, mode = self.losses(make_mode)
        return torch.autograd.grad(losses[-1].sum(), self.learned), mode


def implicit(**options):
    """What makes a mode of the residual of `Logistic`."""
    solver = ConjugateGradient(**options)
    return lambda residual: ImplicitGradient(residual, solver, solved=attrgetter("head"))
