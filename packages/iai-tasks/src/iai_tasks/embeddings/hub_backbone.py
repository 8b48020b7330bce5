"""Backbones from repositories, loaded through torch.hub, such as DINOv2."""

from typing import Literal
from urllib.error import URLError

import torch
from torch import nn

from iai_tasks.embeddings.backbone import Backbone


def hub_backbone(
    repo: str, entry: str, *, source: Literal["github", "local"] = "github", size: int = 224
) -> Backbone:
    """Loads a network through `torch.hub`, which RUNS THE CODE of the repository.

    The network must give one vector for each image, as DINOv2 gives its class token. Images are
    scaled by the mean and standard deviation of ImageNet.

    Args:
        repo: "owner/name" or "owner/name:branch" on GitHub, or the folder of a clone.
        entry: The function of the repository's hubconf.py that makes the network.
        source: "github" downloads the repository, unless it is in the cache of `torch.hub`; "local"
            takes a folder. In both cases the repository's code downloads the weights.
        size: Height and width of the images that the network sees. A vision transformer needs a
            multiple of its patch size, which is 14 for DINOv2.

    Raises:
        ConnectionError: If the repository or its weights cannot be fetched.
        FileNotFoundError: If a local folder has no hubconf.py.
        TypeError: If the entry makes no `torch.nn.Module`.
        ValueError: If `source` is neither, or the network does not give one vector an image.

    Source:
        DINOv2: Oquab et al., 2023, "DINOv2: Learning robust visual features without supervision",
        arXiv:2304.07193.

    >>> backbone = hub_backbone("facebookresearch/dinov2", "dinov2_vits14")  # doctest: +SKIP
    >>> backbone.dim  # doctest: +SKIP
    384
    """
    try:
        with torch.random.fork_rng(devices=[]):  # the repository may draw weights
            module = torch.hub.load(  # type: ignore[no-untyped-call]
                repo, entry, source=source, trust_repo=True, verbose=False
            )
    except (OSError, RuntimeError) as error:
        network_errors = (URLError, ConnectionError, TimeoutError)
        if not isinstance(error.__cause__ or error, network_errors):
            raise
        raise ConnectionError(
            f"{entry} of {repo} could not be fetched: {error}. On a machine with access, clone the "
            "repository and download its weights. Here, pass the folder of the clone as `repo` "
            f"with source='local', and put the weights into {torch.hub.get_dir()}/checkpoints."
        ) from error
    if not isinstance(module, nn.Module):
        raise TypeError(f"`entry` must make a torch.nn.Module; {entry} makes {type(module)}.")
    return Backbone(name=entry, module=module, size=size)
