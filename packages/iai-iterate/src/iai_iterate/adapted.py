"""A learner that has read a task's examples: it predicts, reads on, and can be put on disk."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iai_iterate.interfaces import Batch, Regime


@dataclass(frozen=True, kw_only=True, eq=False)
class Adapted:
    """What a regime made of the minibatches read so far. Reading on gives a new one; this one stays as it is.

    A state that answers any query, or the given ones, has a size that does not grow with the minibatches. A state that is
    the answer to queries, with none given, is not formed: the evidence of each minibatch is kept instead.

    Attributes:
        regime: What the state belongs to.
        num_tasks: Tasks read side by side.
        state: The refined state; None where evidence is kept for queries that come later.
        query_x: The queries given up front, if any.
        evidence: What was encoded of each minibatch, and whether it was new; empty where there is a state.
        step: Minibatches read.
        seen: Distinct examples read, `task`.
    """

    regime: Regime
    num_tasks: int
    state: Any
    query_x: Tensor | None
    evidence: tuple[tuple[Any, bool], ...] = ()
    step: int = 0
    seen: Float[Tensor, " task"]

    @classmethod
    @torch.no_grad()
    def new(cls, regime: Regime, num_tasks: int, query_x: Tensor | None = None) -> "Adapted":
        """Nothing read yet: the learned start, or an empty store of evidence."""
        if query_x is not None and query_x.shape[0] != num_tasks:
            raise ValueError(f"`query_x` must have {num_tasks} tasks; got {query_x.shape[0]}.")
        deferred = regime.needs_query and query_x is None
        state = None if deferred else regime.init(num_tasks, query_x)
        seen = torch.zeros(num_tasks) if state is None else state.seen
        kept = query_x if regime.needs_query else None
        return cls(regime=regime, num_tasks=num_tasks, state=state, query_x=kept, seen=seen)

    @torch.no_grad()
    def update(self, batch: Batch, *, fresh: bool = True) -> "Adapted":
        """Reads one more minibatch; `fresh` False says that its examples were read before.

        Raises:
            ValueError: If the minibatch has another number of tasks, or holds what it must not: NaN, a class out of
                range.
        """
        if batch.mask.shape[0] != self.num_tasks:
            raise ValueError(
                f"A minibatch must have the {self.num_tasks} tasks read so far; got {batch.mask.shape[0]}."
            )
        self.regime.validate(batch)
        evidence = self.regime.encode(batch)
        if self.state is None:
            count = batch.mask.sum(1) if fresh else 0 * batch.mask.sum(1)
            return replace(
                self,
                evidence=(*self.evidence, (evidence, fresh)),
                step=self.step + 1,
                seen=self.seen.to(count.device) + count,
            )
        state = self.regime.update(self.state, evidence, self.query_x, fresh)
        return replace(self, state=state, step=self.step + 1, seen=state.seen)

    @torch.no_grad()
    def predict(self, query_x: Float[Tensor, "task query *x_shape"]) -> Tensor:
        """Raw outputs at the queries, `task query num_outputs`.

        Raises:
            ValueError: If the state is the answer to other queries.
        """
        if self.query_x is not None and not torch.equal(query_x, self.query_x):
            raise ValueError(
                "This learner was adapted to the queries given up front and answers no others; "
                "adapt without `query_x` to ask any."
            )
        state = self.state
        if state is None:
            state = self.regime.init(self.num_tasks, query_x)
            for evidence, fresh in self.evidence:
                state = self.regime.update(state, evidence, query_x, fresh)
        return self.regime.predict(state, query_x)
