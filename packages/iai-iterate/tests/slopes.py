"""Tasks y = slope * x + noise, and two regimes that are small enough to check by hand."""

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Examples:
    x: Tensor
    y: Tensor | None
    mask: Tensor

    def __getitem__(self, key):
        values = (getattr(self, field.name) for field in fields(self))
        return Examples(*(value if value is None else value[key] for value in values))


@dataclass(frozen=True, eq=False)
class Drawn:
    support: Examples
    query: Examples
    latent: Any


class Slopes:
    """The latent is a pytree; the query inputs are views of one tensor that belongs to this."""

    def __init__(self, labelled=True):
        self.labelled = labelled
        self.grid = torch.linspace(-1, 1, 64, dtype=torch.float64)[:, None]

    def sample(self, num_tasks, *, num_support, num_query, generator, latent=None):
        def draw(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        if latent is None:
            latent = {"slope": draw(num_tasks, 1), "number": torch.arange(num_tasks)}
        slope = latent["slope"][:, None]

        def label(x):
            return slope * x + 0.1 * draw(*x.shape) if self.labelled else None

        x, query_x = draw(num_tasks, num_support, 1), self.grid[:num_query].expand(num_tasks, -1, 1)
        masks = [torch.ones(num_tasks, n, dtype=torch.bool) for n in (num_support, num_query)]
        support, query = (
            Examples(x, label(x), masks[0]),
            Examples(query_x, label(query_x), masks[1]),
        )
        return Drawn(support, query, latent)


def draw(num_tasks=3, num_support=12, num_query=4, seed=0, masked=0.0, **options):
    generator = torch.Generator().manual_seed(seed)
    counts = {"num_support": num_support, "num_query": num_query}
    drawn = Slopes(**options).sample(num_tasks, **counts, generator=generator)
    observed = torch.rand(num_tasks, num_support, generator=generator) >= masked
    support = Examples(drawn.support.x, drawn.support.y, observed)
    return Drawn(support, drawn.query, drawn.latent)


def observed_first(support):
    """The sets with each task's observed examples in front, task by task."""
    kept = [mask.nonzero()[:, 0].tolist() for mask in support.mask]
    every = range(support.mask.shape[1])
    order = torch.tensor([[*own, *(i for i in every if i not in own)] for own in kept])
    return support[torch.arange(len(kept))[:, None], order]


def zeroed(values, mask):
    """The numbers of what is observed, and 0 in place of padding."""
    return None if values is None else values.masked_fill(~mask[..., None], 0)


class SlopeState(NamedTuple):
    slope: Tensor
    seen: Tensor


class _Loss(nn.Module):
    def loss(self, outputs, query):
        if query.y is None:
            return outputs.square().mean((1, 2))
        errors = zeroed(outputs - zeroed(query.y, query.mask), query.mask).square()[..., 0]
        return errors.sum(1) / query.mask.sum(1).clamp(min=1)

    def validate(self, batch):
        if not bool(torch.isfinite(batch.x[batch.mask]).all()):
            raise ValueError("`x` must be finite; got NaN or infinity.")
        if batch.y is not None and not bool(torch.isfinite(batch.y[batch.mask]).all()):
            raise ValueError("`y` must be finite; got NaN or infinity.")


class Slope(_Loss):
    """The state is the slope; it moves by a learned rate along the gradient."""

    needs_query = False

    def __init__(self):
        super().__init__()
        self.start, self.rate = nn.Parameter(torch.ones(1)), nn.Parameter(torch.tensor(0.5))

    def init(self, num_tasks, query_x=None):
        return SlopeState(self.start.expand(num_tasks, 1), self.start.new_zeros(num_tasks))

    def encode(self, batch):
        x, y = (zeroed(values, batch.mask) for values in (batch.x, batch.y))
        return Examples(x, y, batch.mask)

    def update(self, state, evidence, query_x=None, fresh=True):
        count = evidence.mask.sum(1)
        residual = (state.slope[:, None] * evidence.x - evidence.y) * evidence.mask[..., None]
        gradient = (residual * evidence.x).sum(1) / count.clamp(min=1)[:, None]
        gain = 4 / (state.seen + 4)
        moved = state.slope - self.rate * gain[:, None] * gradient
        return SlopeState(moved, state.seen + count * fresh)

    def predict(self, state, query_x):
        return state.slope[:, None] * query_x


class NamedState(NamedTuple):
    theta: dict[str, Tensor]
    seen: Tensor


class NamedSlope(Slope):
    """The slope and an offset, held in a dict under the names of parameters, dots and all."""

    def init(self, num_tasks, query_x=None):
        slope, seen = super().init(num_tasks)
        return NamedState({"body.0.weight": slope, "body.0.bias": 0 * slope}, seen)

    def update(self, state, evidence, query_x=None, fresh=True):
        plain = SlopeState(state.theta["body.0.weight"], state.seen)
        slope, seen = super().update(plain, evidence, query_x, fresh)
        bias = state.theta["body.0.bias"] + 0.1 * (slope - plain.slope)
        return NamedState({"body.0.weight": slope, "body.0.bias": bias}, seen)

    def predict(self, state, query_x):
        return state.theta["body.0.weight"][:, None] * query_x + state.theta["body.0.bias"][:, None]


class KernelState(NamedTuple):
    answer: Tensor
    seen: Tensor


class KernelEvidence(NamedTuple):
    keys: tuple[Tensor]
    values: Tensor
    mask: Tensor


class Kernel(_Loss):
    """The state is the answer to each query: a mean of the targets, weighted by nearness."""

    needs_query = True

    def __init__(self, dim=5):
        super().__init__()
        self.start, self.features = nn.Parameter(torch.ones(1)), nn.Linear(1, dim)

    def init(self, num_tasks, query_x=None):
        if query_x is None:
            raise ValueError("`query_x` must be given.")
        answer = self.start.expand(num_tasks, query_x.shape[1], 1)
        return KernelState(answer, self.start.new_zeros(num_tasks))

    def encode(self, batch):
        x, y = (zeroed(values, batch.mask) for values in (batch.x, batch.y))
        return KernelEvidence((self.features(x),), y, batch.mask)

    def update(self, state, evidence, query_x, fresh=True):
        count = evidence.mask.sum(1)
        weights = (self.features(query_x) @ evidence.keys[0].mT).sigmoid()
        weights = weights * evidence.mask[:, None]
        total = weights.sum(2, keepdim=True)
        mean = weights @ evidence.values / total.clamp(min=1e-12)
        gain = (count / (state.seen + count).clamp(min=1))[:, None, None]
        answer = torch.where(total > 0, state.answer + gain * (mean - state.answer), state.answer)
        return KernelState(answer, state.seen + count * fresh)

    def predict(self, state, query_x):
        return state.answer
