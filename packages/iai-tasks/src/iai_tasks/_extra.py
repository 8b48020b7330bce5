"""What an import that needs an extra of this package says if it fails."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Around an import: names the extra to install if a module is missing.

    Raises:
        ImportError: If a module is not installed.

    >>> with extra("fonts"):
    ...     import no_such_module
    Traceback (most recent call last):
    ImportError: `no_such_module` is not installed: pip install 'iai-tasks[fonts]'.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        text = f"`{error.name}` is not installed: pip install 'iai-tasks[{name}]'."
        raise ImportError(text) from error
