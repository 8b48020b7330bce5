"""A module and the names of what is adapted in it: a function of a flat vector for each task."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel


class Predictor(nn.Module):
    """A module as a function of (adapted numbers of each task, inputs).

    The adapted parameters of all tasks are one tensor `task p`, in the order of
    `module.named_parameters()`; a parameter that the module uses twice is there once. The values
    that the module holds are the learned start; its parameters that are not adapted are shared by
    all tasks and learned with everything else.

    Args:
        module: Maps inputs `n *x_shape` to outputs `n num_outputs`, each input by itself. Dropout
            draws for each task anew.
        adapt: Names of the parameters that are adapted: full names, or prefixes that end at a dot's
            place ("head" for "head.weight" and "head.bias"). None: all of them.

    Raises:
        ValueError: If a name fits no parameter, or nothing is adapted.

    >>> predictor = Predictor(nn.Linear(2, 1))
    >>> theta = torch.tensor([[1.0, 10.0, 0.5]])  # one task: weight (1, 10), bias 0.5
    >>> predictor(theta, torch.tensor([[[1.0, 1.0], [2.0, 0.0]]])).tolist()
    [[[11.5], [2.5]]]
    """

    def __init__(self, module: nn.Module, adapt: Sequence[str] | None = None) -> None:
        super().__init__()
        self.module = module
        shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
        for wanted in adapt or ():
            if not any(_fits(name, wanted) for name in shapes):
                raise ValueError(
                    f"`adapt` must name parameters of the module, {', '.join(shapes) or 'none'}; "
                    f"got {wanted!r}."
                )
        self.shapes = {
            name: shape
            for name, shape in shapes.items()
            if adapt is None or any(_fits(name, wanted) for wanted in adapt)
        }
        self.size = sum(shape.numel() for shape in self.shapes.values())
        if not self.size:
            raise ValueError("At least one parameter of the module must be adapted; got none.")

    def start(self, num_tasks: int) -> Float[Tensor, "task p"]:
        """The learned start for each task; gradients flow to the module's parameters."""
        flat = torch.cat([self.module.get_parameter(name).reshape(-1) for name in self.shapes])
        return flat.expand(num_tasks, -1)

    def unflatten(self, theta: Float[Tensor, "*batch p"]) -> dict[str, Tensor]:
        """The adapted parameters by name, each with its shape behind the leading axes of `theta`.

        >>> [(name, p.tolist()) for name, p in Predictor(nn.Linear(1, 1)).unflatten(
        ...     torch.tensor([3.0, 4.0])).items()]
        [('weight', [[3.0]]), ('bias', [4.0])]
        """
        sizes = [shape.numel() for shape in self.shapes.values()]
        return {
            name: piece.reshape((*theta.shape[:-1], *shape))
            for (name, shape), piece in zip(
                self.shapes.items(), torch.split(theta, sizes, dim=-1), strict=True
            )
        }

    def forward(
        self, theta: Float[Tensor, "task p"], x: Float[Tensor, "task n *x_shape"]
    ) -> Float[Tensor, "task n num_outputs"]:
        """Each task's outputs at its inputs.

        Gradients of any order flow to `theta`, `x` and the shared parameters.

        Raises:
            ValueError: If the module would update running statistics.
        """
        self._check_statistics()

        def one(adapted: dict[str, Tensor], inputs: Tensor) -> Tensor:
            outputs: Tensor = functional_call(self.module, adapted, (inputs,))
            return outputs

        # The fused kernels of attention have no second derivative, and no batch of tasks.
        with sdpa_kernel(SDPBackend.MATH):
            outputs: Tensor = vmap(one, randomness="different")(self.unflatten(theta), x)
        return outputs

    def _check_statistics(self) -> None:
        for name, layer in self.module.named_modules():
            if layer.training and getattr(layer, "running_mean", None) is not None:
                raise ValueError(
                    f"The module keeps running statistics ({name or type(layer).__name__}), which "
                    "tasks side by side cannot update; use GroupNorm or LayerNorm, or give "
                    "`track_running_stats=False`."
                )


def _fits(name: str, wanted: str) -> bool:
    return name == wanted or name.startswith(f"{wanted}.")
