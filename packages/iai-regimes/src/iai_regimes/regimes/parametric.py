"""The parametric regime: the state is the parameters of a fixed predictor."""

from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from iai_regimes.check import check_examples, check_solver
from iai_regimes.evidence import Evidence
from iai_regimes.interfaces import Examples, Likelihood, Rule, Theta
from iai_regimes.objective import MinibatchObjective, mean_loss
from iai_regimes.padding import finite_queries
from iai_regimes.predictor import Predictor
from iai_regimes.ravel import task_zeros


class AdaptedState(NamedTuple):
    """Adapted parameters, what the rule carries beside them, and the evidence behind them."""

    theta: Theta
    carry: Any  # a pytree of tensors led by the task axis
    seen: Float[Tensor, " task"]  # distinct examples


class Parametric(nn.Module):
    """Amortizes g: the rule moves the adapted parameters, the predictor answers with them.

    Everything of the predictor may be adapted, or the parameters that it names (the head, say). The
    start is learned.

    Args:
        predictor: A module and the names of what is adapted.
        likelihood: What its outputs say about a target.
        rule: How a minibatch moves what is adapted; a module where it is learned.

    Source:
        Mittal et al. (2025), arXiv 2510.11471: theta_{i+1} = h(theta_i, B_i), prediction
        f(x, theta_K).
    """

    def __init__(self, predictor: Predictor, likelihood: Likelihood, rule: Rule) -> None:
        super().__init__()
        self.predictor, self.likelihood, self.rule = predictor, likelihood, rule

    @property
    def needs_query(self) -> bool:
        """False: the state answers any query."""
        return False

    def init(self, num_tasks: int, query_x: Tensor | None = None) -> AdaptedState:
        """The learned start of each task; gradients flow to it. The queries are not looked at."""
        theta = self.predictor.start(num_tasks)
        return AdaptedState(theta, self.rule.start(theta), task_zeros(theta))

    def encode(self, batch: Examples) -> tuple[Examples, Any]:
        """What the rule computes from the minibatch alone, behind the minibatch itself.

        Raises:
            ValueError: If the rule cannot read such examples.
        """
        return batch, self.rule.encode(batch)

    def update(
        self,
        state: AdaptedState,
        evidence: tuple[Examples, Any],
        query_x: Tensor | None = None,
        fresh: bool = True,
    ) -> AdaptedState:
        """The state after one minibatch; `fresh` False says that its examples were seen before.

        A task without an observed example in the minibatch keeps its state. Gradients flow to the
        state.
        """
        batch, encoded = evidence
        told = Evidence(encoded, batch.mask.sum(1).to(state.seen.dtype), state.seen, fresh)
        objective = MinibatchObjective(self.predictor, self.likelihood, batch)
        theta, carry = self.rule.step(state.theta, state.carry, told, objective)
        return AdaptedState(theta, carry, told.seen_after)

    def residual(
        self, solution: AdaptedState, start: AdaptedState, item: tuple[Examples, bool]
    ) -> Theta:
        """How far the rule has still to go on a minibatch: zero at its solution.

        It defines the solution as a function of the start, of the shared weights and of what the
        rule has learned, which is what an implicit gradient needs.

        Args:
            solution: Where the residual is taken.
            start: Where the rule began; its carry may hold what the solution depends on.
            item: The minibatch that is solved for, and whether it was fresh, which does not matter.

        Returns:
            Names and shapes as in theta; gradients flow to `solution.theta`, to the start's carry
            and to all that is learned.

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

        Gradients flow to the state and to what the predictor shares, none from such a query.
        """
        x, finite = finite_queries(query_x)
        outputs: Tensor = self.predictor(state.theta, x)
        return outputs.masked_fill(~finite[..., None], float("nan"))

    def loss(
        self, outputs: Float[Tensor, "task query num_outputs"], query: Examples
    ) -> Float[Tensor, " task"]:
        """Mean negative log-likelihood of each task's observed queries, in nats."""
        return mean_loss(self.likelihood, outputs, query)

    def validate(self, batch: Examples) -> None:
        """Raises ValueError for examples that are not finite or whose classes are out of range."""
        check_examples(batch, self.likelihood)
