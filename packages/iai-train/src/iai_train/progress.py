"""Progress bars."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from iai_train.processes import process_index


def progress_bar(*, shown: bool) -> Progress:
    """A progress bar on standard error."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not shown,
    )


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
