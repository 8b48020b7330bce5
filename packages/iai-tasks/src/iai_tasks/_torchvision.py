"""Imports torchvision, also when it was built for another torch."""

import sys
from types import ModuleType
from typing import Literal

import torch

from iai_tasks._extra import extra

_libraries: list[torch.library.Library] = []  # kept, for with a library its definitions end


def import_torchvision(part: Literal["datasets", "models"]) -> ModuleType:
    """Returns the module `torchvision.datasets` or `torchvision.models`.

    A torchvision wheel for CUDA cannot load its operators with a CPU build of torch, and its import
    fails because they are not declared. No dataset and no classification network needs them: they
    are declared here without an implementation, and the import is repeated.

    Raises:
        ImportError: If torchvision is not installed.
    """
    try:
        return _import(part)
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    boxes = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    library.define(f"nms{boxes}")  # type: ignore[no-untyped-call]
    library.define(f"qnms{boxes}")  # type: ignore[no-untyped-call]
    _libraries.append(library)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # it is half imported
    return _import(part)


def _import(part: str) -> ModuleType:
    with extra("vision"):
        from torchvision import datasets, models
    modules: dict[str, ModuleType] = {"datasets": datasets, "models": models}
    return modules[part]
