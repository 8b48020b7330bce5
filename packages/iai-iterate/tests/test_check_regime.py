"""Each sentence of the contract of a regime is one that a fault of its own breaks."""

from typing import NamedTuple

import pytest
import torch
from iai_iterate.testing import check_regime
from slopes import Examples, Kernel, Slope, SlopeState, draw


def examples():
    tasks = draw(num_tasks=4, num_support=7)
    return tasks.support, tasks.query


def test_regimes_that_keep_the_contract(regime):
    check_regime(regime, *examples())
    check_regime(regime.eval().requires_grad_(False), *examples())
    check_regime(regime.float(), *examples())


def test_the_suite_says_what_it_needs():
    support, query = examples()
    for few in (support[:1], support[:, :3]):
        with pytest.raises(AssertionError, match="The suite needs two tasks of four observed"):
            check_regime(Slope(), few, query[: len(few.mask)])
    hidden = Examples(support.x, support.y, torch.zeros_like(support.mask))
    with pytest.raises(AssertionError, match="The suite needs two tasks of four observed"):
        check_regime(Slope(), hidden, query)


def test_the_regime_and_its_gradients_are_left_as_they_were():
    regime = Slope()
    regime.start.grad = torch.ones(1)
    check_regime(regime, *examples())
    assert regime.start.tolist() == regime.start.grad.tolist() == [1.0]
    assert regime.training and regime.rate.grad is None


class StartsHavingSeen(Slope):
    def init(self, num_tasks, query_x=None):
        return SlopeState(super().init(num_tasks).slope, torch.ones(num_tasks))


class Maximum(NamedTuple):
    slope: torch.Tensor
    seen: torch.Tensor
    largest: torch.Tensor


class StartsAtMinusInfinity(Slope):
    """Keeps the largest input that it has seen: as a running softmax does, from -inf."""

    def init(self, num_tasks, query_x=None):
        state = super().init(num_tasks)
        return Maximum(*state, torch.full_like(state.seen, -torch.inf))

    def update(self, state, evidence, query_x=None, fresh=True):
        slope, seen = super().update(SlopeState(*state[:2]), evidence, query_x, fresh)
        x = evidence.x[..., 0].masked_fill(~evidence.mask, -torch.inf)
        return Maximum(slope, seen, torch.cat([state.largest[:, None], x], 1).amax(1))


class Unled(Slope):
    def init(self, num_tasks, query_x=None):
        return SlopeState(self.start, self.start.new_zeros(num_tasks))


class NotATensor(Slope):
    def init(self, num_tasks, query_x=None):
        return SlopeState(1.0, self.start.new_zeros(num_tasks))


class LooksAtQueries(Slope):
    def init(self, num_tasks, query_x=None):
        state = super().init(num_tasks)
        return state if query_x is None else SlopeState(state.slope + query_x.mean(), state.seen)


class CountsPadding(Slope):
    def update(self, state, evidence, query_x=None, fresh=True):
        after = super().update(state, evidence, query_x, fresh)
        return SlopeState(after.slope, state.seen + evidence.mask.shape[1] * fresh)


class CountsTwice(Slope):
    def update(self, state, evidence, query_x=None, fresh=True):
        return super().update(state, evidence, query_x, True)


class Drifts(Slope):
    def update(self, state, evidence, query_x=None, fresh=True):
        after = super().update(state, evidence, query_x, fresh)
        return SlopeState(after.slope + 0.1, after.seen)


class DriftsUnobserved(Slope):
    def update(self, state, evidence, query_x=None, fresh=True):
        after = super().update(state, evidence, query_x, fresh)
        lost = 0.1 * (~evidence.mask).sum(1)[:, None]
        return SlopeState(after.slope + lost, after.seen)


class ChangesDtype(Slope):
    def update(self, state, evidence, query_x=None, fresh=True):
        after = super().update(state, evidence, query_x, fresh)
        return SlopeState(after.slope.bfloat16(), after.seen)


class InPlace(Slope):
    def encode(self, batch):
        evidence = super().encode(batch)
        batch.x.add_(1)
        return evidence


class MixesTasks(Slope):
    def update(self, state, evidence, query_x=None, fresh=True):
        after = super().update(state, evidence, query_x, fresh)
        mixed = after.slope + 0.1 * (after.slope - state.slope).sum() * (evidence.mask.any(1, True))
        return SlopeState(mixed, after.seen)


