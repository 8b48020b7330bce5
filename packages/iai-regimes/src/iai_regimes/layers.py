"""What layers of torch need so that a task gets the same beside others as alone."""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain

from torch import Tensor, nn
from torch.backends import cudnn, mha
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parameter import is_lazy

_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_WITHOUT_VMAP = (*_RECURRENT, nn.RReLU, nn.CrossMapLRN2d)
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


class Layers:
    """The layers of a module, some of whose parameters differ from task to task.

    Args:
        module: What holds the layers.
        adapted: The `id` of each parameter that differs from task to task.

    Raises:
        ValueError: If a layer cannot have other weights in each task.
    """

    def __init__(self, module: nn.Module, adapted: Collection[int]) -> None:
        layers = dict(module.named_modules())
        self._recurrent = any(isinstance(layer, _RECURRENT) for layer in layers.values())
        self._attends = any(isinstance(layer, nn.MultiheadAttention) for layer in layers.values())
        self.one_by_one = any(isinstance(layer, _WITHOUT_VMAP) for layer in layers.values())
        for name, layer in layers.items():
            if not isinstance(layer, _EMBEDDINGS):
                continue
            what = name or "the module"
            if layer.max_norm is not None:
                raise ValueError(
                    f"A forward of the module must leave its weights as they are; {what} has "
                    "`max_norm`, which changes them in place."
                )
            if not any(id(parameter) in adapted for parameter in layer.parameters()):
                continue
            if layer.sparse:
                raise ValueError(
                    f"An adapted embedding must have dense gradients; {what} has `sparse=True`."
                )
            # Under vmap the padding row has no gradient in the first task, and has one in others.
            padded = isinstance(layer, nn.Embedding) and layer.padding_idx is not None
            self.one_by_one = self.one_by_one or padded

    @contextmanager
    def differentiable(self, x: Tensor) -> Iterator[None]:
        """Fused kernels are off that have no second derivative, or no rule for vmap.

        Those of attention, torch's fast path of attention layers in evaluation mode, and cudnn's
        RNNs.
        """
        with ExitStack() as stack:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            if self._recurrent and x.is_cuda:
                stack.enter_context(cudnn.flags(enabled=False))
            if self._attends and mha.get_fastpath_enabled():
                mha.set_fastpath_enabled(False)
                stack.callback(mha.set_fastpath_enabled, True)
            yield


def check_initialized(module: nn.Module) -> None:
    """Raises ValueError for a layer that gets its weights when it reads its first input."""
    for name, tensor in chain(module.named_parameters(), module.named_buffers()):
        if is_lazy(tensor):
            raise ValueError(
                f"`module` must have all its weights; {name} gets its shape when the module reads "
                "its first input."
            )


def other_places(module: nn.Module, adapted: Collection[str]) -> dict[str, str]:
    """Other layers' names of adapted parameters that several layers hold; the first name of each.

    A layer that is held twice has its parameters in one place. Were both their names replaced,
    `functional_call` would restore the second to what the first had replaced it by.

    >>> first, last = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> last.weight = first.weight
    >>> other_places(nn.Sequential(first, first, last), {"0.weight", "0.bias"})
    {'2.weight': '0.weight'}
    """
    first, places, others = dict[int, str](), set[tuple[int, str]](), dict[str, str]()
    for name, parameter in module.named_parameters(remove_duplicate=False):
        layer, _, attribute = name.rpartition(".")
        place = id(module.get_submodule(layer)), attribute
        if place not in places:
            places.add(place)
            held = first.setdefault(id(parameter), name)
            if held != name and held in adapted:
                others[name] = held
    return others
