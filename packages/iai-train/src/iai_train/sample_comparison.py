"""Methods that draw samples of unseen distributions, compared with true samples."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from iai_train.experiment import Experiment
from iai_train.interfaces import Snapshot, TaskSampler
from iai_train.measuring.cost import seconds
from iai_train.measuring.density import sample_by_bic
from iai_train.measuring.distance import maximum_mean_discrepancy, wasserstein
from iai_train.measuring.evaluate import Metric
from iai_train.processes import process_index
from iai_train.reporting.figure import clouds
from iai_train.row import Row

_TRIED = 20  # iterations whose time says how many fit into a given time
_SHOWN = 2  # tasks of each split in a figure
Field = Callable[[Tensor], Tensor]  # [point, time] to velocity


class SampleComparison:
    """Measures methods that draw samples of distributions, on unseen tasks.

    The support of a task is samples of a distribution. A method reads the first of them and draws
    new ones. The metrics are distances between these and samples of the task that were held back. A
    velocity field draws samples by carrying noise along; the noise is the same for all fields.

    Args:
        run: The experiment, made with `metrics=SampleComparison.metrics`.
        samplers: The distribution of tasks of each split. `sample(..., latent=tasks.latent)` must
            draw new samples of earlier tasks.
        num_tasks: Tasks of each split.
        num_samples: Samples of a task that a method draws, and that are held back.
        read: Samples of a task that a method has read by each step of the rows.
        flow: Carries noise along a field: `flow(field, noise, tolerance=tolerance)`. That of
            iai-regimes will do.
        tolerance: Error tolerance of the solver in `flow`.
    """

    metrics: ClassVar[Mapping[str, Metric]] = {
        "w2": lambda samples, held_back: wasserstein(samples, held_back.x),
        "w1": lambda samples, held_back: wasserstein(samples, held_back.x, order=1),
        "mmd": lambda samples, held_back: maximum_mean_discrepancy(samples, held_back.x),
    }
    """Wasserstein distances of order 2 and 1, and the squared maximum mean discrepancy."""

    def __init__(
        self,
        run: Experiment,
        samplers: Mapping[str, TaskSampler[Any]],
        *,
        num_tasks: int,
        num_samples: int,
        read: Mapping[int, int],
        flow: Callable[..., Tensor],
        tolerance: float,
    ) -> None:
        self._run, self._samplers, self._read = run, samplers, read
        self._num_samples, self._flow, self._tolerance = num_samples, flow, tolerance
        self._tests: dict[str, Any] = {}
        self._fields: list[str] = []  # names of those measured
        self._longest: dict[tuple[str, int], float] = {}  # seconds by split and samples read
        self._shown: dict[str, dict[str, Tensor]] = {split: {} for split in samplers}
        most = max(read.values())
        for split, sampler in samplers.items():
            [tasks] = run.draw(sampler, num_tasks, num_support=most + num_samples, num_query=0)
            parts = {"support": tasks.support[:, :most], "query": tasks.support[:, most:]}
            self._tests[split] = attrs.evolve(tasks, **parts)

    def measure_learner(self, method: str, adapt: Callable[[Any], Snapshot]) -> list[Row]:
        """The rows of a learner that predicts a velocity field when it has read samples.

        Args:
            method: Its name in the rows.
            adapt: Reads the support of tasks, as `Iterated.adapt` of iai-iterate does. A module is
                to be in evaluation mode.
        """
        return self.measure_field(method, lambda tasks: adapt(tasks.support).predict)

    def measure_field(self, method: str, field_of: Callable[[Any], Field]) -> list[Row]:
        """The rows of a velocity field, such as the true one.

        Args:
            method: Its name in the rows.
            field_of: Returns the velocity fields of tasks, `task n dim+1` to `task n dim`.
        """
        self._fields.append(method)

        def answer(split: str, tasks: Any) -> Tensor:
            began, num_read = time.perf_counter(), tasks.support.mask.shape[1]
            samples = self._carry(field_of(tasks))
            took = time.perf_counter() - began
            self._longest[split, num_read] = max(took, self._longest.get((split, num_read), 0.0))
            if method == self._fields[0]:
                self._shown[split][f"{num_read} read"] = samples
            return samples

        return self._measure(method, answer)

    def measure_as_long(self, method: str, fit: Callable[[Any, int], Field]) -> list[Row]:
        """The rows of velocity fields that are fitted to each task alone.

        At each step of the rows they are fitted for as long as the slowest learner or field that
        was measured before took to draw samples, or for a second if none was. The number of
        iterations is found once, and kept for a run that goes on.

        Args:
            method: Its name in the rows.
            fit: Fits the fields of tasks for a number of iterations.
        """

        def answer(split: str, tasks: Any) -> Tensor:
            num_tasks, num_read = tasks.support.mask.shape

            def iterations() -> float:
                tried = seconds(partial(fit, tasks, _TRIED), self._run.device, repeats=1)
                return self._longest.get((split, num_read), 1.0) / tried * _TRIED

            what = (
                f"iterations of {method}, {num_tasks} tasks of {split}, {num_read} samples read, "
                f"{self._num_samples} drawn, tolerance {self._tolerance}, "
                f"as long as {', '.join(self._fields)}"
            )
            number = max(1, round(self._run.once(what, iterations)))
            return self._carry(fit(tasks, number))

        return self._measure(method, answer)

    def measure_density(
        self, method: str, make: Callable[[int], Any], numbers: Sequence[int]
    ) -> list[Row]:
        """The rows of a density estimator fitted to each task alone: see `sample_by_bic`.

        Args:
            method: Its name in the rows.
            make: Makes the estimator with a number of components.
            numbers: The numbers to choose from; those that are below the number of samples read.
        """

        def answer(_: str, tasks: Any) -> Tensor:
            x = tasks.support.x
            estimators = [make(number) for number in numbers if number < x.shape[1]]
            return sample_by_bic(estimators, x, self._num_samples)

        return self._measure(method, answer)

    def measure_references(self) -> list[Row]:
        """The rows of the samples that were read, drawn again, and of as many true samples.

        The samples read are drawn without replacement if there are enough of them. The true samples
        are new ones: their distances are those between two sets from the same distribution.
        """
        again = self._measure("samples read, drawn again", self._drawn_again)
        return again + self._measure("as many true samples", self._true_samples)

    def draw(self, path: Path) -> None:
        """Draws samples of two tasks of each split: of the first learner or field, and true ones.

        In several processes the main one does.

        Args:
            path: The file; its ending names the format.

        Raises:
            OSError: The file could not be written.
        """
        if process_index():
            return
        lines = []
        for split, tasks in self._tests.items():
            panels = {**self._shown[split], "held back": tasks.query.x}
            for task in range(min(_SHOWN, len(tasks.query.x))):
                lines.append((split, {title: points[task] for title, points in panels.items()}))
        clouds(lines, path)

    def _measure(self, method: str, answer: Callable[[str, Any], Tensor]) -> list[Row]:
        rows = []
        for split, tasks in self._tests.items():
            draw = partial(answer, split)
            rows += self._run.measure(method, draw, [tasks], self._read, split=split)
        return rows

    def _carry(self, field: Field) -> Tensor:
        shape = next(iter(self._tests.values())).query.x.shape
        generator = self._run.generator(20_000)
        noise = torch.randn(shape, generator=generator, device=generator.device)
        return self._flow(field, noise, tolerance=self._tolerance)

    def _drawn_again(self, _: str, tasks: Any) -> Tensor:
        x: Tensor = tasks.support.x
        number, generator = x.shape[1], self._run.generator(0)
        if number < self._num_samples:
            size = (self._num_samples,)
            index = torch.randint(number, size, generator=generator, device=x.device)
        else:
            index = torch.randperm(number, generator=generator, device=x.device)
        return x[:, index[: self._num_samples]]

    def _true_samples(self, split: str, tasks: Any) -> Tensor:
        sampler: Any = self._samplers[split]
        samples: Tensor = sampler.sample(
            len(tasks.query.x),
            num_support=self._num_samples,
            num_query=0,
            generator=self._run.generator(30_000),
            latent=tasks.latent,
        ).support.x
        return samples
