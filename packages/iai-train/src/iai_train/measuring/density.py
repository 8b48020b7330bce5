"""Density estimators, such as scikit-learn's mixtures, fitted to each task alone: a baseline."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def sample_by_bic(
    estimators: Sequence[Any], samples: Float[Tensor, "task n dim"], num_samples: int
) -> Float[Tensor, "task num_samples dim"]:
    """Samples of the estimator with the lowest BIC, each task by itself.

    The estimators are fitted on the CPU, in float64, to a copy for each task.

    Args:
        estimators: Choices of the model, at least one: anything with `fit(x)`, `bic(x)` and
            `sample(num_samples)`, of which the first result is the samples.
        samples: What each task shows.
        num_samples: How many samples to draw of each task.

    Raises:
        ValueError: There is no estimator, or `samples` have another number of axes.

    >>> class Mean:
    ...     def fit(self, x):
    ...         self.mean = x.mean(0)
    ...     def bic(self, x):
    ...         return 0.0
    ...     def sample(self, n):
    ...         return self.mean.repeat(n)[:, None], None
    >>> sample_by_bic([Mean()], torch.tensor([[[1.0]], [[2.0]]]), 2).tolist()
    [[[1.0], [1.0]], [[2.0], [2.0]]]
    """
    if not estimators:
        raise ValueError("`estimators` must hold at least one; got none.")
    if samples.dim() != 3 or not len(samples):
        raise ValueError(
            f"`samples` must be (task, n, dim), of at least one task; got {tuple(samples.shape)}."
        )
    drawn = []
    for task in samples.double().cpu().numpy():
        fitted = [copy.deepcopy(estimator) for estimator in estimators]
        for estimator in fitted:
            estimator.fit(task)
        best = min(fitted, key=lambda estimator: estimator.bic(task))
        drawn.append(torch.as_tensor(best.sample(num_samples)[0]))
    return torch.stack(drawn).to(samples)