class MixesQueries(Kernel):
    def predict(self, state, query_x):
        return state.answer - state.answer.mean(1, keepdim=True)


class Random(Slope):
    def predict(self, state, query_x):
        return super().predict(state, query_x) + torch.randn(1, dtype=torch.float64)


class OneLoss(Slope):
    def loss(self, outputs, query):
        return super().loss(outputs, query).mean()


class FlatOutputs(Slope):
    def predict(self, state, query_x):
        return super().predict(state, query_x)[..., 0]


class Unused(Slope):
    def __init__(self):
        super().__init__()
        self.more = torch.nn.Linear(2, 2)


class NeedsGradients(Slope):
    def update(self, state, evidence, query_x=None, fresh=True):
        after = super().update(state, evidence, query_x, fresh)
        return after if torch.is_grad_enabled() else state._replace(seen=after.seen)


class InfiniteLoss(Slope):
    def loss(self, outputs, query):
        return super().loss(outputs, query) / 0


class Nameless(Slope):
    needs_query = "no"


class OrderedLoss(Slope):
    def loss(self, outputs, query):
        return (outputs - query.y)[:, 0, 0].square()


class KnowsTheOrder(Slope):
    def encode(self, batch):
        index = torch.arange(1.0, batch.x.shape[1] + 1)[:, None]
        return super().encode(Examples(batch.x * index, batch.y, batch.mask))


class StandsStill(Slope):
    def update(self, state, evidence, query_x=None, fresh=True):
        after = super().update(state, evidence, query_x, fresh)
        return SlopeState(state.slope + 0 * after.slope, after.seen)


class IgnoresTheMask(Slope):
    def encode(self, batch):
        some = batch.mask.any(1, True) & torch.ones_like(batch.mask)
        return super().encode(Examples(batch.x, batch.y, some))


class TakesFiniteForObserved(Slope):
    def encode(self, batch):
        return super().encode(Examples(batch.x, batch.y, batch.x.isfinite().all(-1)))


class TakesFiniteQueriesForObserved(Slope):
    def loss(self, outputs, query):
        return super().loss(outputs, Examples(query.x, query.y, query.y.isfinite().all(-1)))


class CountsItsCalls(Slope):
    calls = 0

    def predict(self, state, query_x):
        self.calls += 1
        return super().predict(state, query_x) * (1 + self.calls / 100)


class CountsItsUpdates(Slope):
    updates = 0

    def update(self, state, evidence, query_x=None, fresh=True):
        self.updates += 1
        after = super().update(state, evidence, query_x, fresh)
        return SlopeState(state.slope + (after.slope - state.slope) / self.updates, after.seen)


class IgnoresTheMaskOfQueries(Slope):
    def loss(self, outputs, query):
        y = query.y.nan_to_num()
        return super().loss(outputs, Examples(query.x, y, torch.ones_like(query.mask)))


class LosesWithoutQueries(Slope):
    def loss(self, outputs, query):
        return super().loss(outputs, query) / query.mask.any(1)


class LeaksIntoGradients(Slope):
    def loss(self, outputs, query):
        errors = (outputs - query.y).square()[..., 0].masked_fill(~query.mask, 0.0)
        return errors.sum(1) / query.mask.sum(1).clamp(min=1)


class AnswersInSinglePrecision(Slope):
    def predict(self, state, query_x):
        return super().predict(state, query_x).float()


class CountsEmptyTasks(Slope):
    def update(self, state, evidence, query_x=None, fresh=True):
        after = super().update(state, evidence, query_x, fresh)
        lonely = evidence.mask.any() & ~evidence.mask.any(1)
        return SlopeState(after.slope + 0.1 * lonely[:, None], after.seen)


class StartsWithoutQueries(Kernel):
    def init(self, num_tasks, query_x=None):
        return super().init(num_tasks, torch.ones(num_tasks, 1, 1) if query_x is None else query_x)


class RefusesPadding(Slope):
    def validate(self, batch):
        everything = torch.ones_like(batch.mask)
        super().validate(Examples(batch.x, batch.y, everything))


