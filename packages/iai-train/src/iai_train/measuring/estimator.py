"""An estimator, such as scikit-learn's, fitted to each task alone: a baseline."""

import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from iai_train.interfaces import Estimator
from iai_train.measuring.evaluate import Answer


def each_task(estimator: Estimator) -> Answer:
    """The answers of an estimator that is fitted to each task's observed examples alone.

    It is fitted on the CPU, to a copy for each task. Where all the observed examples of a task are
    of one class, the answer is that class: many classifiers refuse to be fitted to it.

    Args:
        estimator: Anything with `fit(x, y)` and `predict(x)`.

    Returns:
        A function from labelled tasks to outputs for their queries: a 1 at the predicted class,
        `task n num_classes`, or the predicted numbers, `task n y_dim`. Masked queries have 0s. It
        raises `ValueError` for a task without an observed example.

    >>> from types import SimpleNamespace as Record
    >>> class Mean:
    ...     def fit(self, x, y):
    ...         self.mean = y.mean(0)
    ...     def predict(self, x):
    ...         return 0 * x + self.mean
    >>> x, y = torch.zeros(1, 2, 1), torch.tensor([[[1.0], [3.0]]])
    >>> examples = Record(x=x, y=y, mask=torch.tensor([[True, True]]))
    >>> each_task(Mean())(Record(support=examples, query=examples))
    tensor([[[2.],
             [2.]]])
    """

    def answer(tasks: Any) -> Tensor:
        support, query = tasks.support, tasks.query
        if not support.mask.any(1).all():
            raise ValueError("`tasks` must have at least one observed example each; one has none.")
        num_classes = None
        if not support.y.is_floating_point():
            num_classes = int(support.y[support.mask].max()) + 1
        parts = (support.x, support.y, support.mask, query.x, query.mask)
        each = zip(*(part.cpu() for part in parts), strict=True)
        answers = [_answer(estimator, num_classes, *task) for task in each]
        return torch.stack(answers).to(query.x.device)

    return answer


def _answer(
    estimator: Estimator,
    num_classes: int | None,
    x: Tensor,
    y: Tensor,
    observed: Tensor,
    query_x: Tensor,
    asked: Tensor,
) -> Tensor:
    """The answers to one task's queries."""
    x, y, query_x = x[observed].flatten(1), y[observed], query_x[asked].flatten(1)
    if num_classes is not None and bool((y == y[0]).all()):
        predicted = y[:1].expand(len(query_x))
    else:
        fitted = copy.deepcopy(estimator)
        fitted.fit(x.numpy(), y.numpy())
        predicted = torch.as_tensor(fitted.predict(query_x.numpy()))
    if num_classes is None:
        found = predicted.to(y.dtype).reshape(-1, y.shape[-1])
    else:
        found = one_hot(predicted.long(), num_classes).to(x.dtype)
    answers = found.new_zeros(len(asked), found.shape[-1])
    answers[asked] = found
    return answers
