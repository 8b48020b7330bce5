"""A pool of live tasks: deep steps are trained at the price of one."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain, islice, repeat
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from iai_iterate.interfaces import Batch, Sampler
from iai_iterate.iterated import Iterated
from iai_iterate.leaf import contiguous, from_leaves, to_leaves, unaliased
from iai_iterate.minibatch import as_sizes
from iai_iterate.rollout import detach


class LiveQuery(NamedTuple):
    """The queries of each live task, with their answers where there are any."""

    x: Tensor
    y: Tensor | None
    mask: Tensor


class LiveTasks(NamedTuple):
    """A new minibatch of each live task, and its queries, which stay the same all its life."""

    support: Batch
    query: LiveQuery


class _Life(NamedTuple):
    """What is kept of the live tasks from one iteration to the next."""

    latent: Any
    query: LiveQuery
    state: Any
    left: Tensor  # iterations until each task is replaced; on the CPU, where a look at it is free


class Pool:
    """Tasks whose states go on from one training iteration to the next.

    Greedy training takes no gradient through earlier steps, so training a step at depth 1,000 needs
    only a state that is 1,000 steps old. Each `next` gives every task new examples. `put` takes the
    states after a step, and replaces each task that has reached the end of its life by a new one.

    A life lasts at least k iterations with probability 1 / k, up to `max_steps`, so that in the
    long run depths 1 to 2, 2 to 4, 4 to 8 and so on are trained equally often.

    It is a source for a training loop: `tasks, state = pool.next()`, a step of the learner,
    `pool.put(state)`. What it gave or took is never changed later.

    Args:
        learner: Gives the states their shapes, and the minibatch its size; best with `steps=1`.
        sampler: Draws tasks, and new examples of tasks drawn before.
        num_tasks: Tasks alive.
        num_query: Queries of each task.
        max_steps: Longest life, in iterations.
        num_support: New examples of each task in an iteration; by default what the learner's
            minibatches read. Of several counts, each iteration draws one with a chance proportional
            to 1 / count, so that all counts cost alike: a learner without a minibatch size is so
            trained to read minibatches of any of these sizes at any depth.
        generator: Source of every random number, on the device that the learner is trained on.

    Raises:
        ValueError: If a count is below 1, neither the learner nor `num_support` says how many
            examples a task gets, or the sampler's tasks have no latent.

    Source:
        Ours. Persistent states were used to train energy-based models by Tieleman (2008) and
        truncated unrolls of learned optimizers by Vicol, Metz and Sohl-Dickstein (2021),
        arXiv 2112.13835.
    """

    def __init__(
        self,
        learner: Iterated,
        sampler: Sampler,
        *,
        num_tasks: int,
        num_query: int,
        max_steps: int,
        num_support: int | Sequence[int] | None = None,
        generator: torch.Generator,
    ) -> None:
        counts = {"num_tasks": num_tasks, "num_query": num_query, "max_steps": max_steps}
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"`{name}` must be at least 1; got {count}.")
        self.generator, self._sample = generator, partial(sampler.sample, generator=generator)
        self.num_support = as_sizes(num_support, "num_support") or (_read_by(learner),)
        self.num_tasks, self.num_query, self.max_steps = num_tasks, num_query, max_steps
        latent, query = self._born(num_tasks)
        left = self._lifetimes(num_tasks)
        with torch.no_grad():
            state = unaliased(learner.regime.init(num_tasks, query.x), learner.regime)
        # The learner may move to the generator's device only later.
        state = tree_map(lambda leaf: contiguous(leaf.to(generator.device)), state)
        self._live = _Life(latent, query, state, left)

    def next(self) -> tuple[LiveTasks, Any]:
        """New examples of every task, and the states; where `seen` is 0, a task begins."""
        latent, query, state, _ = self._live
        size = self._size()
        drawn = self._sample(self.num_tasks, num_support=size, num_query=0, latent=latent)
        return LiveTasks(drawn.support, query), state

    def put(self, state: Any) -> None:
        """Takes the states after a step, and replaces the tasks whose life is over."""
        latent, query, _, left = self._live
        state, left = detach(state), left - 1
        over = (left == 0).nonzero()[:, 0]
        if len(over):
            left[over] = self._lifetimes(len(over))
            latent, query = _replaced((latent, query), over, self._born(len(over)))
            # All zeros, `seen` too: the learner puts its learned start there.
            state = tree_map(lambda leaf: leaf.index_fill(0, over.to(leaf.device), 0), state)
        self._live = _Life(latent, query, contiguous(state), left)

    def state_dict(self) -> dict[str, object]:
        """Everything that the next tasks depend on: tasks, states, ages and the generator."""
        return {**to_leaves(self._live), "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on exactly where `state_dict` was taken.

        Raises:
            ValueError: If it was taken from a pool of another size, of other tasks or of another
                learner; this one is as it was.
        """
        leaves = dict(state)
        try:
            generator = leaves.pop("generator").cpu()
            live = from_leaves(self._live, leaves)
            if not bool((live.left >= 1).all()) or not bool((live.state.seen >= 0).all()):
                raise ValueError("it counts iterations or examples below 0.")
            # On another generator first, so that a state that is refused changes nothing.
            torch.Generator(self.generator.device).set_state(generator)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"`state` is not that of such a pool: {error}") from error
        self.generator.set_state(generator)
        self._live = live

    def _born(self, num_tasks: int) -> tuple[Any, LiveQuery]:
        drawn = self._sample(num_tasks, num_support=0, num_query=self.num_query)
        if drawn.latent is None:
            raise ValueError(
                "`sampler` must give its tasks a `latent`, to draw new examples of them; got None."
            )
        query = LiveQuery(drawn.query.x, drawn.query.y, drawn.query.mask)
        return contiguous(drawn.latent), contiguous(query)

    def _size(self) -> int:
        if len(self.num_support) == 1:
            return self.num_support[0]
        chances = torch.tensor(self.num_support, dtype=torch.float64).reciprocal()
        chances = chances.to(self.generator.device)
        return self.num_support[int(chances.multinomial(1, generator=self.generator))]

    def _lifetimes(self, num: int) -> Tensor:
        device = self.generator.device
        uniform = 1 - torch.rand(num, generator=self.generator, device=device, dtype=torch.float64)
        return uniform.reciprocal().clamp(max=self.max_steps).long().cpu()


def _read_by(learner: Iterated) -> int:
    """Examples of each task that the learner reads in an iteration."""
    sizes = as_sizes(learner.minibatch, "minibatch")
    if not sizes or learner.steps is None:
        raise ValueError(
            "`num_support` must be given where the learner has no `minibatch`, or no `steps`."
        )
    return sum(islice(chain(sizes, repeat(sizes[-1])), learner.steps))


def _replaced(kept: Any, rows: Tensor, born: Any) -> Any:
    """A copy of each tensor of `kept`, its given rows taken from `born`."""

    def replace(old: Any, new: Any) -> Any:
        return None if old is None else old.index_copy(0, rows.to(old.device), new)

    return tree_map(replace, kept, born)
