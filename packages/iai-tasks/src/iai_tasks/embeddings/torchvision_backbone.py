"""Backbones with architectures of torchvision, and weights from a file."""

import difflib
import re
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from iai_tasks._listing import listed
from iai_tasks._torchvision import import_torchvision
from iai_tasks.embeddings._weight_file import read_weights
from iai_tasks.embeddings.backbone import Backbone

_HEADS = ("classifier", "fc", "heads", "head")
_OLD_DENSENET_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d)\.")


def torchvision_backbone(
    architecture: str, weights: str | PathLike[str], *, size: int = 224
) -> Backbone:
    """Loads a classification network of torchvision, without its last layer.

    Only that layer is left out: an embedding by `mobilenet_v3_small` has 1,024 numbers. Images are
    scaled by the mean and standard deviation of ImageNet, as torchvision's own weights need it.

    Needs torchvision: `pip install "iai-tasks[vision]"`.

    Args:
        architecture: Its name in `torchvision.models`, such as "resnet50".
        weights: File of the whole network's state dict: .safetensors, or written by `torch.save`,
            which may hold it under "state_dict" or "model". Code in it is not run.
        size: Height and width of the images that the network sees. A vision transformer needs the
            size that its weights were trained at; most other networks take any that is not small.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If torchvision is not installed.
        ValueError: If there is no such architecture, the file holds no weights, they do not fit, or
            the network cannot take images of that size.

    >>> backbone = torchvision_backbone("resnet18", "resnet18-f37072fd.pth")  # doctest: +SKIP
    >>> backbone.dim  # doctest: +SKIP
    512
    """
    models = import_torchvision("models")
    names = models.list_models(module=models)
    if architecture not in names:
        close = ", ".join(difflib.get_close_matches(architecture, names)) or "resnet50"
        raise ValueError(
            "`architecture` must be a classification network of torchvision.models, such as "
            f"{close}; got {architecture!r}."
        )
    state = read_weights(Path(weights))
    try:
        with torch.random.fork_rng(devices=[]):  # weights are drawn, and then replaced
            network = models.get_model(architecture, weights=None, **_options(architecture, size))
    except AssertionError as error:
        raise ValueError(f"`size` must suit {architecture}; got {size}: {error}") from error
    if architecture.startswith("densenet"):  # published with names that torch no longer allows
        state = {_OLD_DENSENET_NAME.sub(r"\1\2.", name): one for name, one in state.items()}
    last = _cut_last_layer(network)  # its weights may be of any number of classes
    state = {name: one for name, one in state.items() if name.rpartition(".")[0] != last}
    expected = network.state_dict()
    differences = {
        "missing": [name for name in expected if name not in state],
        "unexpected": [name for name in state if name not in expected],
        "misshapen": [
            f"{name} {tuple(state[name].shape)} for {tuple(tensor.shape)}"
            for name, tensor in expected.items()
            if name in state and state[name].shape != tensor.shape
        ],
    }
    differences["whole numbers"] = [
        f"{name} {state[name].dtype} for {tensor.dtype}"
        for name, tensor in expected.items()
        if name in state and state[name].is_floating_point() < tensor.is_floating_point()
    ]
    texts = [f"{kind}: {listed(names)}" for kind, names in differences.items() if names]
    if texts:
        raise ValueError(f"`weights` must fit {architecture}; {'; '.join(texts)}.")
    network.load_state_dict(state)
    return Backbone(name=architecture, module=network, size=size)


def _options(architecture: str, size: int) -> dict[str, Any]:
    if architecture in ("googlenet", "inception_v3"):  # they convert from ImageNet's scale
        return {"init_weights": False, "transform_input": True}
    return {"image_size": size} if architecture.startswith("vit_") else {}


def _cut_last_layer(network: nn.Module) -> str:
    """Replaces the last linear layer or convolution of the head by the identity.

    Returns:
        The name of that layer.
    """
    head = next(name for name in _HEADS if hasattr(network, name))
    kinds = (nn.Linear, nn.Conv2d)
    layers: list[str] = [name for name, one in network.named_modules() if isinstance(one, kinds)]
    last = [name for name in layers if f"{name}.".startswith(f"{head}.")][-1]
    network.set_submodule(last, nn.Identity())
    return last
