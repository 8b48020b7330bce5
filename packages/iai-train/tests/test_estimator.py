"""Estimators fitted to each task alone."""

import attrs
import numpy
import pytest
import torch
from iai_train import accuracy, each_task
from least_squares import Batch, Examples
from torch import Tensor


class Nearest:
    """One nearest neighbour, of a few lines."""

    def fit(self, x, y):
        assert not hasattr(self, "x"), "each task has a model of its own"
        assert len(x) == len(y) > 0
        assert (abs(x) < 100).all()
        self.x, self.y = x, y

    def predict(self, x):
        assert (abs(x) < 100).all()
        return self.y[abs(x[:, None] - self.x).sum(-1).argmin(1)]


def classified(y: list[list[int]], mask: list[list[bool]]) -> Examples:
    """Inputs near their class, and what must not be read at masked positions."""
    labels, observed = torch.tensor(y), torch.tensor(mask)
    x = labels[..., None].float() + torch.tensor([0.0, 0.2])
    return Examples(x.where(observed[..., None], torch.nan), labels, observed)


SUPPORT = classified([[0, 1, 2, 9], [1, 0, 0, 2]], [[True, True, True, False], [True] * 4])
QUERY = classified([[2, 0, 1], [0, 7, 2]], [[True] * 3, [True, False, True]])


def test_padding_is_neither_learned_from_nor_answered() -> None:
    outputs = each_task(Nearest())(Batch(SUPPORT, QUERY))
    assert outputs.argmax(-1)[QUERY.mask].tolist() == [2, 0, 1, 0, 2]
    assert outputs.shape == (2, 3, 3)
    assert not outputs[~QUERY.mask].any()
    assert accuracy(outputs, QUERY).tolist() == [1, 1]


def test_tasks_are_answered_as_they_are_one_by_one() -> None:
    both = each_task(Nearest())(Batch(SUPPORT, QUERY))
    for task in range(2):
        only = slice(task, task + 1)
        alone = each_task(Nearest())(Batch(SUPPORT[only], QUERY[only]))
        assert torch.equal(both[only], alone)


class Refuses(Nearest):
    def fit(self, x, y):
        if len(set(y.tolist())) == 1:
            raise ValueError("There must be two classes.")
        super().fit(x, y)


def test_a_task_of_one_class_is_answered_with_that_class() -> None:
    support = classified([[1, 1, 0], [0, 2, 0]], [[True, True, False], [True] * 3])
    query = classified([[0, 1], [2, 0]], [[True] * 2] * 2)
    outputs = each_task(Refuses())(Batch(support, query))
    assert outputs.argmax(-1).tolist() == [[1, 1], [2, 0]]


class Mean:
    def fit(self, x, y):
        self.mean = y.mean(0)

    def predict(self, x):
        return (0 * x[:, :1] + self.mean).squeeze()


@pytest.mark.parametrize("y_dim", [1, 2])
def test_numbers_come_back_in_the_targets_shape(y_dim: int) -> None:
    x = torch.zeros(1, 3, 2)
    y = torch.tensor([[1.0], [3.0], [50.0]]).expand(1, 3, y_dim)
    support = Examples(x, y, torch.tensor([[True, True, False]]))
    query = Examples(x, y, torch.ones(1, 3, dtype=torch.bool))
    outputs = each_task(Mean())(Batch(support, query))
    assert torch.equal(outputs, torch.full((1, 3, y_dim), 2.0))


def test_images_are_flattened() -> None:
    image = Examples(torch.rand(1, 2, 3, 3), torch.tensor([[0, 1]]), torch.ones(1, 2).bool())
    assert each_task(Nearest())(Batch(image, image)).argmax(-1).tolist() == [[0, 1]]


def test_a_task_without_an_example_is_refused() -> None:
    nothing = attrs.evolve(SUPPORT, mask=SUPPORT.mask & torch.tensor([[True], [False]]))
    with pytest.raises(ValueError, match="at least one observed example each"):
        each_task(Nearest())(Batch(nothing, QUERY))


def test_a_task_without_targets_and_an_estimator_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^`tasks` must have targets in their support; got None"):
        each_task(Nearest())(Batch(attrs.evolve(SUPPORT, y=None), QUERY))

    class Pairs(Nearest):
        def predict(self, x):
            return numpy.zeros((len(x), 2))

    message = r"^`estimator` must predict a class for each of \d rows; got shape \(\d, 2\)\.$"
    with pytest.raises(ValueError, match=message):
        each_task(Pairs())(Batch(SUPPORT, QUERY))


def test_scikit_learn_is_what_it_is_alone() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")

    def draw(seed: int) -> Examples:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(3, 30, 4, generator=generator)
        noise = torch.randn(3, 30, generator=generator)
        return Examples(x, (x.sum(-1) + noise > 0).long(), torch.ones(3, 30).bool())

    support, query = draw(0), draw(1)
    scores = accuracy(each_task(linear_model.LogisticRegression())(Batch(support, query)), query)

    def alone(x: Tensor, y: Tensor, query_x: Tensor, query_y: Tensor) -> float:
        model = linear_model.LogisticRegression().fit(x.numpy(), y.numpy())
        return model.score(query_x.numpy(), query_y.numpy())

    expected = list(map(alone, support.x, support.y, query.x, query.y))
    assert scores.tolist() == pytest.approx(expected)
