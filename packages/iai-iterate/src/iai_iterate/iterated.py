"""Any regime, refined over minibatches: the loop that all methods share."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from iai_iterate.adapted import Adapted
from iai_iterate.check import check_some_finite, check_state, check_tasks, count_tasks
from iai_iterate.interfaces import Batch, GradientMode, Regime, Tasks
from iai_iterate.leaf import contiguous, unaliased
from iai_iterate.minibatch import (
    as_sizes,
    longest_set,
    minibatches,
    steps_of_a_pass,
    stretches,
)
from iai_iterate.modes.implicit_gradient import ImplicitGradient
from iai_iterate.modes.truncated import greedy, unrolled
from iai_iterate.rollout import detach, nothing_of
from iai_iterate.state_file import read_state
from iai_iterate.traced import losses_of_trace, most_steps, traces
from iai_iterate.tree import mapped


class Refinement(NamedTuple):
    """The result of a training pass on a batch of tasks."""

    losses: Float[Tensor, "step task"]
    seen: Float[Tensor, "step task"]  # distinct examples behind each loss
    state: Any  # after the last step, detached; shares no memory with the weights


class Iterated(nn.Module):
    """A learner that refines a regime's state over minibatches of the support.

    `forward` trains it, `trace` shows it step by step, and `adapt` uses it.

    Args:
        regime: What the state is and how a minibatch moves it; an `nn.Module` where it is learned.
        steps: Minibatches read in one training pass; None for as many as read the support once,
            whatever its size.
        minibatch: Examples in a minibatch; None for the whole support at every step. A sequence
            gives the size of each minibatch in turn, and its last size is repeated: small ones
            first, while every example counts, then large ones for speed.
        gradient: How the meta-gradient crosses the steps: `greedy`, `unrolled`, any gradient mode.
            With `unrolled`, a regime that can `trace` takes the steps of a pass as one batch, which
            gives the same to rounding in less time.
        loss: Whether `forward` returns the loss at "every" step, the start included, or at the
            "last" alone. MAML and its variants, Reptile and `ImplicitGradient` take the "last": the
            loss at the start has the same gradient in every mode, and would be added to theirs.

    Raises:
        ValueError: If `steps` or `minibatch` is below 1, `loss` is neither "every" nor "last", or
            `gradient` is an `ImplicitGradient` and `loss` is not "last".
        TypeError: If `regime` lacks a member of its role.

    Source:
        Mittal et al. (2025), arXiv 2510.11471: the state after each fresh minibatch of the support.
    """

    def __init__(
        self,
        regime: Regime,
        *,
        steps: int | None,
        minibatch: int | Sequence[int] | None = None,
        gradient: GradientMode[Any] = greedy,
        loss: Literal["every", "last"] = "every",
    ) -> None:
        super().__init__()
        if not isinstance(regime, Regime):
            raise TypeError(
                "`regime` must be a Regime, such as iai_regimes.Parametric or Implicit; got "
                f"{type(regime).__name__}."
            )
        if steps is not None and steps < 1:
            raise ValueError(f"`steps` must be at least 1; got {steps}.")
        as_sizes(minibatch, "minibatch")
        if loss not in ("every", "last"):
            raise ValueError(f"`loss` must be every or last; got {loss!r}.")
        if loss == "every" and isinstance(gradient, ImplicitGradient):
            raise ValueError(
                "`loss` must be last with an `ImplicitGradient`, which is the gradient of the last "
                "loss alone; got 'every'."
            )
        self.regime, self.gradient = regime, gradient
        self.steps, self.minibatch, self.loss = steps, minibatch, loss
        self._validated = False

    def forward(self, tasks: Tasks, state: Any = None) -> Refinement:
        """Refines through `steps` minibatches of the support and takes the losses on the queries.

        The regime validates the support: always on the CPU, and elsewhere only the first one, for
        to read values is to wait for the device.

        Args:
            tasks: The support is read in the order given, from each task's first observed example
                on. A pass over it is as long as its axis `n`, padding included, so that nothing
                waits for the device. The state has seen none of its examples.
            state: The state to go on from, detached; tasks whose `seen` is 0 begin at the learned
                start. None: all do.

        Returns:
            The losses before the first step and after every one (or only the last), with gradients;
            how many examples each has seen; and the state to go on from.

        Raises:
            ValueError: If the state has other shapes than these tasks and queries need, or the
                regime refuses the support: for a class out of range, say.
            TypeError: If `tasks` has no `support` and `query`.
        """
        self._validate(tasks)
        query_x, start = tasks.query.x, self.start(tasks, state)
        n = tasks.support.mask.shape[1]
        steps = steps_of_a_pass(n, self._sizes(n)) if self.steps is None else self.steps
        batches = list(minibatches(tasks.support, self.minibatch, steps))
        before, latest = start.seen.detach(), batches[0]

        def step(state: Any, item: tuple[Any, bool]) -> Any:
            nonlocal latest
            batch, fresh = latest = item
            return self.regime.update(state, self.regime.encode(batch), query_x, fresh)

        def loss(state: Any) -> Tensor:
            # Modes ask for it after every step; `rematerialised` takes each step twice.
            if self.loss == "last" and latest is not batches[-1]:
                return torch.zeros_like(before)
            return self.regime.loss(self.regime.predict(state, query_x), tasks.query)

        several = len(before) > 0 and len(batches) > 1 and all(new for _, new in batches)
        several = several and self.gradient is unrolled
        if several and traces(self.regime) and isinstance(tasks.query, Batch):
            at_once = stretches(tasks.support, self.minibatch, steps)
            losses, end = losses_of_trace(self.regime, tasks, start, at_once, self.loss)
        else:
            losses, end = self.gradient(step, loss, start, batches)
        end = contiguous(unaliased(end, self.regime))
        read = torch.stack([batch.mask.sum(1) * fresh for batch, fresh in batches])
        seen = (before + read.cumsum(0)).to(before.dtype)
        if self.loss == "last":
            return Refinement(losses[-1:] + nothing_of(start), seen[-1:], end)
        losses = torch.cat([loss(start)[None], losses])
        return Refinement(losses, torch.cat([before[None], seen]), end)

    def start(self, tasks: Tasks, state: Any = None) -> Any:
        """The learned start, with `state` in its place for tasks that have seen examples.

        The learned start is in the graph for all tasks, so that it always has a gradient.

        Raises:
            ValueError: If `state` is of another learner, or has other shapes than these tasks and
                queries need.
        """
        start = self.regime.init(tasks.support.mask.shape[0], tasks.query.x)
        if state is None:
            return start
        check_state(state, start)
        live = state.seen > 0

        def choose(old: Any, new: Any) -> Any:
            if not isinstance(old, Tensor):
                return old
            return torch.where(live.reshape(-1, *[1] * (old.dim() - 1)), old, new)

        return mapped(choose, detach(state), start)

    def adapt(
        self,
        support: Batch | Iterable[Any],
        query_x: Shaped[Tensor, "task query *x_shape"] | None = None,
        *,
        steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Adapted:
        """Reads a task's examples, without gradients. Dropout is active unless `eval()` was called.

        Args:
            support: A set in memory, or any iterable of minibatches (each may have its own size),
                read once, one at a time. Examples of several tasks are read side by side, each task
                as it would be alone, whatever its padding. A set smaller than a minibatch is one
                short minibatch; one without examples leaves the answer at the learned start.
            query_x: The queries. A learner whose state is the answer to queries keeps only these
                answers if it is given them; otherwise it keeps every minibatch's evidence, and
                answers any queries later.
            steps: Minibatches to read of a set in memory, in several passes if need be; by default
                one pass. A pass ends for all tasks when the longest set has been read.
            generator: Shuffles the passes over a set in memory; by default a new one with the seed
                0, so that the same set gives the same answer.

        Returns:
            A snapshot that predicts, and can read on.

        Raises:
            ValueError: If `steps` is below 1, the iterable is empty, the regime refuses a
                minibatch: for NaN, say, or the state of no task is finite. Where that of some is
                not, their answers are NaN.
            TypeError: If `support` is neither a set of examples nor an iterable of minibatches.
        """
        items: Iterator[tuple[Any, int, bool]]
        start: Adapted | None = None
        if isinstance(support, Batch | Mapping) or not isinstance(support, Iterable):
            count_tasks(support)
        if isinstance(support, Batch):
            longest = longest_set(support)
            if steps is None:
                steps = steps_of_a_pass(longest, self._sizes(longest))
            if steps < 1:
                raise ValueError(f"`steps` must be at least 1; got {steps}.")
            if generator is None:
                generator = torch.Generator().manual_seed(0)
            options: Any = {"generator": generator, "length": longest}
            start = Adapted.new(self.regime, count_tasks(support), query_x)
            if traces(self.regime) and start.state is not None:
                options["most_steps"] = most_steps(start.state)
                items = stretches(support, self.minibatch, steps, **options)
            else:
                cut = minibatches(support, self.minibatch, steps, **options)
                items = ((batch, 1, fresh) for batch, fresh in cut)
        elif steps is not None:
            raise ValueError("`steps` is for a set in memory; an iterable is read to its end.")
        else:
            items = ((batch, 1, True) for batch in support)
        first = next(items, None)
        if first is None:
            raise ValueError("`support` must hold at least one minibatch; got none.")
        if start is None:
            start = Adapted.new(self.regime, count_tasks(first[0]), query_x)
        adapted = reduce(_read, chain([first], items), start)
        check_some_finite(adapted.state)
        return adapted

    def answer(self, tasks: Tasks, *, again: int = 0) -> Tensor:
        """Reads the support of labelled tasks, and answers their queries, without gradients.

        Args:
            tasks: The support is read as `adapt` reads it: a pass over it, in minibatches.
            again: How many times it is then read again, all of it in one step.

        Returns:
            Raw outputs, `task query num_outputs`.

        Raises:
            ValueError, TypeError: As `adapt`, and if `tasks` are no tasks.
        """
        check_tasks(tasks)
        adapted = self.adapt(tasks.support, tasks.query.x)
        for _ in range(again):
            adapted = adapted.update(tasks.support, fresh=False)
        return adapted.predict(tasks.query.x)

    def resume(self, path: str | Path, *, like: Batch | None = None) -> Adapted:
        """Goes on from what `Adapted.save` put on disk, on the device of this learner's weights.

        Args:
            path: The file.
            like: A minibatch such as those that were read; needed only where evidence is kept for
                later queries. Only its structure, shapes and dtypes are used.

        Raises:
            FileNotFoundError: If there is no such file.
            IsADirectoryError: If `path` is a directory.
            OSError: If the file cannot be read.
            ValueError: If the file is truncated or was changed, its tensors have other names,
                shapes or dtypes than those of this learner, a number is not finite, the counts of
                what was read contradict one another, or `like` is missing.
        """
        device = next((weight.device for weight in self.parameters()), torch.device("cpu"))
        tensors = read_state(Path(path))
        try:
            return Adapted.restored(self.regime, tensors, like, device)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"`{path}` cannot be resumed by this learner: {error}") from error

    def trace(
        self,
        support: Batch,
        query_x: Shaped[Tensor, "task query *x_shape"],
        *,
        steps: int,
        generator: torch.Generator | None = None,
    ) -> Iterator[Adapted]:
        """The learner at step 0, 1, .., `steps`, without gradients.

        Args:
            support: A set in memory, cut into minibatches as in training.
            query_x: The queries.
            steps: How many minibatches to read; beyond one pass, the set is read again.
            generator: Shuffles every pass; None keeps the order given.

        Returns:
            An iterator over snapshots that predict, one for each step.

        Raises:
            ValueError: If `steps` is below 0.
        """
        num_tasks = count_tasks(support)
        cut = minibatches(support, self.minibatch, steps, generator=generator)
        items = ((batch, 1, fresh) for batch, fresh in cut)
        start = Adapted.new(self.regime, num_tasks, query_x)
        return accumulate(items, _read, initial=start)

    def _sizes(self, num_examples: int) -> tuple[int, ...]:
        """The sizes of minibatches, the whole set for None."""
        return as_sizes(self.minibatch, "minibatch") or (max(num_examples, 1),)

    def _validate(self, tasks: Tasks) -> None:
        check_tasks(tasks)
        on_cpu = tasks.support.mask.device.type == "cpu"
        if (on_cpu or not self._validated) and not torch.compiler.is_compiling():
            self.regime.validate(tasks.support)
            self._validated = True


def _read(adapted: Adapted, item: tuple[Any, int, bool]) -> Adapted:
    batch, steps, fresh = item
    return adapted.update(batch, fresh=fresh) if steps == 1 else adapted._read_stretch(batch, steps)
