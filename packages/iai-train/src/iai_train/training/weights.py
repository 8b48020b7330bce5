"""The weights of a module: which fit, which are finite, and files of weights alone."""

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from iai_train.training.checkpoint import (
    CheckpointError,
    differences,
    load_checkpoint,
    save_checkpoint,
)
from iai_train.training.tree import is_named


def save_weights(
    module: nn.Module, path: str | Path, setup: Mapping[str, object] | None = None
) -> None:
    """Writes the weights of a module alone, such as a trained learner's to publish.

    Args:
        module: Any module. Its parameters are finite, and no buffer holds NaN.
        path: The file; its folder exists.
        setup: What is needed to build such a module again, JSON values: `load_weights` returns it.

    Raises:
        OSError: The file could not be written; what was there before is untouched.
        ValueError: A weight is not finite; nothing was written.
    """
    weights = module.state_dict()
    infinite = dict(module.named_buffers())
    if name := first_not_finite(weights, infinite):
        raise ValueError(f"`module` must have finite weights; `{name}` is not finite.")
    save_checkpoint(Path(path), {"weights": weights}, setup or {})


def load_weights(module: nn.Module, path: str | Path) -> dict[str, object]:
    """Loads weights that `save_weights` wrote, to the device that the module is on.

    Returns:
        The setup that was stored with them.

    Raises:
        CheckpointError: The file is damaged, of another module or dtype, or holds a number that is
            not finite; `module` is as it was.
        FileNotFoundError: There is no such file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "linear.safetensors"
    ...     save_weights(nn.Linear(3, 2), path, {"width": 3})
    ...     load_weights(nn.Linear(3, 2), path)
    {'width': 3}
    """
    path = Path(path)
    tree, setup = load_checkpoint(path)
    weights = checked_weights(path, module, tree.get("weights"))
    module.load_state_dict(weights)
    return setup


def checked_weights(path: Path, module: nn.Module, weights: object) -> dict[str, object]:
    """The weights of a file, which fit a module; none is loaded.

    Raises:
        CheckpointError: Weights are missing, unexpected, no tensors, of another shape or dtype, or
            not finite; or the module has no memory of its own for each number.
    """
    if not is_named(weights):
        raise CheckpointError(f"`{path}` holds no weights of a module alone.")
    own = module.state_dict()
    if found := differences(kinds(weights), kinds(own)):
        raise CheckpointError(f"`{path}` holds other weights than this module: {found}.")
    if name := first_not_finite(weights, infinite_buffers(module)):
        raise CheckpointError(f"`{path}` holds weights that are not finite: `{name}`.")
    if name := next((name for name, weight in own.items() if _repeats(weight)), None):
        raise CheckpointError(
            f"`{path}` cannot be loaded: `{name}` of this module repeats its memory (a stride of "
            "0). Make it contiguous."
        )
    return weights


def infinite_buffers(module: nn.Module) -> set[str]:
    """Names of the buffers that hold infinities by design, such as a mask of -inf."""
    return {name for name, buffer in module.named_buffers() if not _finite(buffer, nan=False)}


def kinds(tensors: Mapping[str, object]) -> dict[str, object]:
    """Shape and dtype of each tensor, or the type of what is none.

    >>> kinds({"a": torch.ones(2), "b": 1})
    {'a': '(2,) float32', 'b': 'a int'}
    """
    return {
        name: f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
        if isinstance(tensor, Tensor)
        else f"a {type(tensor).__name__}"
        for name, tensor in tensors.items()
    }


def first_not_finite(tensors: Mapping[str, object], infinite: Collection[str] = ()) -> str | None:
    """Name of the first tensor that is not finite, where all are.

    Args:
        tensors: Tensors by name; other values pass.
        infinite: Names of those that may hold infinities, but not NaN.

    >>> first_not_finite({"a": torch.ones(1), "b": torch.tensor([float("inf")])})
    'b'
    """
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor) and not _finite(tensor, nan=name in infinite):
            return name
    return None


def check_memory(module: nn.Module) -> None:
    """Refuses parameters that an optimizer, or a checkpoint, cannot write to as they are.

    The fused AdamW reads and writes the memory of a parameter from end to end, in whatever order
    its axes lie. So a gap, or a number that stands for several, would corrupt other memory.

    Raises:
        ValueError: A parameter to be trained is a view with gaps or repeats or no real number, or
            another weight repeats its memory.
    """
    for name, weight in module.state_dict(keep_vars=True).items():
        if not isinstance(weight, Tensor):
            continue
        if _repeats(weight) or (weight.requires_grad and not _dense(weight)):
            raise ValueError(
                f"`learner` must have parameters with memory of their own; `{name}` is a view with "
                f"gaps or repeats (shape {tuple(weight.shape)}, strides {weight.stride()}). Make "
                "it contiguous."
            )
        if weight.requires_grad and not weight.is_floating_point():
            raise ValueError(f"`learner` must have real parameters; `{name}` is {weight.dtype}.")


def _dense(tensor: Tensor) -> bool:
    axes = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    return tensor.permute(axes).is_contiguous()


def _repeats(tensor: object) -> bool:
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
        return False
    return any(
        size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )


def _finite(tensor: Tensor, *, nan: bool) -> bool:
    """Whether all numbers are finite; or, with `nan`, none of them is NaN."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    if tensor.layout != torch.strided:  # of a sparse tensor, what it stores
        tensor = tensor.coalesce().values() if tensor.is_sparse else tensor.values()
    if tensor.element_size() == 1:  # an 8-bit float, which torch asks little of
        tensor = tensor.float()
    return not bool(tensor.isnan().any()) if nan else bool(tensor.isfinite().all())
