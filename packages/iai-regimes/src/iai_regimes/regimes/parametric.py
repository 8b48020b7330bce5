"""The parametric regime: the state is the parameters of a fixed predictor."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from iai_regimes.check import (
    check_examples,
    check_outputs,
    check_queries,
    check_role,
    check_same_tasks,
    check_shapes,
    check_solver,
)
from iai_regimes.evidence import Evidence
from iai_regimes.interfaces import Examples, Likelihood, Rule, Theta
from iai_regimes.objective import MinibatchObjective, mean_loss
from iai_regimes.padding import finite_queries
from iai_regimes.predictor import Predictor
from iai_regimes.ravel import task_zeros


class AdaptedState(NamedTuple):
    """Adapted parameters, the rule's memory, and the number of examples read."""

    theta: Theta
    carry: Any  # a pytree of tensors led by the task axis
    seen: Float[Tensor, " task"]  # distinct examples


class Parametric(nn.Module):
    """Amortizes g: the rule moves the adapted parameters, and the predictor answers with them.

    The predictor says which parameters of its module are adapted, all or the head, say. Their
    initial values are learned.

    Args:
        predictor: A module, and the names of its adapted parameters.
        likelihood: Compares outputs with targets.
        rule: How a minibatch moves the adapted parameters; an `nn.Module` if it is learned.
        start: Gives the initial parameters of a number of tasks, such as `predictor.random_start`;
            `predictor.start`, whose values are learned, by default. A random start differs from
            call to call, which `check_regime` of iai-iterate refuses.

    Raises:
        TypeError: If `predictor` is no `Predictor`, or `likelihood` or `rule` lacks a member of its
            role.

    Source:
        Mittal et al. (2025), arXiv 2510.11471: theta_{i+1} = h(theta_i, B_i), prediction
        f(x, theta_K).
    """

    needs_query = False  # the state answers any query

    def __init__(
        self,
        predictor: Predictor,
        likelihood: Likelihood,
        rule: Rule,
        start: Callable[[int], Theta] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(predictor, Predictor):
            raise TypeError(
                "`predictor` must be a Predictor, made by `Predictor(module)`; "
                f"got {type(predictor).__name__}."
            )
        check_role(Likelihood, likelihood=likelihood)
        check_role(Rule, rule=rule)
        self.predictor, self.likelihood, self.rule = predictor, likelihood, rule
        self._start = start

    def init(self, num_tasks: int, query_x: Tensor | None = None) -> AdaptedState:
        """The initial state of each task; gradients flow to a learned one. Queries are ignored."""
        theta = (self._start or self.predictor.start)(num_tasks)
        return AdaptedState(theta, self.rule.start(theta), task_zeros(theta))

    def encode(self, batch: Examples) -> tuple[Examples, Any]:
        """The minibatch, and what the rule computes from it alone.

        Raises:
            ValueError: If inputs, targets and mask are not of the same examples, or the rule cannot
                read such examples.
        """
        check_shapes(batch)
        return batch, self.rule.encode(batch)

    def update(
        self,
        state: AdaptedState,
        evidence: tuple[Examples, Any],
        query_x: Tensor | None = None,
        fresh: bool = True,
    ) -> AdaptedState:
        """The state after one minibatch; with `fresh` False, one whose examples were read before.

        A task without an observed example in the minibatch keeps its state. Gradients flow to the
        state.

        Raises:
            ValueError: If the minibatch has another number of tasks, or its inputs or targets do
                not fit the predictor and the likelihood.
        """
        batch, encoded = evidence
        check_same_tasks(state.seen, batch.mask)
        told = Evidence(encoded, batch.mask.sum(1).to(state.seen.dtype), state.seen, fresh)
        objective = MinibatchObjective(self.predictor, self.likelihood, batch)
        theta, carry = self.rule.step(state.theta, state.carry, told, objective)
        return AdaptedState(theta, carry, told.seen_after)

    def residual(
        self, solution: AdaptedState, start: AdaptedState, item: tuple[Examples, bool]
    ) -> Theta:
        """The rule's residual on a minibatch, which is zero at the rule's solution.

        The equation residual = 0 defines the solution as a function of the initial state, of the
        shared weights and of the rule's learned numbers: an implicit gradient differentiates it.

        Args:
            solution: The point at which the residual is taken.
            start: The initial state, whose carry may hold the anchor of a proximal term.
            item: The minibatch, and whether it was fresh, which does not matter here.

        Returns:
            A dict like `solution.theta`; gradients flow to that, to the carry of `start` and to
            everything that is learned.

        Raises:
            TypeError: If the rule has no residual.
        """
        rule: Any = self.rule
        check_solver(rule)
        objective = MinibatchObjective(self.predictor, self.likelihood, item[0])
        residual: Theta = rule.residual(solution.theta, start.carry, objective)
        return residual

    def predict(
        self, state: AdaptedState, query_x: Float[Tensor, "task query *x_shape"]
    ) -> Float[Tensor, "task query num_outputs"]:
        """Raw outputs at the queries; NaN for a query that is not finite.

        Gradients flow to the state and to the shared parameters; such a query gives none.

        Raises:
            ValueError: If the queries are of another number of tasks, or do not fit the predictor.
        """
        check_queries(query_x, len(state.seen))
        x, finite = finite_queries(query_x)
        outputs: Tensor = self.predictor(state.theta, x)
        check_outputs(self.likelihood, outputs, finite)
        return outputs.masked_fill(~finite[..., None], float("nan"))

    def loss(
        self, outputs: Float[Tensor, "task query num_outputs"], query: Examples
    ) -> Float[Tensor, " task"]:
        """Mean negative log-likelihood of each task's observed queries, in nats."""
        return mean_loss(self.likelihood, outputs, query)

    def validate(self, batch: Examples) -> None:
        """Raises ValueError for examples that are not finite or whose targets are impossible."""
        check_examples(batch, self.likelihood)
