"""Likelihoods of targets given a model's raw outputs: Gaussian and categorical."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from iai_regimes.check import check_positive, check_sizes
from iai_regimes.interfaces import TaskSpec


class Gaussian(nn.Module):
    """A normal distribution on each real target.

    With `scale` given, the raw output is the mean (one number a target). Without it, each target
    has two raw outputs: all the means first, then for each target the number whose softplus is the
    standard deviation (above `min_scale`).

    Args:
        y_dim: Real targets of an example.
        scale: Standard deviation in the units of y; None to have the model predict it.
        min_scale: Smallest standard deviation that a model may predict. Where it is small, an error
            early in training is a loss so large that training may not recover.

    Raises:
        ValueError: If `y_dim` is below 1, or a scale is not positive.

    >>> likelihood = Gaussian(1, scale=1.0)
    >>> likelihood.negative_log(torch.zeros(1, 1, 1), torch.full((1, 1, 1), 2.0)).item()
    2.9189...

    That is 2 + log(2 pi) / 2.
    """

    def __init__(self, y_dim: int, *, scale: float | None = None, min_scale: float = 0.1) -> None:
        super().__init__()
        check_sizes(y_dim=y_dim)
        check_positive(scale=1.0 if scale is None else scale, min_scale=min_scale)
        self.y_dim, self.scale, self.min_scale = y_dim, scale, min_scale
        self.num_outputs, self.num_features = y_dim if scale is not None else 2 * y_dim, y_dim

    def features(self, y: Float[Tensor, "task n y_dim"]) -> Float[Tensor, "task n y_dim"]:
        """Targets as the model reads them: themselves."""
        return y

    def mean_and_scale(
        self, outputs: Float[Tensor, "*batch num_outputs"]
    ) -> tuple[Float[Tensor, "*batch y_dim"], Float[Tensor, "*batch y_dim"]]:
        """Mean and standard deviation, in the units of y, that raw outputs stand for.

        >>> mean, scale = Gaussian(1).mean_and_scale(torch.tensor([5.0, 0.0]))
        >>> mean.item(), scale.item()  # log 2, and min_scale above it
        (5.0, 0.7931...)
        """
        if self.scale is not None:
            return outputs, torch.full_like(outputs, self.scale)
        mean, raw = outputs.chunk(2, dim=-1)
        return mean, self.min_scale + nn.functional.softplus(raw)

    def negative_log(
        self, outputs: Float[Tensor, "task n num_outputs"], y: Float[Tensor, "task n y_dim"]
    ) -> Float[Tensor, "task n"]:
        """Negative log-density in nats, summed over the targets of an example; gradients flow.

        Raises:
            ValueError: If outputs and targets do not meet.
        """
        self._check_pair(outputs, y)
        mean, scale = self.mean_and_scale(outputs)
        z = (y - mean) / scale
        return (0.5 * z.square() + scale.log() + 0.5 * math.log(2 * math.pi)).sum(-1)

    def residual(
        self, outputs: Float[Tensor, "task n num_outputs"], y: Float[Tensor, "task n y_dim"]
    ) -> Float[Tensor, "task n num_outputs"]:
        """Derivative of `negative_log` by the raw outputs; (mean - y) / scale^2 for the means.

        Raises:
            ValueError: If outputs and targets do not meet.
        """
        self._check_pair(outputs, y)
        mean, scale = self.mean_and_scale(outputs)
        by_mean = (mean - y) / scale.square()
        if self.scale is not None:
            return by_mean
        by_scale = 1 / scale - (y - mean).square() / scale**3
        raw = outputs.chunk(2, dim=-1)[1]
        return torch.cat([by_mean, by_scale * raw.sigmoid()], dim=-1)

    def check(self, y: Tensor | None, mask: Bool[Tensor, "task n"]) -> None:
        """Raises ValueError unless observed targets are finite and `task n y_dim`."""
        expected = (*mask.shape, self.y_dim)
        if y is None or y.shape != expected or not y.is_floating_point():
            raise ValueError(f"`y` must be floating point of the shape {expected}; {_got(y)}.")
        if not bool(torch.isfinite(y[mask]).all()):
            raise ValueError("`y` must be finite where `mask` is True; got NaN or infinity.")

    def fits(self, spec: TaskSpec) -> bool:
        """Whether tasks so described have targets of `y_dim` real numbers.

        >>> from types import SimpleNamespace as Record
        >>> Gaussian(2).fits(Record(target=Record(dim=2)))  # LinearRegression(...).spec, say
        True
        """
        return getattr(spec.target, "dim", None) == self.y_dim

    def _check_pair(self, outputs: Tensor, y: Tensor) -> None:
        expected = (*outputs.shape[:-1], self.y_dim)
        if outputs.shape[-1:] != (self.num_outputs,) or y.shape != expected:
            raise ValueError(
                f"`outputs` and `y` must be (task, n, {self.num_outputs}) and (task, n, "
                f"{self.y_dim}); got {tuple(outputs.shape)} and {tuple(y.shape)}."
            )


class Categorical(nn.Module):
    """A distribution on classes; the raw outputs are logits.

    A class out of range has the features, the loss and the residual NaN, on any device, so that no
    learner is trained on it unnoticed.

    Args:
        num_classes: Number of classes; targets are 0 .. num_classes - 1.

    Raises:
        ValueError: If `num_classes` is below 2.

    >>> likelihood = Categorical(4)
    >>> likelihood.negative_log(torch.zeros(1, 1, 4), torch.tensor([[2]])).item()  # log 4
    1.3862...
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        check_sizes(2, num_classes=num_classes)
        self.num_classes = self.num_outputs = self.num_features = num_classes

    def features(self, y: Int[Tensor, "task n"]) -> Float[Tensor, "task n num_classes"]:
        """Targets as the model reads them: one-hot.

        >>> Categorical(3).features(torch.tensor([[1, 3]])).tolist()
        [[[0.0, 1.0, 0.0], [nan, nan, nan]]]
        """
        one_hot = y[..., None] == torch.arange(self.num_classes, device=y.device)
        unknown = (y < 0) | (y >= self.num_classes)
        return one_hot.to(torch.get_default_dtype()).masked_fill(unknown[..., None], math.nan)

    def negative_log(
        self, outputs: Float[Tensor, "task n num_classes"], y: Int[Tensor, "task n"]
    ) -> Float[Tensor, "task n"]:
        """Cross-entropy in nats; gradients flow.

        Raises:
            ValueError: If outputs and targets do not meet.
        """
        self._check_pair(outputs, y)
        known = y.clamp(0, self.num_classes - 1)
        losses = -outputs.log_softmax(-1).gather(-1, known[..., None]).squeeze(-1)
        return losses.masked_fill(known != y, math.nan)

    def residual(
        self, outputs: Float[Tensor, "task n num_classes"], y: Int[Tensor, "task n"]
    ) -> Float[Tensor, "task n num_classes"]:
        """Derivative of `negative_log` by the logits: probabilities minus one-hot.

        Raises:
            ValueError: If outputs and targets do not meet.
        """
        self._check_pair(outputs, y)
        return outputs.softmax(-1) - self.features(y).to(outputs.dtype)

    def check(self, y: Tensor | None, mask: Bool[Tensor, "task n"]) -> None:
        """Raises ValueError unless observed targets are classes in range, `task n` int64."""
        expected = tuple(mask.shape)
        if y is None or y.shape != expected or y.dtype != torch.int64:
            raise ValueError(f"`y` must be int64 classes of the shape {expected}; {_got(y)}.")
        observed = y[mask]
        if observed.numel() and not bool(((observed >= 0) & (observed < self.num_classes)).all()):
            low, high = int(observed.min()), int(observed.max())
            raise ValueError(
                f"`y` must lie in 0 .. {self.num_classes - 1} where `mask` is True; "
                f"got {low} .. {high}."
            )

    def fits(self, spec: TaskSpec) -> bool:
        """Whether tasks so described have classes as targets, at most `num_classes` of them.

        >>> from types import SimpleNamespace as Record
        >>> Categorical(3).fits(Record(target=Record(dim=1)))  # real targets
        False
        """
        num_classes: int | None = getattr(spec.target, "num_classes", None)
        return num_classes is not None and num_classes <= self.num_classes

    def _check_pair(self, outputs: Tensor, y: Tensor) -> None:
        if outputs.shape != (*y.shape, self.num_classes) or y.dtype != torch.int64:
            raise ValueError(
                f"`outputs` and `y` must be (task, n, {self.num_classes}) and (task, n) int64; got "
                f"{tuple(outputs.shape)} and {tuple(y.shape)} {y.dtype}."
            )


def _got(y: Tensor | None) -> str:
    return "got None" if y is None else f"got {y.dtype} of the shape {tuple(y.shape)}"
