"""A rate or a strength: one number, or one for each adapted number, constant or learned."""

import math
from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from iai_regimes.evidence import spread
from iai_regimes.interfaces import Theta

Coefficients = float | Tensor | Mapping[str, Tensor]


class Coefficient(nn.Module):
    """What the numbers of theta, or of its gradient, are multiplied by.

    Args:
        label: What errors call it.
        value: A number; a tensor of the shape (); or a tensor for each adapted parameter, under its
            name and with its shape. An `nn.Parameter` is learned, any other tensor is a constant.
        by_step: Whether a tensor may have one axis more in front, a row for each step; the last row
            serves all later steps.

    Raises:
        ValueError: If a number is not finite or below 0, or a tensor is not floating point or has
            another shape.

    >>> import torch
    >>> rate = Coefficient("rate", torch.tensor([0.5, 0.25]), by_step=True)
    >>> weight = torch.zeros(3, 1, 2)  # of three tasks
    >>> rate.at("weight", weight, torch.tensor([0.0, 1.0, 9.0])).flatten().tolist()
    [0.5, 0.25, 0.25]
    """

    def __init__(self, label: str, value: Coefficients, *, by_step: bool = False) -> None:
        super().__init__()
        self.label, self.by_step = label, by_step
        self.number: float | None = None
        self.value: Tensor
        self.named: dict[str, str] = {}  # which attribute is for which parameter
        if isinstance(value, Tensor):
            self._check_shape(label, value, ())
            self._register("value", label, value)
        elif isinstance(value, Mapping):
            self.named = {name: name.replace(".", "/") for name in value}  # torch forbids dots
            for name, tensor in value.items():
                self._register(self.named[name], f"{label}[{name!r}]", tensor)
        else:
            if not 0 <= value < math.inf:
                raise ValueError(f"`{label}` must be finite and at least 0; got {value}.")
            self.number = value

    @property
    def learned(self) -> bool:
        """Whether gradients flow to it."""
        return any(parameter.requires_grad for parameter in self.parameters())

    def check(self, theta: Theta) -> None:
        """Raises ValueError if tensors by name have not the names and shapes of theta."""
        if self.named and set(self.named) != set(theta):
            raise ValueError(
                f"`{self.label}` must name the adapted parameters, {', '.join(theta)}; "
                f"got {', '.join(self.named)}."
            )
        for name, attribute in self.named.items():
            shape = tuple(theta[name].shape[1:])
            self._check_shape(f"{self.label}[{name!r}]", getattr(self, attribute), shape)

    def of_tasks(self, steps: Float[Tensor, " task"] | None = None) -> float | Tensor:
        """A number for all tasks, or one for each; there is none where tensors go by name.

        Args:
            steps: Number of steps that each task took before, where there are rows for them.
        """
        return self.number if self.number is not None else _row(self.value, steps, 0)

    def at(
        self, name: str, value: Tensor, steps: Float[Tensor, " task"] | None = None
    ) -> float | Tensor:
        """What the adapted parameter of this name is multiplied by, to broadcast with `value`."""
        if self.named:
            return _row(getattr(self, self.named[name]), steps, value.dim() - 1)
        number = self.of_tasks(steps)
        return spread(number, value) if isinstance(number, Tensor) and number.dim() else number

    def _check_shape(self, label: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
        got, by_step = tuple(tensor.shape), ("step", *shape)
        if got == shape or (self.by_step and got[1:] == shape and got[0] > 0):
            return
        expected = f"{shape} or {by_step}".replace("'", "") if self.by_step else f"{shape}"
        raise ValueError(f"`{label}` must have the shape {expected}; got {got}.")

    def _register(self, attribute: str, label: str, tensor: Tensor) -> None:
        if not tensor.is_floating_point():
            raise ValueError(f"`{label}` must be floating point; got {tensor.dtype}.")
        wrong = tensor[~(tensor.isfinite() & (tensor >= 0))]
        if wrong.numel():
            raise ValueError(f"`{label}` must be finite and at least 0; got {wrong[0].item()}.")
        if isinstance(tensor, nn.Parameter):
            self.register_parameter(attribute, tensor)
        else:
            self.register_buffer(attribute, tensor)


def _row(tensor: Tensor, steps: Tensor | None, num_axes: int) -> Tensor:
    """The row of each task's step, where the tensor has an axis for it."""
    if steps is None or tensor.dim() == num_axes:
        return tensor
    return tensor[steps.long().clamp(max=len(tensor) - 1)]