class LetsInputsPass(Slope):
    def validate(self, batch):
        super().validate(Examples(batch.x.nan_to_num(), batch.y, batch.mask))


class LetsTargetsPass(Slope):
    def validate(self, batch):
        super().validate(Examples(batch.x, None, batch.mask))


class Traces(Slope):
    """Takes steps one by one, and says that it does not."""

    traces = True

    def trace(self, state, evidence, query_x):
        num_tasks, outputs = len(state.seen), []
        steps = len(evidence.mask) // num_tasks
        for step in range(steps):
            state = self.update(state, evidence[step::steps], query_x)
            outputs.append(self.predict(state, query_x))
        return torch.stack(outputs, 1), state


class TracesOtherwise(Traces):
    def trace(self, state, evidence, query_x):
        outputs, state = super().trace(state, evidence, query_x)
        return outputs.roll(1, 1), state


class TracesToNoEnd(Traces):
    def trace(self, state, evidence, query_x):
        return super().trace(state, evidence, query_x)[0], state


def test_a_trace_that_keeps_the_contract():
    check_regime(Traces(), *examples())


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (StartsHavingSeen, "The start has seen nothing"),
        (StartsAtMinusInfinity, "A state is finite: no file holds NaN or infinity"),
        (Unled, "A state is a pytree of tensors that lead with the 4 tasks"),
        (NotATensor, "A state is a pytree of tensors"),
        (LooksAtQueries, "Where `needs_query` is False, the start needs no query"),
        (CountsPadding, "A minibatch without an observed example changes nothing"),
        (CountsTwice, "With `fresh` False nothing is added to `seen`"),
        (Drifts, "A minibatch without an observed example changes nothing"),
        (DriftsUnobserved, "A minibatch without an observed example changes nothing"),
        (CountsEmptyTasks, "A task without an observed example in the minibatch does not move"),
        (ChangesDtype, "A state keeps its structure, shapes and dtypes"),
        (InPlace, "Nothing given is changed"),
        (MixesTasks, "A task has the same answers and loss alone and in a batch"),
        (MixesQueries, "A query has the same answer in any company"),
        (Random, "The same examples give the same answer, bit for bit"),
        (OneLoss, "There is a loss a task"),
        (FlatOutputs, "Outputs are `task query num_outputs`"),
        (AnswersInSinglePrecision, "Outputs have the dtype of the model"),
        (Unused, "One step gives every weight a gradient; not more.weight, more.bias"),
        (NeedsGradients, "Adapting works with gradients disabled"),
        (InfiniteLoss, "The loss is finite"),
        (Nameless, "`needs_query` is a bool"),
        (OrderedLoss, "The order of the queries does not change the loss"),
        (KnowsTheOrder, "The order of a minibatch changes no answer"),
        (StandsStill, "A minibatch moves the answers of its task"),
        (IgnoresTheMask, "A masked example, NaN included, changes no answer"),
        (TakesFiniteForObserved, "A minibatch without an observed example changes nothing"),
        (TakesFiniteQueriesForObserved, "A masked query changes no loss"),
        (CountsItsCalls, "The same examples give the same answer, bit for bit"),
        (CountsItsUpdates, "The same minibatch moves a state alike each time, bit for bit"),
        (IgnoresTheMaskOfQueries, "A masked query changes no loss"),
        (LosesWithoutQueries, "A loss on no queries is finite"),
        (LeaksIntoGradients, "Gradients are finite, whatever padding holds; that of"),
        (StartsWithoutQueries, "Where `needs_query` is True, a start without queries is a Value"),
        (LetsInputsPass, "An observed input that is NaN is a ValueError"),
        (LetsTargetsPass, "An observed target that cannot be is a ValueError"),
        (TracesOtherwise, "`trace` gives what `predict` gives after each `update`"),
        (TracesToNoEnd, "The state of `trace` is that of the last `update`"),
        (torch.nn.Identity, "A regime has `needs_query` and six methods"),
    ],
)
def test_regimes_that_do_not(fault, sentence, own_errors):
    with pytest.raises(AssertionError, match=sentence):
        check_regime(fault(), *examples())


def test_a_regime_that_refuses_padding_says_so_itself():
    with pytest.raises(ValueError, match="`x` must be finite"):
        check_regime(RefusesPadding(), *examples())
