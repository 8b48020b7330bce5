"""A module and the names of what is adapted in it: a function of a flat vector for each task."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap


class Predictor(nn.Module):
    """A module as a function of (adapted numbers of each task, inputs).

    The adapted parameters of all tasks are one tensor `task p`, in the order of `module.named_parameters()`. The values
    that the module holds are the learned start; its parameters that are not adapted are shared by all tasks and learned
    with everything else.

    Args:
        module: Maps inputs `n *x_shape` to outputs `n num_outputs`, without buffers that change in the forward pass.
        adapt: Names of the parameters that are adapted: full names, or prefixes that end at a dot's place ("head" for
            "head.weight" and "head.bias"). None: all of them.

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
        shapes = {name: p.shape for name, p in module.named_parameters()}
        if adapt is None:
            names = list(shapes)
        else:
            for wanted in adapt:
                if not any(_fits(name, wanted) for name in shapes):
                    raise ValueError(
                        f"`adapt` names no parameter with {wanted!r}; there are {', '.join(shapes) or 'none'}."
                    )
            names = [name for name in shapes if any(_fits(name, wanted) for wanted in adapt)]
        if not names:
            raise ValueError("`adapt` must name at least one parameter; got none.")
        self.shapes = {name: shapes[name] for name in names}
        self.size = sum(shape.numel() for shape in self.shapes.values())

    def start(self, num_tasks: int) -> Float[Tensor, "task p"]:
        """The learned start for each task; gradients flow to the module's parameters."""
        flat = torch.cat([self.module.get_parameter(name).reshape(-1) for name in self.shapes])
        return flat.expand(num_tasks, -1)

    def unflatten(self, theta: Float[Tensor, "*batch p"]) -> dict[str, Tensor]:
        """The adapted parameters by name, each with its shape behind the leading axes of `theta`."""
        pieces = theta.split([shape.numel() for shape in self.shapes.values()], dim=-1)
        return {
            name: piece.reshape(*theta.shape[:-1], *shape)
            for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }

    def forward(
        self, theta: Float[Tensor, "task p"], x: Float[Tensor, "task n *x_shape"]
    ) -> Float[Tensor, "task n num_outputs"]:
        """Each task's outputs at its inputs; gradients flow to `theta`, `x` and the shared parameters."""

        def one(adapted: dict[str, Tensor], inputs: Tensor) -> Tensor:
            outputs: Tensor = functional_call(self.module, adapted, (inputs,))
            return outputs

        outputs: Tensor = vmap(one)(self.unflatten(theta), x)
        return outputs


def _fits(name: str, wanted: str) -> bool:
    return name == wanted or name.startswith(f"{wanted}.")
