"""A pool of live tasks: deep steps are trained at the price of one."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from iai_iterate.interfaces import Sampler
from iai_iterate.iterated import Iterated
from iai_iterate.leaf import from_leaves, to_leaves
from iai_iterate.truncated import detach


class LiveTasks(NamedTuple):
    """A new minibatch of each live task, and the queries that it keeps for life."""

    support: Any
    query: Any


class Pool:
    """Tasks whose states go on from one training iteration to the next.

    Greedy training takes no gradient through earlier steps, so training a step at depth 1,000 needs only a state that
    is 1,000 steps old. Each `next` gives every task a new minibatch; after `put`, a task at the end of its life is
    replaced by a new one at the learned start.

    A life lasts at least k steps with probability 1 / k, up to `max_steps`, so that every octave of depth is visited
    equally often.

    It is a source for a training loop: `tasks, state = pool.next()`, a step of the learner, `pool.put(state)`. The
    tasks that `next` gives are good until then.

    Args:
        learner: Gives the states their start, and the minibatch its size; it should take one step at a time.
        sampler: Draws tasks, and new examples of tasks drawn before.
        num_tasks: Tasks alive.
        num_query: Queries of each task.
        max_steps: Longest life, in minibatches.
        generator: Source of every random number, on the device of the tasks.

    Raises:
        ValueError: If a count is below 1, or the learner has no minibatch size.

    Source:
        Ours. Persistent states were used to train energy-based models by Tieleman (2008) and truncated unrolls of
        learned optimizers by Vicol, Metz and Sohl-Dickstein (2021), arXiv 2112.13835.
    """

    def __init__(
        self,
        learner: Iterated,
        sampler: Sampler,
        *,
        num_tasks: int,
        num_query: int,
        max_steps: int,
        generator: torch.Generator,
    ) -> None:
        counts = {"num_tasks": num_tasks, "num_query": num_query, "max_steps": max_steps}
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"`{name}` must be at least 1; got {count}.")
        if learner.minibatch is None:
            raise ValueError("A pool feeds minibatches; give the learner a `minibatch`.")
        self.sampler, self.generator = sampler, generator
        self.num_support = learner.steps * learner.minibatch
        self.num_tasks, self.num_query, self.max_steps = num_tasks, num_query, max_steps
        tasks = self._sample(num_tasks, num_query)
        self._latent, self._query = tasks.latent, tasks.query
        self._left = self._lifetimes(num_tasks)
        with torch.no_grad():
            state = learner.regime.init(num_tasks, tasks.query.x)
            self._state = tree_map(torch.clone, state)

    def next(self) -> tuple[LiveTasks, Any]:
        """A new minibatch of every task, and the states; those of tasks that begin have `seen` 0."""
        support = self._sample(self.num_tasks, 0, self._latent).support
        return LiveTasks(support, self._query), self._state

    def put(self, state: Any) -> None:
        """Takes the states after a step, and replaces the tasks whose life is over."""
        self._state = detach(state)
        self._left = self._left - 1
        over = (self._left == 0).nonzero()[:, 0]
        if not len(over):
            return
        self._left[over] = self._lifetimes(len(over))
        born = self._sample(len(over), self.num_query)
        rows = over.to(self._state.seen.device)
        kept = {"latent": self._latent, "query": _fields(self._query), "seen": self._state.seen}
        new = {"latent": born.latent, "query": _fields(born.query), "seen": torch.tensor(0.0)}
        tree_map(lambda old, value: old.index_put_((rows,), value.to(old.dtype)), kept, new)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next tasks depend on: tasks, states, ages and the generator."""
        return {
            "latent": to_leaves(self._latent),
            "query": to_leaves(_fields(self._query)),
            "state": to_leaves(self._state),
            "left": self._left,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Goes on exactly where `state_dict` was taken.

        Raises:
            ValueError: If it was taken from a pool of another size or of other tasks.
        """
        latent = from_leaves(self._latent, saved["latent"])
        query = from_leaves(_fields(self._query), saved["query"])
        state = from_leaves(self._state, saved["state"])
        left = from_leaves(self._left, {"": saved["left"]})
        self.generator.set_state(saved["generator"].cpu())
        tree_map(lambda old, value: old.copy_(value), _fields(self._query), query)
        self._latent, self._state, self._left = latent, state, left

    def _sample(self, num_tasks: int, num_query: int, latent: Any = None) -> Any:
        return self.sampler.sample(
            num_tasks,
            num_support=self.num_support if latent is not None else 0,
            num_query=num_query,
            generator=self.generator,
            latent=latent,
        )

    def _lifetimes(self, num: int) -> Tensor:
        device = self.generator.device
        uniform = 1 - torch.rand(num, generator=self.generator, device=device, dtype=torch.float64)
        return uniform.reciprocal().clamp(max=self.max_steps).long().cpu()


def _fields(examples: Any) -> dict[str, Tensor]:
    fields = {"x": examples.x, "mask": examples.mask}
    return fields if examples.y is None else {**fields, "y": examples.y}
