from pathlib import Path

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_train.processes import join_processes
from iai_train.training.averaging import Averaging
from iai_train.training.gradient import MetaGradient
from least_squares import (
    CONFIG,
    Batch,
    Descent,
    GaveUpError,
    Interrupted,
    LiveTasks,
    Regression,
    Weights,
    sampler_source,
    train,
)
from torch import Tensor, nn

CPU = torch.device("cpu")


def double(batch: Batch) -> Batch:
    def cast(part: object) -> object:
        return attrs.evolve(part, x=part.x.double(), y=part.y.double())

    return Batch(cast(batch.support), cast(batch.query))


def drawn(seed: int, num_tasks: int) -> tuple[Batch, Weights]:
    generator = torch.Generator().manual_seed(seed)
    tasks = Regression().sample(num_tasks, num_support=4, num_query=3, generator=generator)
    theta = torch.randn(num_tasks, 2, 1, generator=generator, dtype=torch.float64)
    seen = torch.randint(0, 3, (num_tasks,), generator=generator).double()
    return double(tasks), Weights(theta, seen)


def added(
    learner: nn.Module, tasks: object, state: object, chunk: int | None, weight: object = None
) -> tuple[Tensor, object, list[Tensor]]:
    config = attrs.evolve(CONFIG, chunk=chunk)
    learner.zero_grad()
    gradient = MetaGradient(Averaging(learner, join_processes(CPU)), config, CPU, weight)
    loss, _, state = gradient.add(tasks, state)
    return loss, state, [weight.grad.clone() for weight in learner.parameters()]


@given(
    seed=st.integers(0, 2**31),
    num_tasks=st.integers(1, 7),
    chunk=st.integers(1, 8),
    live=st.booleans(),
    weighted=st.booleans(),
)
def test_chunks_are_all_tasks_at_once(
    seed: int, num_tasks: int, chunk: int, live: bool, weighted: bool
) -> None:
    tasks, state = drawn(seed, num_tasks)
    learner, state = Descent().double(), state if live else None
    weight = (lambda seen: 1 / (1 + seen)) if weighted else None
    loss, after, gradients = added(learner, tasks, state, chunk, weight)
    expected, left, whole = added(learner, tasks, state, None, weight)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(after, left, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients, whole, rtol=1e-12, atol=1e-12)


class Forgetful(Descent):
    def forward(self, tasks: Batch, state: object = None) -> tuple[Tensor, Tensor, None]:
        losses, seen, _ = super().forward(tasks, state)
        return losses, seen, None


def test_a_learner_without_a_state_trains_in_chunks() -> None:
    tasks, _ = drawn(0, 5)
    learner = Forgetful().double()
    _, after, gradients = added(learner, tasks, None, 2)
    assert after is None
    torch.testing.assert_close(gradients, added(learner, tasks, None, None)[2])


class Doubled(LiveTasks):
    def next(self) -> tuple[Batch, Weights]:
        tasks, state = super().next()
        return double(tasks), Weights(state.theta.double(), state.seen.double())

    def put(self, state: Weights) -> None:
        super().put(Weights(state.theta.float(), state.seen.float()))


def test_a_run_in_chunks_is_the_run() -> None:
    runs = [
        train(Descent().double(), Doubled(), attrs.evolve(CONFIG, chunk=chunk))
        for chunk in (None, 3)
    ]
    assert runs[0].losses == pytest.approx(runs[1].losses, abs=1e-10)
    one, other = (list(run.learner.parameters()) for run in runs)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_a_run_may_go_on_in_other_chunks(tmp_path: Path) -> None:
    with pytest.raises(GaveUpError):
        train(source=Interrupted(sampler_source(), 10), out=tmp_path)
    resumed = train(config=attrs.evolve(CONFIG, chunk=5), out=tmp_path)
    assert resumed.resumed_at == 8
    assert resumed.losses == pytest.approx(train().losses, abs=1e-6)


def test_no_more_than_a_chunk_is_in_the_learner() -> None:
    sizes = []

    class Watched(Descent):
        def forward(self, tasks: Batch, state: object = None) -> object:
            sizes.append(len(tasks.support.x))
            return super().forward(tasks, state)

    tasks, state = drawn(0, 7)
    added(Watched().double(), tasks, state, 3)
    assert sizes == [3, 3, 1]


class Trust(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trust = nn.Parameter(torch.tensor(0.5))

    def forward(self, tasks: object, state: object = None) -> tuple[Tensor, Tensor, object]:
        looks, [m, _] = tasks
        guess = self.trust * looks.mean(1)
        return (guess - m).square()[None], torch.ones(1, len(m)), {"guess": guess.detach()}


def test_tasks_may_be_a_pytree_of_tensors() -> None:
    tasks = (torch.randn(5, 4), [torch.randn(5), None])
    loss, state, gradients = added(Trust(), tasks, None, 2)
    expected, left, whole = added(Trust(), tasks, None, None)
    torch.testing.assert_close([loss, state, gradients], [expected, left, whole])


class NotCut:
    def __init__(self, batch: Batch) -> None:
        self.support, self.query = batch.support, batch.query


class CutOtherwise(NotCut):
    def __getitem__(self, key: slice) -> "CutOtherwise":
        return self


def test_what_cannot_be_cut_is_refused() -> None:
    tasks, state = drawn(0, 4)
    learner = Descent().double()
    with pytest.raises(
        TypeError, match=r"^`tasks` must be a record with `tasks\[i:j\]`, .* NotCut"
    ):
        added(learner, NotCut(tasks), state, 2)
    with pytest.raises(TypeError, match=r"^`tasks\[i:j\]` must be those tasks; CutOtherwise gives"):
        added(learner, CutOtherwise(tasks), state, 2)
    with pytest.raises(TypeError, match=r"^`tasks` must hold tensors .*; got list\.$"):
        added(learner, [1.0], None, 2)
    with pytest.raises(TypeError, match=r"^`state` must be a record .* got Weights: slice"):
        added(learner, tasks, state._replace(seen=torch.tensor(0.0)), 2)
    added(learner, NotCut(tasks), state, None)


def test_a_learner_that_does_not_give_a_chunk_its_own_is_refused() -> None:
    class Cached(Descent):
        def forward(self, tasks: Batch, state: object = None) -> object:
            losses, seen, state = super().forward(tasks, state)
            return losses.repeat(1, 2), seen.repeat(1, 2), state

    class Shared(Descent):
        def forward(self, tasks: Batch, state: object = None) -> object:
            losses, seen, _ = super().forward(tasks, state)
            return losses, seen, torch.tensor(1.0)

    tasks, state = drawn(0, 4)
    with pytest.raises(ValueError, match=r"loss for each of the 2 tasks of a chunk; got 4\.$"):
        added(Cached().double(), tasks, state, 2)
    with pytest.raises(ValueError, match=r"a state of tensors that lead with the tasks; got \(\)"):
        added(Shared().double(), tasks, state, 2)
