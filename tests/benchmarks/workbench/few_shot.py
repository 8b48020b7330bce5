"""Few-shot classification of random images: tasks and networks of the usual sizes.

The images show nothing: the cost of a meta-step, and whether two libraries agree on it, do not
depend on their content.
"""

from collections import OrderedDict
from typing import Literal

import torch
from iai_tasks import Examples, TaskBatch
from torch import nn

SIDE = 28  # of an image, in pixels
Network = Literal["mlp", "conv4"]
NETWORKS: tuple[Network, ...] = ("mlp", "conv4")


def network(name: Network, *, ways: int, width: int = 64) -> nn.Module:
    """A network whose last layer is called `head`; ANIL adapts this layer alone."""
    if name == "mlp":
        return mlp(SIDE * SIDE, (4 * width, 2 * width, width, width), ways)
    return conv4(ways, width)


def mlp(in_dim: int, hidden_dims: tuple[int, ...], ways: int) -> nn.Module:
    """Linear layers and ReLU."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for index, dim in enumerate(hidden_dims):
        layers[f"hidden{index}"] = nn.Linear(in_dim, dim)
        layers[f"relu{index}"] = nn.ReLU()
        in_dim = dim
    layers["head"] = nn.Linear(in_dim, ways)
    return nn.Sequential(layers)


def conv4(ways: int, width: int) -> nn.Module:
    """Four strided convolutions, each followed by a batch norm without running statistics."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    in_channels, side = 1, SIDE
    for index in range(4):
        layers[f"conv{index}"] = nn.Conv2d(in_channels, width, 3, stride=2, padding=1)
        layers[f"norm{index}"] = nn.BatchNorm2d(width, track_running_stats=False)
        layers[f"relu{index}"] = nn.ReLU()
        in_channels, side = width, -(-side // 2)
    layers["flatten"] = nn.Flatten()
    layers["head"] = nn.Linear(width * side * side, ways)
    return nn.Sequential(layers)


def draw_tasks(
    num_tasks: int,
    *,
    ways: int,
    shots: int,
    queries: int,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> TaskBatch:
    """Tasks of random images, with `shots` and `queries` images per class."""

    def examples(per_class: int) -> Examples:
        device, number = generator.device, ways * per_class
        shape = (num_tasks, number, 1, SIDE, SIDE)
        x = torch.rand(shape, generator=generator, dtype=dtype, device=device)
        classes = torch.arange(ways, device=device).repeat(per_class)
        return Examples(x=x, y=classes.expand(num_tasks, number))

    return TaskBatch(support=examples(shots), query=examples(queries))
