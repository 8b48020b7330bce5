"""The contract of a source."""

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor, nn

from iai_train.interfaces import Learner, Source
from iai_train.testing.comparison import equal
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
    assert equal(_advance(source, learner), _advance(same, learner)), (
        "Sources that are made alike must give the same tasks."
    )
    stored = _through_a_file(source.state_dict())
    continuation = _advance(source, learner)

    other = make_source()
    other.load_state_dict(stored)
    assert equal(_advance(other, learner), continuation), (
        "A source that was made anew and loaded must go on as the one that was saved."
    )
    source.load_state_dict(stored)
    assert equal(_advance(source, learner), continuation), (
        "A source that is loaded must forget what it did since."
    )
    try:
        make_source().load_state_dict({})
    except ValueError:
        return
    except Exception as error:
        raise AssertionError(f"{_REFUSES}; got {error!r}.") from error
    raise AssertionError(f"{_REFUSES}.")


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
