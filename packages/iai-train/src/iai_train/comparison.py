"""Methods, compared on unseen tasks of several splits."""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import attrs

from iai_train.config import ComparisonSizes
from iai_train.experiment import ChoiceT, Experiment, Method, Steps
from iai_train.interfaces import TaskSampler
from iai_train.measuring.classifier import simple_classifiers
from iai_train.row import Row


@attrs.frozen(eq=False, kw_only=True)
class _Split:
    tests: list[Any]
    tuning: list[Any]
    read: Mapping[int, int]


class Comparison:
    """Measures each method on every split, with the same tasks for all.

    Args:
        run: The experiment.
        sizes: How many tasks and queries.
    """

    def __init__(self, run: Experiment, sizes: ComparisonSizes) -> None:
        self._run, self._sizes = run, sizes
        self._splits: dict[str, _Split] = {}

    def add(
        self,
        split: str,
        tests: TaskSampler[Any],
        tuning: TaskSampler[Any],
        read: Mapping[int, int],
        *,
        most_queries: int | None = None,
    ) -> None:
        """Draws the tasks of a split.

        Args:
            split: Its name; "in" for tasks like those trained on.
            tests: The distribution of the tasks that the rows are of.
            tuning: That of the tasks by which the free numbers of baselines are chosen.
            read: The steps of the rows, and how many examples of a task are read by each.
            most_queries: Queries that a task has at the most.
        """
        sizes = self._sizes
        num_query = min(sizes.num_query, most_queries or sizes.num_query)
        draw = partial(
            self._run.draw, num_support=max(read.values()), num_query=num_query, chunk=sizes.chunk
        )
        self._splits[split] = _Split(
            tests=draw(tests, sizes.num_tasks),
            tuning=draw(tuning, sizes.num_tuning, tuning=True),
            read=read,
        )

    def measure(self, method: str, learner: Method, *, refines: bool = False) -> list[Row]:
        """The rows of a learner, a baseline or an oracle, on every split.

        Args:
            method: Its name in the rows.
            learner: See `Experiment.measure`.
            refines: True for a learner that takes the steps one by one, a minibatch at each. False
                for a method that is given, for each step, all the examples read by then at once.
        """
        rows = []
        for split, of in self._splits.items():
            steps = _steps(of, refines)
            rows += self._run.measure(method, learner, of.tests, steps, split=split)
        return rows

    def tuned(
        self,
        method: str,
        make: Callable[[ChoiceT], Method],
        choices: Collection[ChoiceT],
        *,
        refines: bool = False,
    ) -> list[Row]:
        """The rows of a baseline with a free number, on every split: see `Experiment.tuned`.

        Args:
            method: Its name in the rows.
            make: Makes the baseline with a number.
            choices: The numbers, one of which is chosen for each split and step.
            refines: See `measure`.
        """
        rows = []
        for split, of in self._splits.items():
            tasks = of.tuning, of.tests
            steps = _steps(of, refines)
            rows += self._run.tuned(method, make, choices, *tasks, steps, split=split)
        return rows

    def measure_classifiers(self) -> list[Row]:
        """The rows of scikit-learn's simplest classifiers on every split: see `simple_classifiers`.

        They are fitted to each task alone, and their free numbers tuned.
        """
        fewest = min(min(split.read.values()) for split in self._splits.values())
        rows = []
        for method, (make, choices) in simple_classifiers(fewest).items():
            rows += self.tuned(method, make, choices)
        return rows


def _steps(split: _Split, refines: bool) -> Steps:
    return list(split.read) if refines else split.read
