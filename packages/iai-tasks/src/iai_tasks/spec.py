"""What a sampler's tasks look like, and whether given examples look like that."""

from typing import Literal

import attrs
import torch

from iai_tasks._validators import at_least
from iai_tasks.examples import Examples


@attrs.frozen
class Real:
    """A target of `dim` real numbers.

    >>> Real(dim=0)
    Traceback (most recent call last):
    ValueError: `dim` must be at least 1; got 0.
    """

    dim: int = attrs.field(validator=at_least(1))


@attrs.frozen
class Categorical:
    """A target that is one of `num_classes` classes, numbered from 0."""

    num_classes: int = attrs.field(validator=at_least(1))


@attrs.frozen(kw_only=True)
class TaskSpec:
    """Shapes and kind of target that all tasks of a sampler share.

    Attributes:
        support_x_shape: Shape of one support input.
        query_x_shape: Shape of one query input. It differs from the support's where a query is of
            another kind, such as a point in time beside a sample, or the number of a variable.
        target: What a query asks for.

    >>> TaskSpec(support_x_shape=(4,), query_x_shape=(4,), target=Real(1)).target
    Real(dim=1)
    """

    support_x_shape: tuple[int, ...]
    query_x_shape: tuple[int, ...]
    target: Real | Categorical


def check_examples(
    examples: Examples, spec: TaskSpec, *, role: Literal["support", "query"] = "support"
) -> None:
    """Checks the values of observed examples, and all shapes, against a specification.

    Padding may hold anything. Reading the values waits for the device: call this where data enters,
    not at every step of training.

    Args:
        examples: What to check. Without y, only x is checked.
        spec: What the examples must look like.
        role: Which of the two input shapes applies. It begins the text of an error.

    Raises:
        TypeError: If y is real where the target is a class, or a class where it is real.
        ValueError: If x has the wrong shape, y the wrong number of dimensions, or an observed
            example a value that is not finite or a class that is out of range.

    >>> spec = TaskSpec(support_x_shape=(1,), query_x_shape=(1,), target=Categorical(2))
    >>> check_examples(Examples(x=torch.zeros(1, 1, 1), y=torch.tensor([[2]])), spec)
    Traceback (most recent call last):
    ValueError: support `y` must hold classes from 0 to 1; got 2.
    """
    x_shape = spec.support_x_shape if role == "support" else spec.query_x_shape
    if tuple(examples.x.shape[2:]) != x_shape:
        raise ValueError(
            f"{role} `x` must have shape (task, n, *{x_shape}); got {tuple(examples.x.shape)}."
        )
    _check_finite(examples.x[examples.mask], f"{role} `x`")
    if examples.y is None:
        return
    y = examples.y[examples.mask]
    if isinstance(spec.target, Real):
        if not y.is_floating_point():
            raise TypeError(f"{role} `y` must be floating point, as the target is; got {y.dtype}.")
        if y.shape[1] != spec.target.dim:
            raise ValueError(
                f"{role} `y` must have {spec.target.dim} numbers an example; got {y.shape[1]}."
            )
        _check_finite(y, f"{role} `y`")
    else:
        if y.is_floating_point():
            raise TypeError(f"{role} `y` must hold classes (int64); got {y.dtype}.")
        wrong = y[(y < 0) | (y >= spec.target.num_classes)]
        if wrong.numel():
            raise ValueError(
                f"{role} `y` must hold classes from 0 to {spec.target.num_classes - 1}; "
                f"got {wrong[0].item()}."
            )


def _check_finite(values: torch.Tensor, name: str) -> None:
    num_bad = int((~torch.isfinite(values)).sum())
    if num_bad:
        raise ValueError(
            f"{name} must be finite wherever the mask is True; {num_bad} of its numbers are not."
        )
