"""Scikit-learn's simplest classifiers, each fitted to one task alone: baselines."""

import warnings
from collections.abc import Callable
from typing import Any

from iai_train.interfaces import Estimator

_STRENGTHS = (1e-3, 1e-2, 0.1, 1.0, 10.0)
_NEIGHBOURS = (1, 3, 5, 10)
_MOST_ITERATIONS = 200
Baseline = tuple[Callable[[Any], Estimator], tuple[float, ...]]


def simple_classifiers(num_examples: int) -> dict[str, Baseline]:
    """Logistic regression and nearest neighbours, each with a number that is free.

    Needs scikit-learn: `pip install "iai-train[classifiers]"`.

    Args:
        num_examples: The fewest examples that they are fitted to.

    Returns:
        By name, what makes the classifier with a number, and the numbers to choose from. For
        "logistic regression" it is scikit-learn's C, one over the strength of the penalty, from
        0.001 to 10; at most 200 iterations are taken. For "nearest neighbours" it is how many
        neighbours are asked for their most frequent class: 1, 3, 5 or 10, up to `num_examples`.

    Raises:
        ImportError: If scikit-learn is not installed.
        ValueError: `num_examples` is below 1.

    >>> simple_classifiers(4)["nearest neighbours"][1]  # doctest: +SKIP
    (1, 3)
    """
    try:
        from sklearn.neighbors import KNeighborsClassifier
    except ModuleNotFoundError as error:
        raise ImportError(
            "`simple_classifiers` needs scikit-learn: pip install 'iai-train[classifiers]'."
        ) from error
    if num_examples < 1:
        raise ValueError(f"`num_examples` must be at least 1; got {num_examples}.")
    near = tuple(number for number in _NEIGHBOURS if number <= num_examples)
    return {
        "logistic regression": (_LogisticRegression, _STRENGTHS),
        "nearest neighbours": (KNeighborsClassifier, near),
    }


class _LogisticRegression:
    """Scikit-learn's; no warning that it was stopped before it converged."""

    def __init__(self, c: float) -> None:
        from sklearn.linear_model import LogisticRegression

        self._model = LogisticRegression(C=c, max_iter=_MOST_ITERATIONS)

    def fit(self, x: Any, y: Any) -> None:
        from sklearn.exceptions import ConvergenceWarning

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._model.fit(x, y)

    def predict(self, x: Any) -> Any:
        return self._model.predict(x)
