"""What a nested record holds."""

from collections.abc import Iterator, Mapping

import attrs
from torch import Tensor


def leaves(node: object) -> Iterator[object]:
    """Walk through mappings, sequences, attrs records and plain objects; keys are leaves too.

    >>> list(leaves({"rate": (0.5, [None])}))
    ['rate', 0.5, None]
    """
    kind = type(node)
    if isinstance(node, Mapping):
        for key in node:
            yield key
            yield from leaves(node[key])
    elif isinstance(node, list | tuple):
        for value in node:
            yield from leaves(value)
    elif attrs.has(kind):
        for field in attrs.fields(kind):
            yield from leaves(getattr(node, field.name))
    elif isinstance(node, Tensor) or not hasattr(node, "__dict__"):
        yield node
    else:
        yield from leaves(vars(node))
