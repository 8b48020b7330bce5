"""Checks of numbers and words, and attrs validators made of them."""

import math
from collections.abc import Callable
from typing import Any

import attrs

Range = tuple[float | int, float | int]
"""Smallest and largest value of a uniform draw."""


def check_at_least(minimum: int, **values: float | int) -> None:
    """Raises ValueError for the first value, given by name, that is not at least `minimum`."""
    for name, value in values.items():
        if not value >= minimum:
            raise ValueError(f"`{name}` must be at least {minimum}; got {value}.")


def at_least(minimum: int) -> Callable[[Any, "attrs.Attribute[Any]", Any], None]:
    """A validator that raises ValueError unless the value is a number of at least `minimum`."""

    def validate(_: Any, attribute: "attrs.Attribute[Any]", value: Any) -> None:
        check_at_least(minimum, **{attribute.name: value})

    return validate


def positive(_: Any, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    """A validator that raises ValueError unless the value is a number above 0."""
    if not value > 0:
        raise ValueError(f"`{attribute.name}` must be above 0; got {value}.")


def one_of(*choices: str) -> Callable[[Any, "attrs.Attribute[Any]", str], None]:
    """A validator that raises ValueError unless the value is one of `choices`."""

    def validate(_: Any, attribute: "attrs.Attribute[Any]", value: str) -> None:
        if value not in choices:
            names = ", ".join(f"'{choice}'" for choice in choices)
            raise ValueError(f"`{attribute.name}` must be one of {names}; got {value!r}.")

    return validate


def is_range(_: Any, attribute: "attrs.Attribute[Any]", value: Range) -> None:
    """A validator that raises ValueError unless the value is a finite (smallest, largest)."""
    if not (len(value) == 2 and -math.inf < value[0] <= value[1] < math.inf):
        raise ValueError(f"`{attribute.name}` must be (smallest, largest); got {value}.")


def is_probability(_: Any, attribute: "attrs.Attribute[Any]", value: float) -> None:
    """A validator that raises ValueError unless the value is from 0 to 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"`{attribute.name}` must be from 0 to 1; got {value}.")
