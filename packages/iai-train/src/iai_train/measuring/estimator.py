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
        raises `ValueError` for a task without an observed example or without targets, and for
        predictions of another shape.

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
        if support.y is None:
            raise ValueError("`tasks` must have targets in their support; got None.")
        if not support.mask.any(1).all():
            raise ValueError("`tasks` must have at least one observed example each; one has none.")
        classes = not support.y.is_floating_point()
        width = int(support.y[support.mask].max()) + 1 if classes else support.y.shape[-1]
        outputs = torch.zeros(*query.mask.shape, width, dtype=None if classes else support.y.dtype)
        for task, (observed, asked) in enumerate(zip(support.mask, query.mask, strict=True)):
            x, query_x = support.x[task, observed].flatten(1), query.x[task, asked].flatten(1)
            predicted = _predict(estimator, x.cpu(), support.y[task, observed].cpu(), query_x.cpu())
            rows = len(query_x) if classes else len(query_x) * width
            if predicted.numel() != rows:
                what = "a class" if classes else f"{width} numbers"
                raise ValueError(
                    f"`estimator` must predict {what} for each of {len(query_x)} rows; got shape "
                    f"{tuple(predicted.shape)}."
                )
            predicted = one_hot(predicted.flatten().long(), width) if classes else predicted
            outputs[task, asked.cpu()] = predicted.reshape(-1, width).to(outputs)
        return outputs.to(query.x.device)

    return answer


def _predict(estimator: Estimator, x: Tensor, y: Tensor, query_x: Tensor) -> Tensor:
    if not y.is_floating_point() and bool((y == y[0]).all()):
        return y[:1].expand(len(query_x))
    fitted = copy.deepcopy(estimator)
    fitted.fit(x.numpy(), y.numpy())
    return torch.as_tensor(fitted.predict(query_x.numpy()))
