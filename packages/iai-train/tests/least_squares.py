"""Tasks and a learner that are small enough to check: one weight vector a task, no noise."""

import contextlib
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import attrs
import torch
from iai_train import FitConfig, FitResult, SamplerSource, fit
from torch import Tensor, nn


@attrs.frozen(eq=False)
class Examples:
    x: Tensor
    y: Tensor
    mask: Tensor

    def __getitem__(self, rows: slice) -> "Examples":
        return Examples(self.x[rows], self.y[rows], self.mask[rows])


@attrs.frozen(eq=False)
class Batch:
    support: Examples
    query: Examples

    def __getitem__(self, rows: slice) -> "Batch":
        return Batch(self.support[rows], self.query[rows])


class Weights(NamedTuple):
    theta: Tensor
    seen: Tensor


class Regression:
    """y = x . w with w ~ N(0, 1)."""

    def __init__(self, dim: int = 2) -> None:
        self.dim = dim

    def sample(
        self, num_tasks: int, *, num_support: int, num_query: int, generator: torch.Generator
    ) -> Batch:
        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device=generator.device)

        w = draw(num_tasks, self.dim, 1)

        def examples(n: int) -> Examples:
            x = draw(num_tasks, n, self.dim)
            return Examples(x, x @ w, torch.ones(num_tasks, n, dtype=torch.bool, device=x.device))

        return Batch(examples(num_support), examples(num_query))


@attrs.frozen(eq=False)
class Stage:
    step: int
    seen: Tensor
    theta: Tensor

    def predict(self, query_x: Tensor) -> Tensor:
        return query_x @ self.theta


class Descent(nn.Module):
    """Gradient descent from a learned start with a learned rate, trained greedily."""

    def __init__(self, dim: int = 2, steps: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.full((dim, 1), 0.5))
        self.log_rate = nn.Parameter(torch.tensor(-2.0))
        self.steps = steps
        self.dropout = nn.Dropout(dropout)

    def forward(self, tasks: Batch, state: Weights | None = None) -> tuple[Tensor, Tensor, Weights]:
        state = self._begin(tasks.support, state)
        losses = []
        for _ in range(self.steps):
            state = self._step(tasks.support, state)
            error = tasks.query.x @ state.theta - tasks.query.y
            losses.append(error.square().mean((1, 2)))
            state = state._replace(theta=state.theta.detach())
        return torch.stack(losses), state.seen.expand(self.steps, -1), state

    def trace(
        self,
        support: Examples,
        query_x: Tensor,
        /,
        *,
        steps: int,
    ) -> Iterator[Stage]:
        state = self._begin(support, None)
        for step in range(steps + 1):
            yield Stage(step, state.seen, state.theta)
            state = self._step(support, state)

    def _begin(self, support: Examples, state: Weights | None) -> Weights:
        num_tasks = len(support.x)
        start = self.start.expand(num_tasks, -1, -1)
        if state is None:
            return Weights(start, support.x.new_zeros(num_tasks))
        return state._replace(theta=torch.where(state.seen[:, None, None] > 0, state.theta, start))

    def _step(self, support: Examples, state: Weights) -> Weights:
        residual = support.x @ state.theta - support.y
        gradient = support.x.mT @ residual / support.x.shape[1]
        theta = state.theta - self.dropout(self.log_rate.exp() * gradient)
        return Weights(theta, support.mask.sum(1).to(theta.dtype))


class LiveTasks:
    """Tasks that go on from one iteration to the next; one of them is replaced at each."""

    def __init__(self, seed: int = 0) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._tasks = self._sample(8)
        self._state = Weights(torch.zeros(8, 2, 1), torch.zeros(8))
        self._next = 0

    def next(self) -> tuple[Batch, Weights]:
        return self._tasks, self._state

    def put(self, state: Weights) -> None:
        new = self._sample(1)
        for part in ("support", "query"):
            for field in ("x", "y"):
                old = getattr(getattr(self._tasks, part), field)
                old[self._next] = getattr(getattr(new, part), field)[0]
        seen = state.seen.clone()
        seen[self._next] = 0
        self._state = Weights(state.theta, seen)
        self._next = (self._next + 1) % 8

    def state_dict(self) -> dict[str, object]:
        parts = {name: getattr(self._tasks, name) for name in ("support", "query")}
        return {
            "generator": self._generator.get_state(),
            "state": {name: leaf.clone() for name, leaf in self._state._asdict().items()},
            "next": self._next,
            **{name: [part.x.clone(), part.y.clone()] for name, part in parts.items()},
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        if set(state) != set(self.state_dict()):
            raise ValueError("`state` is not that of a `LiveTasks`.")
        mask = torch.ones(8, 4, dtype=torch.bool)
        support, query = (
            Examples(*(leaf.clone() for leaf in state[name]), mask) for name in ("support", "query")
        )
        self._tasks = Batch(support, query)
        self._generator.set_state(state["generator"])
        self._state = Weights(**state["state"])
        self._next = state["next"]

    def _sample(self, num_tasks: int) -> Batch:
        return Regression().sample(num_tasks, num_support=4, num_query=4, generator=self._generator)


def sampler_source(seed: int = 0) -> SamplerSource[Batch]:
    return SamplerSource(
        Regression(),
        num_tasks=8,
        num_support=(3, 6),
        num_query=4,
        generator=torch.Generator().manual_seed(seed),
    )


@contextlib.contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes: the kernel refuses, as it does where a disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class GaveUpError(Exception):
    pass


class Interrupted:
    """A source that gives up after some batches, as a killed program would."""

    def __init__(self, source: object, batches: int) -> None:
        self._source = source
        self._left = batches

    def next(self) -> object:
        if not self._left:
            raise GaveUpError
        self._left -= 1
        return self._source.next()

    def __getattr__(self, name: str) -> object:
        return getattr(self._source, name)


class Spoiled(Descent):
    """Has a loss, or only a gradient, that is not finite in one iteration."""

    def __init__(self, iteration: int, what: str) -> None:
        super().__init__()
        self.left = iteration
        self.what = what

    def forward(self, tasks: Batch, state: Weights | None = None) -> tuple[Tensor, Tensor, Weights]:
        losses, seen, state = super().forward(tasks, state)
        self.left -= 1
        if self.left == 0:
            loss = self.start.sum()
            # The root of 0 has a value, and an infinite slope.
            losses = losses + (loss / 0 if self.what == "loss" else (loss - loss).sqrt())
        return losses, seen, state


CONFIG = FitConfig(iterations=24, learning_rate=0.05, warmup=3, log_every=5, checkpoint_every=4)


def train(
    learner: nn.Module | None = None,
    source: object = None,
    config: FitConfig = CONFIG,
    *,
    out: Path | None = None,
    **options: object,
) -> FitResult:
    return fit(
        Descent() if learner is None else learner,
        sampler_source() if source is None else source,
        config,
        out=out,
        device="cpu",
        progress=False,
        **options,
    )
