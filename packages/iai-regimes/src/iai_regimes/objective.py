"""The loss of a task's examples, and that of one minibatch as a function of what is adapted."""

from jaxtyping import Float
from torch import Tensor

from iai_regimes.evidence import masked_mean
from iai_regimes.interfaces import Examples, Likelihood
from iai_regimes.predictor import Predictor


def mean_loss(
    likelihood: Likelihood, outputs: Float[Tensor, "task n num_outputs"], examples: Examples
) -> Float[Tensor, " task"]:
    """Mean negative log-likelihood of each task's observed examples, in nats; 0 where there is none.

    Raises:
        ValueError: If the examples have no targets.
    """
    losses = likelihood.negative_log(outputs, targets(examples))
    return masked_mean(losses[..., None], examples.mask)[:, 0]


def targets(examples: Examples) -> Tensor:
    """The examples' `y`.

    Raises:
        ValueError: If there is none.
    """
    if examples.y is None:
        raise ValueError("Targets are needed here; got examples whose `y` is None.")
    return examples.y


def observed_inputs(examples: Examples) -> Tensor:
    """The examples' `x` with zeros where nothing is observed, so that no padding reaches a result."""
    mask = examples.mask.reshape(*examples.mask.shape, *[1] * (examples.x.dim() - 2))
    return examples.x.masked_fill(~mask, 0.0)


class MinibatchObjective:
    """The loss of a predictor on one minibatch as a function of the adapted numbers of each task."""

    def __init__(self, predictor: Predictor, likelihood: Likelihood, batch: Examples) -> None:
        self._predictor, self._likelihood, self._batch = predictor, likelihood, batch
        self._x, self._y = observed_inputs(batch), targets(batch)

    def loss(self, theta: Float[Tensor, "task p"]) -> Float[Tensor, " task"]:
        """Mean loss over the observed examples of each task's minibatch; 0 where there is none."""
        return mean_loss(self._likelihood, self._predictor(theta, self._x), self._batch)

    def residual(self, theta: Float[Tensor, "task p"]) -> Float[Tensor, "task n num_outputs"]:
        """Derivative of each example's own loss by the outputs at `theta`."""
        return self._likelihood.residual(self._predictor(theta, self._x), self._y)
