"""A module and the names of what is adapted in it: a function of each task's parameters."""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from iai_regimes.check import check_statistics, reading
from iai_regimes.interfaces import Theta
from iai_regimes.layers import Layers, check_initialized, other_places
from iai_regimes.precision import as_module, as_weights, at_least_single
from iai_regimes.ravel import unravel


class Predictor(nn.Module):
    """A module as a function of (adapted parameters of each task, inputs).

    The adapted parameters are a dict of tensors `task *shape` in the order of
    `module.named_parameters()`; a parameter that the module uses twice appears once. Every task
    starts from the module's own parameters, which are learned. Parameters that are not adapted are
    shared by all tasks and learned, too.

    Tasks are computed side by side, except in a module with a layer of torch that takes one task at
    a time: a recurrent one (`nn.LSTM`, `nn.GRUCell`, ...), an adapted `nn.Embedding` with a
    `padding_idx`, `nn.RReLU` or `nn.CrossMapLRN2d`.

    Args:
        module: Maps inputs `n *x_shape` to outputs `n num_outputs`, each input by itself. Dropout
            draws for each task anew. A forward must leave the module's buffers and weights as they
            are. If it changes its input in place, it is given a copy.
        adapt: Names of the parameters that are adapted: full names, or the names of submodules
            ("head" for "head.weight" and "head.bias"). A parameter with two names may be called by
            either. None: all parameters that require a gradient when this is made, so that frozen
            layers are shared by all tasks.

    Raises:
        ValueError: If a name fits no parameter, nothing is adapted, or a layer cannot have other
            weights in each task: a lazy one that has none yet, an `nn.Embedding` with `max_norm`,
            which changes them, or with `sparse` gradients.
        TypeError: If `adapt` is a string.

    >>> predictor = Predictor(nn.Linear(2, 1))
    >>> theta = {"weight": torch.tensor([[[1.0, 10.0]]]), "bias": torch.tensor([[0.5]])}  # one task
    >>> predictor(theta, torch.tensor([[[1.0, 1.0], [2.0, 0.0]]])).tolist()
    [[[11.5], [2.5]]]
    """

    def __init__(self, module: nn.Module, adapt: Sequence[str] | None = None) -> None:
        super().__init__()
        if isinstance(adapt, str):
            raise TypeError(f"`adapt` must be a sequence of names; got the string {adapt!r}.")
        check_initialized(module)
        self.module = module
        parameters = dict(module.named_parameters())
        first = {id(parameter): name for name, parameter in parameters.items()}
        every = dict(module.named_parameters(remove_duplicate=False))
        for wanted in adapt or ():
            if not any(_fits(name, wanted) for name in every):
                raise ValueError(
                    f"`adapt` must name parameters of the module, "
                    f"{', '.join(parameters) or 'none'}; got {wanted!r}."
                )
        adapted = {
            first[id(parameter)]
            for name, parameter in every.items()
            if (
                parameter.requires_grad
                if adapt is None
                else any(_fits(name, wanted) for wanted in adapt)
            )
        }
        self.shapes = {name: p.shape for name, p in parameters.items() if name in adapted}
        self._shared = [name for name in parameters if name not in adapted]
        self._tied = other_places(module, adapted)
        self._layers = Layers(module, {id(parameters[name]) for name in adapted})
        layers = module.modules()
        self._buffered = [layer for layer in layers if any(True for _ in layer.buffers(False))]
        self._tried: set[tuple[bool, ...]] = set()
        self._writes: dict[bool, bool] = {}  # whether it changes its input, training or not
        self.size = sum(shape.numel() for shape in self.shapes.values())
        if not self.size:
            frozen = " A frozen one is adapted only if `adapt` names it." if self._shared else ""
            raise ValueError(
                f"At least one parameter of the module must be adapted; got none.{frozen}"
            )

    def start(self, num_tasks: int) -> Theta:
        """The learned start for each task; gradients flow to the parameters.

        In float32 at least: a bfloat16 sum of many small steps stands still. No copy is made of
        parameters that are.
        """
        return {
            name: at_least_single(self._parameter(name)).expand(num_tasks, *shape)
            for name, shape in self.shapes.items()
        }

    def full(self, value: float) -> dict[str, nn.Parameter]:
        """For each adapted parameter, a new one full of `value`: rates or strengths to be learned.

        >>> Predictor(nn.Linear(2, 1)).full(0.1)["bias"].tolist()
        [0.1...]
        """
        return {
            name: nn.Parameter(torch.full_like(self._parameter(name), value))
            for name in self.shapes
        }

    def random_start(self, num_tasks: int) -> Theta:
        """New random parameters for each task, instead of learned initial values.

        They are uniform within 1 / sqrt(inputs of the layer), as `nn.Linear` draws its own. They
        come from torch's global generator, as dropout's masks do: a checkpoint of training must
        keep the state of that generator (`torch.get_rng_state`).

        Raises:
            ValueError: If a parameter of another kind of layer is adapted.

        >>> start = Predictor(nn.Linear(100, 3)).random_start(2)
        >>> start["weight"].shape, bool((start["weight"].abs() <= 0.1).all())
        (torch.Size([2, 3, 100]), True)
        """
        bounds = {}
        for name in self.shapes:
            layer = self.module.get_submodule(name.rpartition(".")[0])
            if not isinstance(layer, nn.Linear):
                raise ValueError(
                    "Random initial values are known for parameters of `nn.Linear` alone; "
                    f"{name!r} is one of {type(layer).__name__}."
                )
            bounds[name] = layer.in_features**-0.5
        like = at_least_single(self._parameter(name))
        uniform = torch.rand(num_tasks, self.size, dtype=like.dtype, device=like.device)
        drawn = unravel(2 * uniform - 1, self.start(num_tasks))
        return {name: bounds[name] * value for name, value in drawn.items()}

    def shared(self) -> list[Tensor]:
        """The parameters that are not adapted, which all tasks share.

        >>> len(Predictor(nn.Linear(1, 1), adapt=["bias"]).shared())
        1
        """
        return [self._parameter(name) for name in self._shared]

    def forward(
        self, theta: Theta, x: Float[Tensor, "task n *x_shape"]
    ) -> Float[Tensor, "task n num_outputs"]:
        """Each task's outputs at its inputs.

        Gradients of any order flow to `theta`, `x` and the shared parameters.

        Raises:
            ValueError: If `theta` and `x` differ in their number of tasks, the inputs do not fit
                the module, it does not give `n num_outputs`, or it would update running statistics
                or change another buffer.
        """
        num_tasks = len(next(iter(theta.values())))
        if num_tasks != len(x):
            raise ValueError(
                f"`theta` and `x` must have as many tasks; got {num_tasks} and {len(x)}."
            )
        if num_tasks == 1:
            return self.alone({name: value.squeeze(0) for name, value in theta.items()}, x)
        own, x = self.in_own_dtypes(theta, x)
        if self._buffered:
            self.check_buffers(own, x)
        outputs: Tensor = self.across_tasks(self._outputs, own, x)
        return as_weights(outputs, next(iter(theta.values())))

    def alone(
        self, parameters: dict[str, Tensor], x: Float[Tensor, "1 n *x_shape"]
    ) -> Float[Tensor, "1 n num_outputs"]:
        """The outputs of a single task, whose parameters come without the task axis."""
        own, x = self.in_own_dtypes(parameters, x)
        if self._buffered:
            self.check_buffers({name: value[None] for name, value in own.items()}, x)
        outputs: Tensor = self._evaluated(lambda x: self._outputs(own, x.squeeze(0)), x)
        return as_weights(outputs, next(iter(parameters.values())))[None]

    def in_own_dtypes(
        self, parameters: dict[str, Tensor], x: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Adapted parameters in the dtypes that they have in the module, and inputs in its first.

        Gradients flow; what has the dtype already is not copied.
        """
        own = {name: as_weights(value, self._parameter(name)) for name, value in parameters.items()}
        return own, as_module(x, self.module)

    def across_tasks(self, function: Callable[..., Any], theta: Theta, *inputs: Tensor) -> Any:
        """A function of one task's parameters, by name, and inputs, for all tasks side by side.

        Args:
            function: `function(parameters, *inputs)` of a task gives a tensor or a pytree of them.
            theta: The adapted parameters of each task.
            inputs: Tensors led by the task axis.

        Returns:
            What the function gives, led by the task axis; gradients of any order flow.
        """

        def side_by_side(*inputs: Tensor) -> Any:
            return vmap(function, randomness="different")(theta, *inputs)

        def one_by_one(*inputs: Tensor) -> Any:
            rows = zip(*(value.unbind() for value in (*theta.values(), *inputs)), strict=True)
            tasks = [(dict(zip(theta, row, strict=False)), row[len(theta) :]) for row in rows]
            results = [function(parameters, *own) for parameters, own in tasks]
            return tree_map(lambda *leaves: torch.stack(leaves), *results)

        apart = self._layers.one_by_one and len(next(iter(theta.values())))
        return self._evaluated(one_by_one if apart else side_by_side, *inputs)

    def call(self, parameters: dict[str, Tensor], x: Float[Tensor, "n *x_shape"]) -> Any:
        """What the module gives for the parameters and the inputs of one task."""
        tied = {name: parameters[first] for name, first in self._tied.items()}
        return functional_call(self.module, parameters | tied, (x,), tie_weights=False)

    def check_buffers(self, theta: Theta, x: Float[Tensor, "task n *x_shape"]) -> None:
        """Raises ValueError if a forward would update running statistics or change a buffer."""
        check_statistics(
            self.module,
            "module",
            "which tasks side by side cannot update; use GroupNorm or LayerNorm, or give "
            "`track_running_stats=False`.",
        )
        training = tuple(layer.training for layer in self._buffered)
        if training in self._tried or not len(x):
            return
        # Once, on copies of the buffers: afterwards it would be too late to say no.
        copies = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        given = {name: value[0] for name, value in theta.items()} | copies
        devices = [x.device] if x.is_cuda else []
        math, tried = sdpa_kernel(SDPBackend.MATH), reading("module", self.module, x[0])
        with torch.no_grad(), torch.random.fork_rng(devices), math, tried:
            functional_call(self.module, given, (x[0].clone(),), tie_weights=False)
        for name, copy in copies.items():
            if given[name] is not copy or copy._version:
                raise ValueError(
                    "A forward of the module must leave its buffers as they are, for all tasks "
                    f"share them; it changes {name!r}."
                )
        self._tried.add(training)

    def _evaluated(self, function: Callable[..., Any], *inputs: Tensor) -> Any:
        """`function(*inputs)`, which leaves the inputs as they are, whatever the module does."""
        training = self.module.training
        # A trace and an inference tensor count no changes.
        uncounted = torch.compiler.is_compiling() or torch.is_inference_mode_enabled()
        uncounted = uncounted or any(x.is_inference() for x in inputs)
        copied = uncounted or self._writes.get(training, True)
        given = tuple(x.clone() for x in inputs) if copied else inputs
        versions = None if uncounted else [x._version for x in given]
        with self._layers.differentiable(inputs[0]):
            outputs = function(*given)
        if versions is not None:
            written = versions != [x._version for x in given]
            if written and not copied:
                raise ValueError(
                    "The module must either always change its input in place or never; it did so "
                    "now, and not the first time. Work on `x.clone()` in its forward."
                )
            self._writes.setdefault(training, written)
        return outputs

    def _outputs(self, adapted: dict[str, Tensor], x: Tensor) -> Tensor:
        with reading("module", self.module, x):
            outputs = self.call(adapted, x)
        if not isinstance(outputs, Tensor) or outputs.dim() != 2 or len(outputs) != len(x):
            got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise ValueError(
                "`module` must map inputs (n, *x_shape) to outputs (n, num_outputs); of "
                f"{tuple(x.shape)} it made {got}."
            )
        return outputs

    def _parameter(self, name: str) -> Tensor:
        parameter: Tensor = attrgetter(name)(self.module)
        return parameter


def _fits(name: str, wanted: str) -> bool:
    return name == wanted or name.startswith(f"{wanted}.")
