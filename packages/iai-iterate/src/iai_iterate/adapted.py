"""A learner that has read a task's examples: it predicts, reads on, and can be put on disk."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.utils._pytree import tree_map

from iai_iterate.check import check_queries, count_tasks
from iai_iterate.interfaces import Batch, Regime, TracingRegime
from iai_iterate.leaf import check_finite, contiguous, from_leaves, to_leaves, unaliased
from iai_iterate.state_file import write_state


class _Stored(NamedTuple):
    """What is put on disk of an `Adapted`."""

    step: Tensor
    seen: Tensor
    query_x: Tensor | None
    state: Any
    evidence: list[Any]
    fresh: Tensor  # of each minibatch whose evidence is kept


@dataclass(frozen=True, kw_only=True, eq=False)
class Adapted:
    """What a regime made of the minibatches read so far. Reading on gives a new one.

    The state and the evidence share no memory with the regime's weights: an optimizer step leaves
    them as they are.

    A state that answers any query, or the given ones, has a size that does not grow with the
    minibatches. Where the state is the answer to queries and none were given, there is no state:
    the evidence of each minibatch is kept instead, and answers any queries later.

    Attributes:
        regime: What the state belongs to.
        num_tasks: Tasks read side by side.
        state: The refined state; None where evidence is kept.
        query_x: The queries that the state answers, where they were given up front.
        evidence: What was encoded of each minibatch, and whether it was fresh; empty where there is
            a state.
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
        """Nothing read yet: the learned start, or no evidence.

        Raises:
            ValueError: If the queries are of another number of tasks.
        """
        if query_x is not None:
            check_queries(query_x, num_tasks)
        if regime.needs_query and query_x is None:
            state, seen = None, torch.zeros(num_tasks)
        else:
            state = contiguous(unaliased(regime.init(num_tasks, query_x), regime))
            seen = state.seen
        kept = contiguous(query_x.clone()) if regime.needs_query and query_x is not None else None
        return cls(regime=regime, num_tasks=num_tasks, state=state, query_x=kept, seen=seen)

    @classmethod
    @torch.no_grad()
    def restored(
        cls, regime: Regime, tensors: dict[str, Tensor], like: Batch | None, device: torch.device
    ) -> "Adapted":
        """What `save` stored, compared with what this regime would store; see `Iterated.resume`.

        The expected shapes are inferred from starts of one task with one and with two queries, so
        that a size that a file only declares costs no memory.

        Raises:
            ValueError: If names, shapes or dtypes differ, a number is not finite, the counts of
                what was read contradict one another, or `like` is missing.
        """
        seen, fresh, query_x = map(tensors.get, (".seen", ".fresh", ".query_x"))
        if seen is None or fresh is None or seen.dim() != 1 or fresh.dim() != 1:
            raise ValueError("it does not say what was read.")
        if query_x is not None:
            check_queries(query_x, len(seen))
            query_x = query_x.to(device)
        template = resized = _expected(regime, len(seen), query_x)
        if template.state is None and len(fresh):
            if len(fresh) > len(tensors):
                raise ValueError("it stores less evidence than it says.")
            evidence, other = _evidence_of(regime, like, len(seen))
            template = template._replace(evidence=[evidence] * len(fresh), fresh=fresh.bool())
            resized = template._replace(evidence=[other] * len(fresh))
        stored = from_leaves(template, tensors, resized=resized)
        check_finite(tensors)
        _check_counts(stored)
        return cls(
            regime=regime,
            num_tasks=len(seen),
            state=stored.state,
            query_x=stored.query_x,
            evidence=tuple(zip(stored.evidence, stored.fresh.tolist(), strict=True)),
            step=int(stored.step),
            seen=stored.seen.to(device),
        )

    def save(self, path: str | Path) -> None:
        """Puts it on disk as tensors: `Iterated.resume` goes on from there, bit for bit.

        The learner's weights are not part of it.

        Raises:
            ValueError: If a number of the state is not finite, or it has so many tensors that
                `Iterated.resume` would refuse them.
            TypeError: If a tensor of the state has a dtype that safetensors does not store.
            IsADirectoryError: If `path` is a directory.
            OSError: If the file could not be written; what was there before is untouched.
        """
        leaves = to_leaves(self._stored())
        check_finite(leaves)
        tensors = {name: contiguous(leaf.to("cpu", copy=True)) for name, leaf in leaves.items()}
        write_state(Path(path), tensors)

    @torch.no_grad()
    def update(self, batch: Batch, *, fresh: bool = True) -> "Adapted":
        """Reads one more minibatch; `fresh` False says that its examples were read before.

        Raises:
            TypeError: If it is no minibatch: an array, say, or a pair of arrays.
            ValueError: If the minibatch has another number of tasks, or the regime refuses it:
                for NaN, say, or a class out of range.
        """
        num_tasks = count_tasks(batch)
        if num_tasks != self.num_tasks:
            raise ValueError(
                f"A minibatch must have the {self.num_tasks} tasks read so far; got {num_tasks}."
            )
        regime, step = self.regime, self.step + 1
        regime.validate(batch)
        evidence = regime.encode(batch)
        if self.state is None:
            kept = (*self.evidence, (contiguous(unaliased(evidence, regime)), fresh))
            seen = self.seen.to(batch.mask.device) + batch.mask.sum(1) * fresh
            return replace(self, evidence=kept, step=step, seen=seen)
        state = unaliased(regime.update(self.state, evidence, self.query_x, fresh), regime)
        return replace(self, state=contiguous(state), step=step, seen=state.seen)

    @torch.no_grad()
    def _read_stretch(self, batch: Batch, steps: int) -> "Adapted":
        """Reads several fresh minibatches of each task as one batch, as `stretches` gives them.

        To rounding, this is what `update` gives with one after the other. The regime can `trace`,
        and there is a state.
        """
        regime = cast(TracingRegime, self.regime)
        regime.validate(batch)
        _, state = regime.trace(self.state, regime.encode(batch), self.query_x)
        state = unaliased(state, regime)
        return replace(self, state=contiguous(state), step=self.step + steps, seen=state.seen)

    @torch.no_grad()
    def predict(self, query_x: Shaped[Tensor, "task query *x_shape"]) -> Tensor:
        """Raw outputs at the queries, `task query num_outputs`; no gradients flow.

        Raises:
            ValueError: If the state is the answer to other queries, their number of tasks or their
                shape is another than the regime's, or they are not floating point.
            TypeError: If they are no tensor.
        """
        check_queries(query_x, self.num_tasks)
        if self.query_x is not None and not _equal(query_x, self.query_x):
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

    def _stored(self) -> _Stored:
        evidence = [evidence for evidence, _ in self.evidence]
        fresh = torch.tensor([fresh for _, fresh in self.evidence], dtype=torch.bool)
        step = torch.tensor(self.step)
        return _Stored(step, self.seen, self.query_x, self.state, evidence, fresh)


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether these are the same queries; padding among them is NaN."""
    if one.shape != other.shape or one.device != other.device:
        return False
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


def _expected(regime: Regime, num_tasks: int, query_x: Tensor | None) -> _Stored:
    """What would be stored before anything is read: shapes, dtypes and devices, in no memory.

    The regime starts one task with one query and with two: an axis that differs grows with queries.
    """
    state, seen = None, torch.zeros(num_tasks)
    if query_x is not None or not regime.needs_query:
        num_query = 0 if query_x is None else query_x.shape[1]

        def enlarged(one: Any, two: Any) -> Any:
            if not isinstance(one, Tensor) or not one.dim():
                return one
            lengths = zip(one.shape[1:], two.shape[1:], strict=True)
            shape = (num_tasks, *(a + (num_query - 1) * (b - a) for a, b in lengths))
            return one.new_empty(()).expand(shape)

        few = [None if query_x is None else query_x[:1, :number] for number in (1, 2)]
        try:
            if few[0] is not None:
                _equal(few[0], few[0])  # fails for a dtype that torch cannot compare
            one, two = (regime.init(min(num_tasks, 1), queries) for queries in few)
        except Exception as error:  # of whatever kind, where another learner's queries are read
            given = "none" if query_x is None else f"{tuple(query_x.shape)}, {query_x.dtype}"
            raise ValueError(f"its queries are {given}, which this one does not take.") from error
        state = tree_map(enlarged, one, two)
        seen = state.seen
    kept = query_x if regime.needs_query else None
    return _Stored(torch.tensor(0), seen, kept, state, [], torch.zeros(0, dtype=torch.bool))


def _check_counts(stored: _Stored) -> None:
    """Refuses counts of what was read that no learner has."""
    step, seen = int(stored.step), stored.seen
    whole = bool((seen >= 0).all()) and bool((seen == seen.floor()).all())
    if stored.state is None:
        agree = step == len(stored.fresh)
    else:
        agree = torch.equal(seen, stored.state.seen)
    if not whole or not agree or step < 0 or (step == 0 and bool(seen.any())):
        raise ValueError(
            "its counts of minibatches and examples must be whole, at least 0, and agree with one "
            "another."
        )


def _evidence_of(regime: Regime, like: Batch | None, num_tasks: int) -> tuple[Any, Any]:
    """The evidence of a minibatch, and that of the first half of it."""
    if like is None:
        raise ValueError(
            "it keeps evidence for queries that come later; give `like`, a minibatch such as those "
            "that were read, for its structure."
        )
    tasks, num_examples = count_tasks(like), like.mask.shape[1]
    if tasks != num_tasks or num_examples < 1:
        raise ValueError(
            f"`like` must have {num_tasks} tasks and at least one example; "
            f"got {tuple(like.mask.shape)}."
        )
    return regime.encode(like), regime.encode(like[:, : num_examples // 2])
