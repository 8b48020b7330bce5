"""The contracts of a learner: that `fit` can train it, and that `evaluate` can measure it."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from iai_train.interfaces import LabelledTasks, Learner, Traceable


def check_learner(learner: Learner[Any, Any], tasks: object) -> None:
    """Checks that a learner is what `fit` trains.

    A run that was stopped goes on exactly, so whatever decides the next losses and gradients is in
    a checkpoint: the learner's `state_dict`, and torch's global generators, from which it draws. A
    generator of its own, or a count of its calls, is in neither.

    Args:
        learner: An `nn.Module`; its gradients are set.
        tasks: A batch of tasks with at least one observed example each.

    Raises:
        AssertionError: Shapes differ, the state has gradients or cannot be gone on from, a
            trainable weight gets no gradient (several processes would fail on it), or the same
            weights, buffers and generators lead to other losses or gradients.
    """
    assert isinstance(learner, nn.Module), "A learner is an nn.Module."
    stored = {name: value.clone() for name, value in learner.state_dict().items()}
    losses, seen, state = _seeded(learner, tasks)
    assert losses.ndim == 2, f"Losses are `step task`; got {tuple(losses.shape)}."
    assert seen.shape == losses.shape, f"Seen is `step task`; got {tuple(seen.shape)}."
    for leaf in tree_leaves(state):
        assert isinstance(leaf, Tensor), f"A state is a pytree of tensors; got {type(leaf)}."
        assert not leaf.requires_grad, "A state is detached."
    learner.zero_grad()
    losses.mean().backward()
    trained = {name: weight for name, weight in learner.named_parameters() if weight.requires_grad}
    missing = [name for name, weight in trained.items() if weight.grad is None]
    assert not missing, f"These weights got no gradient: {', '.join(missing)}."
    again, _, _ = learner(tasks, state)
    assert again.shape[1:] == losses.shape[1:], "A learner goes on from its own state."

    learner.load_state_dict(stored)
    resumed, _, _ = _seeded(learner, tasks)
    gradients = torch.autograd.grad(resumed.mean(), list(trained.values()), allow_unused=True)
    before = [losses.detach(), *(weight.grad for weight in trained.values())]
    assert all(map(_near, before, [resumed.detach(), *gradients])), (
        "The same weights, buffers and global generators lead to the same losses and gradients: a "
        "generator of the learner's own, or a count, is in no checkpoint."
    )


def _seeded(learner: Any, tasks: object) -> Any:
    device = next((weight.device for weight in learner.parameters()), torch.device("cpu"))
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices, device_type="cuda" if not devices else device.type):
        torch.manual_seed(0)
        return learner(tasks, None)


def _near(one: Tensor, other: Tensor | None) -> bool:
    """Whether they differ by rounding alone: kernels of a GPU may add up in another order."""
    if other is None:
        return False
    largest = float(one.abs().max()) if one.numel() else 0.0
    return torch.allclose(one, other, rtol=1e-3, atol=1e-3 * largest, equal_nan=True)


def check_traceable(learner: Traceable[Any], tasks: LabelledTasks[Any], *, steps: int = 2) -> None:
    """Checks that a learner is what `evaluate` measures.

    Raises:
        AssertionError: It does not show itself at every step from 0, `seen` shrinks or is not one
            number a task, or there is not one prediction for each query.
    """
    query = tasks.query
    num_tasks, num_queries = query.mask.shape
    seen = torch.zeros(num_tasks)
    shown = []
    for stage in learner.trace(tasks.support, query.x, steps=steps):
        shown.append(stage.step)
        assert stage.seen.shape == (num_tasks,), "`seen` is one number a task."
        assert bool((stage.seen.cpu() >= seen).all()), "What was seen stays seen."
        seen = stage.seen.cpu()
        outputs = stage.predict(query.x)
        assert outputs.shape[:2] == (num_tasks, num_queries), "One prediction a query."
    assert shown == list(range(steps + 1)), f"Steps 0 to {steps} are shown; got {shown}."
