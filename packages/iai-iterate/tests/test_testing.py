"""Each sentence of the contracts is one that a fault of its own breaks."""

import pytest
import torch
from iai_iterate import unrolled
from iai_iterate.modes.truncated import detach
from iai_iterate.testing import check_gradient_mode, check_regime
from slopes import Examples, Kernel, Slope, SlopeState, draw
from torch.utils._pytree import tree_map


def examples():
    tasks = draw(num_tasks=4, num_support=7, masked=0.3)
    mask = tasks.support.mask.clone()
    mask[0], mask[1], mask[2, :3] = True, False, False
    return Examples(tasks.support.x, tasks.support.y, mask), tasks.query


def test_regimes_that_keep_the_contract(regime):
    check_regime(regime, *examples())
    check_regime(regime.eval().requires_grad_(False), *examples())


class StartsHavingSeen(Slope):
    def init(self, num_tasks, query_x=None):
        return SlopeState(super().init(num_tasks).slope, torch.ones(num_tasks))


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
    def update(self, state, evidence, query_x=None, fresh=True):
        after = super().update(state, evidence, query_x, fresh)
        evidence.x.add_(1)
        return after


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


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (StartsHavingSeen, "The start has seen nothing"),
        (Unled, "A state's tensors lead with the 4 tasks"),
        (NotATensor, "A state is a pytree of tensors"),
        (LooksAtQueries, "Where `needs_query` is False, the start needs no query"),
        (CountsPadding, "`seen` counts observed examples"),
        (CountsTwice, "With `fresh` False nothing is added to `seen`"),
        (Drifts, "A minibatch without examples moves nothing"),
        (DriftsUnobserved, "A task without an observed example in the minibatch does not move"),
        (ChangesDtype, "A state keeps its structure, shapes and dtypes"),
        (InPlace, "Nothing given is changed"),
        (MixesTasks, "A task is the same alone and in a batch"),
        (MixesQueries, "A query has the same answer in any company"),
        (Random, "The same examples give the same answer, bit for bit"),
        (OneLoss, "There is a loss a task"),
        (FlatOutputs, "Outputs are `task query num_outputs`"),
        (Unused, "Every trainable weight has a gradient; not more.weight, more.bias"),
        (NeedsGradients, "Reading needs no gradients"),
        (InfiniteLoss, "The loss is finite"),
        (Nameless, "`needs_query` is a bool"),
        (OrderedLoss, "The order of the queries does not change the loss"),
        (torch.nn.Identity, "A regime has `needs_query` and six methods"),
    ],
)
def test_regimes_that_do_not(fault, sentence, own_errors):
    with pytest.raises(AssertionError, match=sentence):
        check_regime(fault().double(), *examples())


def own(state):
    return tree_map(torch.clone, state)


def one_loss_too_few(step, loss, state, batches):
    losses, state = unrolled(step, loss, state, batches)
    return losses[1:], state


def losses_before_steps(step, loss, state, batches):
    losses, after = unrolled(step, loss, state, batches)
    return torch.cat([loss(state)[None], losses[:-1]]), after


def stops_early(step, loss, state, batches):
    seen = [state]
    losses, _ = unrolled(lambda *a: seen.append(step(*a)) or seen[-1], loss, state, batches)
    return losses, detach(seen[-2])


def attached(step, loss, state, batches):
    seen = [state]
    losses, _ = unrolled(lambda *a: seen.append(step(*a)) or seen[-1], loss, state, batches)
    return losses, seen[-1]


def cut_before_each_step(step, loss, state, batches):
    return unrolled(lambda state, batch: step(detach(state), batch), loss, state, batches)


def cut_after_each_step(step, loss, state, batches):
    return unrolled(lambda state, batch: detach(step(state, batch)), loss, state, batches)


def moves_the_start(step, loss, state, batches):
    with torch.no_grad():
        state.seen.add_(1)
    return unrolled(step, loss, state._replace(seen=state.seen - 1), batches)


def nothing_read(step, loss, state, batches):
    batches = list(batches)
    if not batches:
        return loss(state)[None][:0], state
    return unrolled(step, loss, state, batches)


def other_without_gradients(step, loss, state, batches):
    losses, state = unrolled(step, loss, state, batches)
    return (losses if torch.is_grad_enabled() else 2 * losses), state


def plain_loop(step, loss, state, batches):
    losses = []
    for batch in batches:
        state = step(state, batch)
        losses.append(loss(state))
    if not losses:
        raise ValueError
    return torch.stack(losses), detach(state)


def steps_may_work_in_place(step, loss, state, batches):
    return unrolled(lambda state, batch: step(own(state), batch), loss, state, batches)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (steps_may_work_in_place, "A step that changes the state that it is given in place is a"),
        (one_loss_too_few, "There is a loss a step and task"),
        (losses_before_steps, "The losses are those of the plain loop"),
        (stops_early, "The last state is that of the plain loop"),
        (attached, "The state is detached"),
        (cut_before_each_step, "The loss after a single step reaches the start"),
        (cut_after_each_step, "The loss after a single step reaches the start"),
        (moves_the_start, "The start is left as it was"),
        (nothing_read, "Without a minibatch there is a ValueError"),
        (other_without_gradients, "The losses are the same without gradients"),
        (plain_loop, "A step that changes a state's structure, shapes or dtypes is a ValueError"),
    ],
)
def test_gradient_modes_that_do_not(fault, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_gradient_mode(fault)
