"""A rate or a strength: one number, or one for each adapted number, constant or learned."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iai_regimes.interfaces import Theta

Coefficients = float | Tensor | Mapping[str, Tensor]


class Coefficient(nn.Module):
    """What the numbers of theta, or of its gradient, are multiplied by.

    Args:
        label: What errors call it.
        value: A number; a tensor of the shape (); or a tensor for each adapted parameter, under its
            name and with its shape. An `nn.Parameter` is learned, any other tensor is a constant.
        by_step: Whether a tensor may have the shape (step,) instead of (), a number for each step;
            the last one serves all later steps.

    Raises:
        ValueError: If a number is not finite or below 0, or a tensor is not floating point or has
            another shape.

    >>> rate = Coefficient("rate", torch.tensor([0.5, 0.25]), by_step=True)
    >>> rate.of_tasks(torch.tensor([0.0, 1.0, 9.0]))
    tensor([0.5000, 0.2500, 0.2500])
    """

    def __init__(self, label: str, value: Coefficients, *, by_step: bool = False) -> None:
        super().__init__()
        self.label, self.attributes = label, dict[str, str]()
        if isinstance(value, Mapping):
            self.named = nn.Module()  # of its own: a parameter may be called `label`
            if not value:
                raise ValueError(f"`{label}` must name the adapted parameters; got none.")
            for name, tensor in value.items():
                self.attributes[name] = name.replace("/", "//").replace(
                    ".", "/"
                )  # no dots in torch
                _register(self.named, self.attributes[name], f"{label}[{name!r}]", tensor)
        elif isinstance(value, Tensor):
            _register(self, "value", label, value)
            if value.dim() > by_step or not value.numel():
                shapes = "() or (step,)" if by_step else "()"
                raise ValueError(
                    f"`{label}` must have the shape {shapes}; got {tuple(value.shape)}."
                )
        else:
            _check(label, torch.tensor(value, dtype=torch.float64))
            self.value = value

    @property
    def learned(self) -> bool:
        """Whether gradients flow to it."""
        return any(parameter.requires_grad for parameter in self.parameters())

    def check(self, theta: Theta) -> None:
        """Raises ValueError if tensors by name have not the names and shapes of theta."""
        if self.attributes and set(self.attributes) != set(theta):
            raise ValueError(
                f"`{self.label}` must name the adapted parameters, {', '.join(theta)}; "
                f"got {', '.join(self.attributes)}."
            )
        for name in self.attributes:
            expected, got = (tuple(t.shape) for t in (theta[name][0], self.of(name)))
            if got != expected:
                raise ValueError(
                    f"`{self.label}[{name!r}]` must have the shape {expected}; got {got}."
                )

    def of(self, name: str) -> Any:
        """A number or a tensor for the adapted parameter of this name."""
        return getattr(self.named, self.attributes[name]) if self.attributes else self.value

    def of_tasks(self, steps: Float[Tensor, " task"]) -> float | Tensor:
        """A number for all tasks, or one for each. Not defined for tensors by name: use `of`.

        Args:
            steps: Number of steps that each task took before.
        """
        value: float | Tensor = self.value
        if isinstance(value, Tensor) and value.dim():
            return value[steps.long().clamp(max=len(value) - 1)]
        return value


def _register(module: nn.Module, attribute: str, label: str, tensor: Tensor) -> None:
    _check(label, tensor)
    if isinstance(tensor, nn.Parameter):
        module.register_parameter(attribute, tensor)
    else:
        module.register_buffer(attribute, tensor)


def _check(label: str, tensor: Tensor) -> None:
    if not tensor.is_floating_point():
        raise ValueError(f"`{label}` must be floating point; got {tensor.dtype}.")
    wrong = tensor[~(tensor.isfinite() & (tensor >= 0))]
    if wrong.numel():
        raise ValueError(f"`{label}` must be finite and at least 0; got {wrong[0].item()}.")
