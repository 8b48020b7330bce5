"""The nearest class mean: a baseline for few-shot classification that learns nothing."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, cdist
from torch.nn.functional import one_hot


def nearest_mean(tasks: Any) -> Float[Tensor, "task n num_classes"]:
    """Answers queries by the class whose mean example is nearest.

    Args:
        tasks: Labelled tasks, with classes as targets.

    Returns:
        Minus the Euclidean distance of each query to the mean of each class's observed examples,
        and minus infinity for a class without one.

    Raises:
        ValueError: Targets are no classes, numbered from 0, or inputs of support and queries differ
            in size.

    >>> import torch
    >>> from types import SimpleNamespace as Record
    >>> x, mask = torch.tensor([[[0.0], [2.0], [9.0]]]), torch.ones(1, 3, dtype=torch.bool)
    >>> support = Record(x=x, y=torch.tensor([[0, 0, 1]]), mask=mask)
    >>> nearest_mean(Record(support=support, query=Record(x=torch.tensor([[[3.0]]]))))
    tensor([[[-2., -6.]]])
    """
    support, query = tasks.support, tasks.query
    if support.y is None or support.y.is_floating_point() or support.y.dim() != 2:
        got = None if support.y is None else f"{support.y.dtype} of {tuple(support.y.shape)}"
        raise ValueError(f"`support.y` must hold classes, int64 of (task, n); got {got}.")
    if (len(support.x), *support.x.shape[2:]) != (len(query.x), *query.x.shape[2:]):
        raise ValueError(
            "`support.x` and `query.x` must be of the same tasks and have inputs of one shape; got "
            f"{tuple(support.x.shape)} and {tuple(query.x.shape)}."
        )
    observed, classes = support.mask[..., None], support.y.where(support.mask, 0)
    if bool((classes < 0).any()):
        raise ValueError(f"`support.y` must hold classes from 0 on; got {int(classes.min())}.")
    of_class = one_hot(classes).to(support.x.dtype) * observed
    counts = of_class.sum(1)[..., None]
    x = support.x.flatten(2).where(observed, 0)  # what is not observed may be NaN
    distances = cdist(query.x.flatten(2), of_class.mT @ x / counts)
    return -distances.where(counts.mT > 0, float("inf"))
