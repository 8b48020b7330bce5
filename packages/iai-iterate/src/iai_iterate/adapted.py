"""A learner that has read a task's examples: it predicts, reads on, and can be put on disk."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from iai_iterate.interfaces import Batch, Regime
from iai_iterate.leaf import from_leaves, own, to_leaves
from iai_iterate.state_file import read_state, write_state


@dataclass(frozen=True, kw_only=True, eq=False)
class Adapted:
    """What a regime made of the minibatches read so far. Reading on gives a new one.

    A state that answers any query, or the given ones, has a size that does not grow with the
    minibatches. A state that is the answer to queries, with none given, is not formed: the evidence
    of each minibatch is kept instead, and answers any queries later.

    Attributes:
        regime: What the state belongs to.
        num_tasks: Tasks read side by side.
        state: The refined state; None where evidence is kept.
        query_x: The queries that the state answers, where they were given up front.
        evidence: What was encoded of each minibatch, and whether it was new; empty where there is
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
        """Nothing read yet: the learned start, or an empty store of evidence.

        Raises:
            ValueError: If the queries are of another number of tasks.
        """
        if query_x is not None:
            _check_tasks(query_x, num_tasks)
        kept = query_x.clone() if regime.needs_query and query_x is not None else None
        if regime.needs_query and kept is None:
            state, seen = None, torch.zeros(num_tasks)
        else:
            state = own(regime.init(num_tasks, query_x))
            seen = state.seen
        return cls(regime=regime, num_tasks=num_tasks, state=state, query_x=kept, seen=seen)

    @classmethod
    @torch.no_grad()
    def load(
        cls,
        regime: Regime,
        path: str | Path,
        like: Batch | None = None,
        *,
        device: torch.device | str = "cpu",
    ) -> "Adapted":
        """What `save` put on disk; see `Iterated.resume`, which knows the device."""
        content = read_state(Path(path))
        try:
            return cls._restore(regime, content, like, torch.device(device))
        except ValueError as error:
            raise ValueError(f"`{path}` cannot be resumed by this learner: {error}") from error

    @classmethod
    @torch.no_grad()
    def _restore(
        cls, regime: Regime, content: dict[str, Any], like: Batch | None, device: torch.device
    ) -> "Adapted":
        num_tasks, query_x = content["num_tasks"], content["query_x"]
        adapted = cls.new(regime, num_tasks, None if query_x is None else query_x.to(device))
        adapted = replace(adapted, step=content["step"])
        if (adapted.state is None) != (content["state"] is None):
            raise ValueError("one forms a state without queries, and the other keeps evidence.")
        if adapted.state is not None:
            state = from_leaves(adapted.state, content["state"])
            return replace(adapted, state=state, seen=state.seen)
        evidence = _restore_evidence(regime, content["evidence"], like, num_tasks)
        kept = tuple(zip(evidence, content["fresh"], strict=True))
        return replace(adapted, evidence=kept, seen=content["seen"].to(device))

    def save(self, path: str | Path) -> None:
        """Puts it on disk, without code: `Iterated.resume` goes on from there, bit for bit.

        The learner's weights are not part of it.

        Raises:
            ValueError: If a number of the state is not finite.
            OSError: If the file could not be written; what was there before is untouched.
        """
        content = {
            "num_tasks": self.num_tasks,
            "step": self.step,
            "seen": _stored(self.seen)[""],
            "query_x": None if self.query_x is None else self.query_x.to("cpu", copy=True),
            "state": None if self.state is None else _stored(self.state),
            "evidence": [_stored(evidence) for evidence, _ in self.evidence],
            "fresh": [fresh for _, fresh in self.evidence],
        }
        write_state(Path(path), content)

    @torch.no_grad()
    def update(self, batch: Batch, *, fresh: bool = True) -> "Adapted":
        """Reads one more minibatch; `fresh` False says that its examples were read before.

        Raises:
            ValueError: If the minibatch has another number of tasks, or holds what it must not:
                NaN, a class out of range.
        """
        if batch.mask.shape[0] != self.num_tasks:
            raise ValueError(
                f"A minibatch must have the {self.num_tasks} tasks read so far; "
                f"got {batch.mask.shape[0]}."
            )
        self.regime.validate(batch)
        evidence = self.regime.encode(batch)
        if self.state is None:
            return replace(
                self,
                evidence=(*self.evidence, (own(evidence), fresh)),
                step=self.step + 1,
                seen=self.seen.to(batch.mask.device) + batch.mask.sum(1) * fresh,
            )
        state = own(self.regime.update(self.state, evidence, self.query_x, fresh))
        return replace(self, state=state, step=self.step + 1, seen=state.seen)

    @torch.no_grad()
    def predict(self, query_x: Shaped[Tensor, "task query *x_shape"]) -> Tensor:
        """Raw outputs at the queries, `task query num_outputs`; no gradients flow.

        Raises:
            ValueError: If the state is the answer to other queries, or their number of tasks is
                another.
        """
        _check_tasks(query_x, self.num_tasks)
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


def _check_tasks(query_x: Tensor, num_tasks: int) -> None:
    if query_x.shape[0] != num_tasks:
        raise ValueError(
            f"`query_x` must have {num_tasks} tasks, as the examples; got {query_x.shape[0]}."
        )


def _stored(tree: Any) -> dict[str, Tensor]:
    """Copies of a tree's tensors on the CPU, all finite."""
    leaves = to_leaves(tree)
    for name, leaf in leaves.items():
        if not bool(leaf.isfinite().all()):
            raise ValueError(
                f"A state must be finite to be saved; {name or 'this one'} holds NaN or infinity."
            )
    return {name: leaf.detach().to("cpu", copy=True) for name, leaf in leaves.items()}


def _restore_evidence(
    regime: Regime, stored: Sequence[dict[str, Tensor]], like: Batch | None, num_tasks: int
) -> list[Any]:
    if not stored:
        return []
    if like is None:
        raise ValueError(
            "it keeps evidence for queries that come later; give `like`, a minibatch such as those "
            "that were read, for its structure."
        )
    num_examples = like.mask.shape[1]
    if like.mask.shape[0] != num_tasks or num_examples < 1:
        raise ValueError(
            f"`like` must have {num_tasks} tasks and at least one example; "
            f"got {tuple(like.mask.shape)}."
        )
    template, resized = regime.encode(like), regime.encode(like[:, : num_examples // 2])
    return [from_leaves(template, leaves, resized=resized) for leaves in stored]
