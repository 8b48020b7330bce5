"""An experiment: learners are trained and measured beside baselines, and the results are kept."""

import math
import re
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

import attrs
import rich
import torch
from torch import nn

from iai_train.config import FitConfig, Settings, check_no_path
from iai_train.files import make_folder
from iai_train.interfaces import Estimator, Source, TaskSampler, TasksT, Traceable
from iai_train.measuring.cost import cost_rows, measure_once, peak_bytes, seconds
from iai_train.measuring.estimator import each_task
from iai_train.measuring.evaluate import Answer, Metric, evaluate, first
from iai_train.processes import process_generator, process_index, resolve_device
from iai_train.progress import progress_bar
from iai_train.reporting.figure import figure
from iai_train.reporting.report import RunInfo, table, write_metrics
from iai_train.row import Row
from iai_train.training.fit import fit
from iai_train.training.gradient import Weight

ChoiceT = TypeVar("ChoiceT")
ModuleT = TypeVar("ModuleT", bound=nn.Module)
Method = Traceable[Any] | Answer | Estimator
Steps = Collection[int] | Mapping[int, int]


class Experiment:
    """Trains learners, measures them and baselines, and writes metrics.json and figure.png.

    `measure` and `tuned` return rows, `rows` collects them, and `finish` writes them down and
    prints one table. Run again in the same folder, an experiment that was stopped goes on from its
    last checkpoint; measurements are taken anew. It seeds torch's global generator.

    Args:
        name: Name of the experiment in metrics.json.
        preset: Name of the preset that the settings came from.
        settings: What `parse` returned.
        metrics: Name and function of each metric. The table and the figure show the first, and
            `tuned` chooses by it.
        best: Whether the smallest value of the first metric is best, or the largest.
        costs: Whether to measure what an answer costs too, on split "in": "seconds" to read the
            examples anew and answer, and the growth of torch's memory, "bytes", both a task of the
            first batch. They are kept in costs.json. A second table shows the seconds.
        data: Name and fingerprint of each data set that learners are trained on; a checkpoint of
            other data is refused. More can be added to the attribute `data` before training, and
            data sets that are only measured on to `test_data`. metrics.json names both.

    Raises:
        OSError: Nothing can be written to `settings.out`.
        TypeError: `settings.train` holds a path.
    """

    def __init__(
        self,
        name: str,
        preset: str,
        settings: Settings,
        *,
        metrics: Mapping[str, Metric],
        best: Literal["smallest", "largest"] = "smallest",
        costs: bool = False,
        data: Mapping[str, str] | None = None,
    ) -> None:
        check_no_path("settings.train", settings.train)
        self.settings, self.device = settings, resolve_device(settings.device)
        self._name, self._preset = name, preset
        self._metrics, self._metric = metrics, next(iter(metrics))
        self._costs, self._sign = costs, 1 if best == "largest" else -1
        self.data, self.test_data = dict(data or {}), dict[str, str]()
        self.rows, self._began = list[Row](), time.perf_counter()
        make_folder(settings.out)
        torch.manual_seed(settings.seed)

    def draw(
        self,
        sampler: TaskSampler[TasksT],
        num_tasks: int,
        *,
        num_support: int,
        num_query: int,
        tuning: bool = False,
        chunk: int | None = None,
    ) -> list[TasksT]:
        """Draws batches of tasks to measure on, the same for every method.

        Args:
            sampler: The distribution of tasks.
            num_tasks: How many in all.
            num_support: Support examples of a task.
            num_query: Queries of a task.
            tuning: Draws other tasks from the same sampler, to choose by: see `tuned`.
            chunk: The most tasks of a batch; None: all of them.
        """
        generator = self.generator(15_000 if tuning else 10_000)
        chunk = chunk or num_tasks
        sizes = [min(chunk, num_tasks - begin) for begin in range(0, num_tasks, chunk)]
        counts = {"num_support": num_support, "num_query": num_query}
        return [sampler.sample(size, **counts, generator=generator) for size in sizes]

    def generator(self, offset: int) -> torch.Generator:
        """A generator of the seed plus an offset; `draw` uses the offsets 10,000 and 15,000."""
        return torch.Generator(self.device).manual_seed(self.settings.seed + offset)

    def training_generator(self) -> torch.Generator:
        """A generator for training tasks, each process's own: see `process_generator`."""
        return process_generator(self.settings.seed, self.settings.device)

    def build(self, make: Callable[..., ModuleT], *arguments: Any) -> ModuleT:
        """`make(*arguments)`, whose weights depend on the run's seed and on no earlier draw."""
        torch.manual_seed(self.settings.seed)
        module = make(*arguments).to(self.device)
        if process_index():  # each draws its own dropout and random starts in training
            torch.manual_seed(self.training_generator().initial_seed())
        return module

    def train(
        self,
        method: str,
        learner: nn.Module,
        source: Source[Any, Any],
        config: FitConfig | None = None,
        *,
        weight: Weight | None = None,
    ) -> None:
        """Trains a learner in place, from the checkpoint that a stopped run left.

        Args:
            method: Name of the learner in the rows. Its checkpoint lies in a folder of that name.
            learner: The learner, moved to the run's device.
            source: Where its tasks come from.
            config: Settings of `fit`; by default those of the experiment.
            weight: Weight of each loss given the number of examples seen: see `fit`.

        Raises:
            CheckpointError: The checkpoint is damaged, or of another method, seed, data or `train`.
        """
        settings = self.settings
        identity = {"method": method, "seed": settings.seed, "data": self.data}
        fit(
            learner,
            source,
            config or settings.fit,
            out=settings.out / re.sub(r"\W+", "-", method.replace("'", "")),
            device=settings.device,
            weight=weight,
            name=method,
            setup={**identity, "train": attrs.asdict(settings.train)},
        )

    def measure(
        self,
        method: str,
        learner: Method,
        batches: Sequence[Any],
        steps: Steps,
        *,
        split: str = "in",
    ) -> list[Row]:
        """The rows of a learner, a baseline or an oracle.

        Args:
            method: Its name in the rows.
            learner: A learner; a function that is given labelled tasks and returns outputs for
                their queries; or an estimator, which is fitted to each task: see `each_task`.
            batches: Labelled tasks.
            steps: After which of its steps a learner is measured. Or, for each step of the rows, a
                number of examples: what a learner that refines its state has read by that step. A
                function is given the tasks with so many of their first examples alone; a learner
                reads these in one step.
            split: Name of the tasks in the rows.
        """
        return self._priced(method, learner, batches, steps, split, method)

    def _priced(
        self, method: str, learner: Method, tasks: Sequence[Any], steps: Steps, split: str, of: str
    ) -> list[Row]:
        """The rows of the metrics, and of what the answers cost a task where that is asked for."""
        rows = self._measure(method, learner, tasks, steps, split)
        if not self._costs or split != "in":
            return rows
        num_tasks, num_query = tasks[0].query.mask.shape
        for row in [row for row in rows if row.metric == self._metric]:
            at = _only(steps, [row.step])
            work = partial(self._measure, method, learner, tasks[:1], at, split)
            costs = {"seconds": lambda work=work: seconds(work, self.device, repeats=2) / num_tasks}
            if not isinstance(learner, Estimator):  # whose memory is not torch's
                costs["bytes"] = lambda work=work: peak_bytes(work, self.device) / num_tasks
            what = f"of {of}, step {row.step}, {row.examples:g} examples, {num_query} queries"
            rows += cost_rows(row, f"{what}, {num_tasks} tasks at a time", costs, self.once)
        return rows

    def _measure(
        self, method: str, learner: Method, batches: Sequence[Any], steps: Steps, split: str
    ) -> list[Row]:
        """The rows of the metrics alone."""
        answer = each_task(learner) if isinstance(learner, Estimator) else learner
        of: dict[str, Any] = {"method": method, "split": split, "seed": self.settings.seed}
        of["metrics"] = self._metrics
        if not isinstance(steps, Mapping):
            return evaluate(answer, batches, steps=steps, **of)
        rows = []
        for step, examples in steps.items():
            read = [first(batch, examples) for batch in batches]
            found = evaluate(answer, read, steps=[1], **of)
            rows += [attrs.evolve(row, step=step) for row in found]
        return rows

    def tuned(
        self,
        method: str,
        make: Callable[[ChoiceT], Method],
        choices: Collection[ChoiceT],
        tuning: Sequence[Any],
        batches: Sequence[Any],
        steps: Steps,
        *,
        split: str = "in",
    ) -> list[Row]:
        """The rows of a baseline with a free number, such as a learning rate.

        At each step the number counts that is best on other tasks, by the mean of the first metric.
        A mean that is not finite is worse than any other.

        Args:
            method: Name of the baseline in the rows.
            make: Makes the baseline with a number: see `measure`.
            choices: The numbers to choose from.
            tuning: Labelled tasks, by which is chosen.
            batches: Other labelled tasks, which the rows are of.
            steps: See `measure`.
            split: Name of the tasks in the rows.

        Raises:
            ValueError: A batch of `tuning` is one of `batches`, or there is nothing to choose from.
        """
        if any(tasks is other for tasks in tuning for other in batches):
            raise ValueError("`tuning` must be other tasks than `batches`; got the same.")
        if not choices:
            raise ValueError("`choices` must hold at least one number; got none.")
        scores: dict[int, dict[ChoiceT, float]] = defaultdict(dict)
        with progress_bar(shown=process_index() == 0) as bar:
            for choice in bar.track(choices, description=f"{method}: tuning"):
                for row in self._measure(method, make(choice), tuning, steps, split):
                    if row.metric == self._metric:
                        score = self._sign * row.value if math.isfinite(row.value) else -math.inf
                        scores[row.step][choice] = score
        best = {step: max(found, key=found.__getitem__) for step, found in scores.items()}
        rows = []
        for chosen in dict.fromkeys(best.values()):
            at = _only(steps, [step for step, choice in best.items() if choice == chosen])
            of = f"{method} with {chosen}"
            rows += self._priced(method, make(chosen), batches, at, split, of)
        return sorted(rows, key=lambda row: row.step)

    def once(self, what: str, work: Callable[[], float]) -> float:
        """A number that is measured once and kept in costs.json: see `measure_once`."""
        return measure_once(self.settings.out / "costs.json", f"{what}, on {self.device}", work)

    def finish(
        self,
        *,
        by: Literal["examples", "step"] = "examples",
        scale: Literal["log", "linear"] = "log",
        title: str = "",
    ) -> None:
        """Writes metrics.json and figure.png and prints the table, in the main process alone.

        Args:
            by: What the columns of the table and the x axis are.
            scale: Scale of the figure's y axis.
            title: What the figure shows, in a sentence.
        """
        if process_index():
            return
        info = RunInfo(
            example=self._name,
            preset=self._preset,
            seed=self.settings.seed,
            device=str(self.device),
            wall_seconds=time.perf_counter() - self._began,
            data=self.data | self.test_data,
        )
        path = write_metrics(self.settings.out, info, self.rows)
        picture = path.with_name("figure.png")
        figure(self.rows, picture, metric=self._metric, scale=scale, by=by, title=title)
        for metric in (self._metric, *["seconds"] * self._costs):
            rich.print(table(self.rows, metric=metric, by=by))
        rich.print(f"Wrote {path} and {picture}.")


def _only(steps: Steps, wanted: Collection[int]) -> Steps:
    return {step: steps[step] for step in wanted} if isinstance(steps, Mapping) else wanted
