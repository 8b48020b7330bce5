"""The mean loss on a set of examples, and the loss on a minibatch as a function of theta."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iai_regimes.check import check_outputs, check_shapes
from iai_regimes.evidence import masked_mean
from iai_regimes.interfaces import Examples, Likelihood, Theta
from iai_regimes.padding import observed_inputs, observed_targets
from iai_regimes.predictor import Predictor


def mean_loss(
    likelihood: Likelihood, outputs: Float[Tensor, "task n num_outputs"], examples: Examples
) -> Float[Tensor, " task"]:
    """Mean negative log-likelihood of each task's observed examples, in nats; 0 where none is.

    Observed targets are checked on the CPU alone: elsewhere that would be to wait for the device.

    Raises:
        ValueError: If the examples have no targets or those of another likelihood, or the outputs
            are not as many as the likelihood reads, for each example.
    """
    check_shapes(examples)
    check_outputs(likelihood, outputs, examples.mask)
    targets = observed_targets(examples, outputs)
    if targets.device.type == "cpu" and not torch.compiler.is_compiling():
        likelihood.check(examples.y, examples.mask)
    observed = outputs.masked_fill(~examples.mask[..., None], 0.0)
    losses = likelihood.negative_log(observed, targets)
    return masked_mean(losses[..., None], examples.mask)[:, 0]


class MinibatchObjective:
    """The loss of a predictor on one minibatch as a function of each task's adapted parameters.

    Args:
        predictor: Maps adapted parameters and inputs to raw outputs.
        likelihood: Compares raw outputs with targets.
        batch: The minibatch. Without targets, `loss` and `residual` raise ValueError.
    """

    def __init__(self, predictor: Predictor, likelihood: Likelihood, batch: Examples) -> None:
        self._predictor, self._likelihood = predictor, likelihood
        self._x, self._batch = observed_inputs(batch), batch
        self._hidden, self._count = ~batch.mask, batch.mask.sum(1).clamp(min=1)

    @property
    def shared(self) -> bool:
        """Whether gradients flow to the predictor's shared weights, the likelihood or the batch."""
        likelihood = self._likelihood
        learned = likelihood.parameters() if isinstance(likelihood, nn.Module) else ()
        tensors = (self._x, self._batch.y, *self._predictor.shared(), *learned)
        return any(tensor is not None and tensor.requires_grad for tensor in tensors)

    def loss(self, theta: Theta) -> Float[Tensor, " task"]:
        """Mean loss over the observed examples of each task's minibatch; 0 where none is."""
        return self._mean(self._predictor(theta, self._x))

    def loss_alone(self, parameters: dict[str, Tensor]) -> Float[Tensor, " 1"]:
        """The same for a single task, whose parameters come without the task axis."""
        return self._mean(self._predictor.alone(parameters, self._x))

    def residual(self, theta: Theta) -> Float[Tensor, "task n num_outputs"]:
        """Derivative of each example's own loss by the outputs at `theta`; 0 where masked."""
        outputs = self._predictor(theta, self._x)
        check_outputs(self._likelihood, outputs, self._hidden)
        residual = self._likelihood.residual(outputs, observed_targets(self._batch, outputs))
        return residual.masked_fill(self._hidden[..., None], 0.0)

    def _mean(self, outputs: Tensor) -> Tensor:
        check_outputs(self._likelihood, outputs, self._hidden)
        losses = self._likelihood.negative_log(outputs, observed_targets(self._batch, outputs))
        return losses.masked_fill(self._hidden, 0.0).sum(1) / self._count
