"""Each sentence of the contract of a gradient mode is one that a fault of its own breaks."""

import pytest
import torch
from iai_iterate import reptile, truncated, unrolled
from iai_iterate.rollout import detach
from iai_iterate.testing import check_gradient_mode
from torch.utils._pytree import tree_leaves, tree_map


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


def fails_on_nothing(step, loss, state, batches):
    losses = []
    for batch in batches:
        state = step(state, batch)
        losses.append(loss(state))
    return torch.stack(losses), detach(state)


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


def blind_to_what_is_shared(step, loss, state, batches):
    """Finds each leaf's gradient by itself, as evolution strategies do, and nothing else's."""
    with torch.no_grad():
        losses, end = unrolled(step, loss, state, batches)
    pulls = [(leaf - leaf.detach()).reshape(3, -1).sum(1) for leaf in tree_leaves(state)]
    return losses + sum(pulls), end


class OwnGenerator:
    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, *rollout):
        length = int(torch.randint(1, 3, (), generator=self.generator))
        return truncated(length)(*rollout)


class CountsRollouts:
    calls = 0

    def __call__(self, *rollout):
        self.calls += 1
        return truncated(self.calls)(*rollout)


def random_truncation(*rollout):
    return truncated(int(torch.randint(1, 4, ())))(*rollout)


def test_a_mode_may_draw_from_the_global_generator():
    check_gradient_mode(random_truncation)


def test_a_mode_that_trains_the_start_alone_says_so():
    check_gradient_mode(reptile, shared=False)
    check_gradient_mode(blind_to_what_is_shared, shared=False)
    with pytest.raises(AssertionError, match="has a gradient by the weights that `step` uses"):
        check_gradient_mode(reptile)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (steps_may_work_in_place, "A step that changes the state that it is given in place is a"),
        (one_loss_too_few, "There is a loss a step and task"),
        (losses_before_steps, "The losses are those of the plain loop"),
        (stops_early, "The last state is that of the plain loop"),
        (attached, "The state is detached"),
        (cut_before_each_step, "The loss after a single step has a gradient by the start"),
        (cut_after_each_step, "The loss after a single step has a gradient by the start"),
        (moves_the_start, "The start is left as it was"),
        (nothing_read, "A rollout without a minibatch is a ValueError"),
        (fails_on_nothing, "A rollout without a minibatch is a ValueError.\nIt is RuntimeError: "),
        (other_without_gradients, "The losses are the same without gradients"),
        (blind_to_what_is_shared, "The loss after a single step has a gradient by the weights"),
        (OwnGenerator(), "From the same state of torch's generators a mode gives the same losses"),
        (CountsRollouts(), "a generator of its own, or a count of its calls, is in no checkpoint"),
        (plain_loop, "A step that changes a state's structure, shapes or dtypes is a ValueError"),
    ],
)
def test_gradient_modes_that_do_not(fault, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_gradient_mode(fault)
