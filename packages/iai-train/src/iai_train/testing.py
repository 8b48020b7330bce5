"""Contracts for sources and learners of your own, to be called in your own tests."""

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from iai_train.interfaces import LabelledTasks, Learner, Source, Traceable
from iai_train.training.checkpoint import load_checkpoint, save_checkpoint
from iai_train.training.tree import leaves

_ITERATIONS = 3
_REFUSES = "A source must refuse a state that is not its own, such as {}, with a ValueError"


def check_source(
    make_source: Callable[[], Source[Any, Any]], learner: Learner[Any, Any] | None = None
) -> None:
    """Checks that a source is what `fit` needs to go on exactly where a run was stopped.

    Args:
        make_source: Makes the source anew, the same each time (with a generator of one seed).
        learner: For a source of tasks that go on: it gets back the learner's state after each
            batch. Without a learner it gets back the state that came with the batch.

    Raises:
        AssertionError: Two sources made alike differ, or a state that went through a file does not
            lead to the same batches, or a state that is not the source's is not refused.
        TypeError: The state holds something that cannot be stored.
    """
    source, same = make_source(), make_source()
    assert isinstance(source, Source), "A source has `next`, `put`, `state_dict` and its loading."
    assert _equal(_advance(source, learner), _advance(same, learner)), (
        "Sources that are made alike must give the same tasks."
    )
    stored = _through_a_file(source.state_dict())
    continuation = _advance(source, learner)

    other = make_source()
    other.load_state_dict(stored)
    assert _equal(_advance(other, learner), continuation), (
        "A source that was made anew and loaded must go on as the one that was saved."
    )
    source.load_state_dict(stored)
    assert _equal(_advance(source, learner), continuation), (
        "A source that is loaded must forget what it did since."
    )
    try:
        make_source().load_state_dict({})
    except ValueError:
        return
    except Exception as error:
        raise AssertionError(f"{_REFUSES}; got {error!r}.") from error
    raise AssertionError(f"{_REFUSES}.")


def check_learner(learner: Learner[Any, Any], tasks: object) -> None:
    """Checks that a learner is what `fit` trains.

    Args:
        learner: An `nn.Module`; its gradients are set.
        tasks: A batch of tasks with at least one observed example each.

    Raises:
        AssertionError: Shapes differ, the state has gradients or cannot be gone on from, or a
            trainable weight gets no gradient (`fit` would leave it as it is).
    """
    assert isinstance(learner, nn.Module), "A learner is an nn.Module."
    losses, seen, state = learner(tasks, None)
    assert losses.ndim == 2, f"Losses are `step task`; got {tuple(losses.shape)}."
    assert seen.shape == losses.shape, f"Seen is `step task`; got {tuple(seen.shape)}."
    for leaf in tree_leaves(state):
        assert isinstance(leaf, Tensor), f"A state is a pytree of tensors; got {type(leaf)}."
        assert not leaf.requires_grad, "A state is detached."
    learner.zero_grad()
    losses.mean().backward()
    missing = [name for name, p in learner.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing, f"These weights got no gradient: {', '.join(missing)}."
    again, _, _ = learner(tasks, state)
    assert again.shape[1:] == losses.shape[1:], "A learner goes on from its own state."


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


def _advance(source: Source[Any, Any], learner: Learner[Any, Any] | None) -> list[object]:
    """Takes some batches, puts their states back, and returns what they held."""
    taken: list[object] = []
    for _ in range(_ITERATIONS):
        tasks, state = source.next()
        after = learner(tasks, state)[2] if isinstance(learner, nn.Module) else state
        # Copied, since a source may write over the memory.
        batch = leaves((tasks, state))
        taken += [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in batch]
        source.put(after)
    return taken


def _through_a_file(snapshot: Mapping[str, object]) -> dict[str, object]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "source.safetensors"
        save_checkpoint(path, snapshot, {})
        return load_checkpoint(path)[0]


def _equal(a: object, b: object) -> bool:
    pairs = list(leaves(a)), list(leaves(b))
    return len(pairs[0]) == len(pairs[1]) and all(map(_same, *pairs))


def _same(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        alike = a.dtype == b.dtype and a.shape == b.shape
        return alike and torch.equal(_bytes(a), _bytes(b))
    return type(a) is type(b) and a == b


def _bytes(tensor: Tensor) -> Tensor:
    """Its memory, in which NaN equals itself."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
