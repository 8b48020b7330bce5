"""Imports torchvision's datasets beside any build of torch."""

import sys
from types import ModuleType

import torch

_libraries: list[torch.library.Library] = []  # a library's definitions end with the object


def import_datasets() -> ModuleType:
    """Returns the module `torchvision.datasets`.

    A torchvision wheel that was built for CUDA cannot load its operators beside a CPU build of
    torch, and then its import fails on their missing declarations, although no dataset needs an
    operator. In that case they are declared, without an implementation, and the import is repeated.

    Raises:
        ImportError: If torchvision is not installed.
    """
    try:
        return _import()
    except ModuleNotFoundError as error:
        raise ImportError(
            "Image sets need torchvision: pip install 'iai-tasks[vision]'."
        ) from error
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    boxes = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    library.define(f"nms{boxes}")  # type: ignore[no-untyped-call]
    library.define(f"qnms{boxes}")  # type: ignore[no-untyped-call]
    _libraries.append(library)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # half imported
    return _import()


def _import() -> ModuleType:
    from torchvision import datasets

    module: ModuleType = datasets
    return module
