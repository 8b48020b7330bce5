"""A progress bar for work outside of training."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from iai_train.processes import process_index
from iai_train.training.fit import progress_bar


@contextmanager
def progress(description: str) -> Iterator[Callable[..., None]]:
    """Shows a progress bar on standard error, in the main process alone.

    Args:
        description: What is done.

    Yields:
        What moves the bar: a function of the keywords `completed`, `total` and `description`.

    >>> with progress("count") as show:
    ...     for number in range(3):
    ...         show(completed=number + 1, total=3)
    """
    with progress_bar(shown=process_index() == 0) as bar:
        yield partial(bar.update, bar.add_task(description, total=None))
