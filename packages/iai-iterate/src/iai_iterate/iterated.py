"""Any regime, refined over minibatches: the loop that all methods share."""

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from iai_iterate.adapted import Adapted
from iai_iterate.interfaces import Batch, GradientMode, Regime, Tasks
from iai_iterate.leaf import unaliased
from iai_iterate.minibatch import as_sizes, minibatches, steps_of_a_pass
from iai_iterate.modes.truncated import greedy
from iai_iterate.rollout import detach
from iai_iterate.state_file import read_state


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
        steps: Minibatches read in one training pass.
        minibatch: Examples in a minibatch; None for the whole support at every step. A sequence
            gives the size of each minibatch in turn, and its last size is repeated: small ones
            first, while every example counts, then large ones for speed.
        gradient: How the meta-gradient crosses the steps: `greedy`, `unrolled`, any gradient mode.
        loss: Whether `forward` returns the loss at "every" step, the start included, or at the
            "last" alone. MAML and its variants, Reptile and `ImplicitGradient` take the "last": the
            loss at the start has the same gradient in every mode, and would be added to theirs.

    Raises:
        ValueError: If `steps` or `minibatch` is below 1, or `loss` is neither "every" nor "last".

    Source:
        Mittal et al. (2025), arXiv 2510.11471: the state after each fresh minibatch of the support.
    """

    def __init__(
        self,
        regime: Regime,
        *,
        steps: int,
        minibatch: int | Sequence[int] | None = None,
        gradient: GradientMode[Any] = greedy,
        loss: Literal["every", "last"] = "every",
    ) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"`steps` must be at least 1; got {steps}.")
        as_sizes(minibatch, "minibatch")
        if loss not in ("every", "last"):
            raise ValueError(f"`loss` must be every or last; got {loss!r}.")
        self.regime, self.gradient = regime, gradient
        self.steps, self.minibatch, self.loss = steps, minibatch, loss

    def forward(self, tasks: Tasks, state: Any = None) -> Refinement:
        """Refines through `steps` minibatches of the support and takes the losses on the queries.

        Args:
            tasks: The support is read in the order given; it has at least a minibatch's examples,
                none of which the state has seen.
            state: The state to go on from, detached; tasks whose `seen` is 0 begin at the learned
                start. None: all do.

        Returns:
            The losses before the first step and after every one (or only the last), with gradients;
            how many examples each has seen; and the state to go on from.

        Raises:
            ValueError: If the support has fewer examples than a minibatch, or the state has other
                shapes than these tasks and queries need.
        """
        query_x, start = tasks.query.x, self.start(tasks, state)
        batches = list(minibatches(tasks.support, self.minibatch, self.steps))
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

        losses, end = self.gradient(step, loss, start, batches)
        end = unaliased(end, self.regime)
        read = torch.stack([batch.mask.sum(1) * fresh for batch, fresh in batches])
        seen = (before + read.cumsum(0)).to(before.dtype)
        if self.loss == "last":
            return Refinement(losses[-1:] + _nothing_of(start), seen[-1:], end)
        losses = torch.cat([loss(start)[None], losses])
        return Refinement(losses, torch.cat([before[None], seen]), end)

    def start(self, tasks: Tasks, state: Any = None) -> Any:
        """The learned start, with `state` in its place for tasks that have seen examples.

        The learned start is in the graph for all tasks, so that it always has a gradient.

        Raises:
            ValueError: If `state` has other shapes than these tasks and queries need.
        """
        start = self.regime.init(tasks.support.mask.shape[0], tasks.query.x)
        if state is None:
            return start
        live = state.seen > 0

        def choose(old: Tensor, new: Tensor) -> Tensor:
            if old.shape != new.shape:
                raise ValueError(
                    f"`state` must be of these tasks and queries: {tuple(new.shape)} where it has "
                    f"{tuple(old.shape)}."
                )
            return torch.where(live.reshape(-1, *[1] * (old.dim() - 1)), old, new)

        return tree_map(choose, detach(state), start)

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
                read once, one at a time. Examples of several tasks are read side by side. A set
                smaller than a minibatch is one short minibatch; one without examples leaves the
                answer at the learned start.
            query_x: The queries. A learner whose state is the answer to queries keeps only these
                answers if it is given them; otherwise it keeps every minibatch's evidence, and
                answers any queries later.
            steps: Minibatches to read of a set in memory, in several passes if need be; by default
                one pass.
            generator: Shuffles the passes over a set in memory; by default a new one with the seed
                0, so that the same set gives the same answer.

        Returns:
            A snapshot that predicts, and can read on.

        Raises:
            ValueError: If `steps` is below 1, the iterable is empty, or the regime refuses a
                minibatch: for NaN, say.
        """
        items: Iterator[tuple[Any, bool]]
        if isinstance(support, Batch):
            n = support.mask.shape[1]
            sizes = as_sizes(self.minibatch, "minibatch")
            if not sizes or sizes[0] > n:
                sizes = (max(n, 1),)
            if steps is None:
                steps = steps_of_a_pass(n, sizes)
            if steps < 1:
                raise ValueError(f"`steps` must be at least 1; got {steps}.")
            if generator is None:
                generator = torch.Generator().manual_seed(0)
            items = minibatches(support, sizes if n else None, steps, generator=generator)
        elif steps is not None:
            raise ValueError("`steps` is for a set in memory; an iterable is read to its end.")
        else:
            items = ((batch, True) for batch in support)
        first = next(items, None)
        if first is None:
            raise ValueError("`support` must hold at least one minibatch; got none.")
        start = Adapted.new(self.regime, first[0].mask.shape[0], query_x)
        return reduce(_read, chain([first], items), start)

    def answer(self, tasks: Tasks, *, again: int = 0) -> Tensor:
        """Reads the support of labelled tasks, and answers their queries, without gradients.

        Args:
            tasks: The support is read as `adapt` reads it: a pass over it, in minibatches.
            again: How many times it is then read again, all of it in one step.

        Returns:
            Raw outputs, `task query num_outputs`.
        """
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
        except (RuntimeError, TypeError, ValueError) as error:  # `init` may not take such queries
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
            ValueError: If `steps` is below 0 or the set is smaller than a minibatch.
        """
        items = minibatches(support, self.minibatch, steps, generator=generator)
        start = Adapted.new(self.regime, support.mask.shape[0], query_x)
        return accumulate(items, _read, initial=start)


def _nothing_of(state: Any) -> Tensor:
    """The number 0, with a zero gradient by the state, which some modes give none."""
    sums = (leaf.sum() for leaf in tree_leaves(state) if leaf.requires_grad)
    total: Tensor = sum(sums, state.seen.new_zeros(()))
    return total.masked_fill(torch.ones_like(total, dtype=torch.bool), 0.0)


def _read(adapted: Adapted, item: tuple[Any, bool]) -> Adapted:
    batch, fresh = item
    return adapted.update(batch, fresh=fresh)
