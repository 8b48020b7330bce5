"""Conv4, the small convolutional network of the few-shot literature."""

import math

from jaxtyping import Float
from torch import Tensor, nn

from iai_regimes.check import check_sizes


class Conv4(nn.Module):
    """Four times [3 x 3 convolution with stride 2, normalisation, ReLU], then a linear `head`.

    `Predictor(Conv4(...))` adapts all of it, `Predictor(Conv4(...), adapt=["head"])` the last layer
    alone. Weights are initialised as in MAML: Xavier's uniform ones, and biases of 0.

    By default each image is normalised by itself: an answer depends on the support and on its own
    query, and on no other query. With `transductive`, as in MAML's results, statistics are taken
    over all images that are given at once: a query's answer then depends on the other queries, and
    on padding, whose blank images would count. Sets must then have no padding, in support and
    queries alike, and the same queries must be asked together. Report which of the two was used: it
    can outweigh the difference between methods.

    Args:
        in_channels: Channels of an image.
        num_outputs: Raw numbers an image.
        width: Channels of each convolution.
        image_size: Height and width of an image in pixels.
        transductive: False for group normalisation, each image by itself; True for batch
            normalisation over the images that are given together. Neither keeps running statistics.

    Raises:
        ValueError: If a size is below 1, or the last groups would hold a single number.

    Source:
        Finn, Abbeel and Levine (2017), arXiv 1703.03400, section 5.2, which is transductive. Ours:
        group normalisation (Wu and He (2018), arXiv 1803.08494) by default, in 4 groups or as many
        as divide both 4 and `width`; strides at every image size; the head reads every pixel of the
        last map rather than their mean.

    >>> import torch
    >>> Conv4(1, 5, width=8)(torch.zeros(3, 1, 28, 28)).shape
    torch.Size([3, 5])
    >>> Conv4(3, 5, width=32, image_size=84).head.in_features  # 84, 42, 21, 11, 6: 32 * 6 * 6
    1152
    """

    def __init__(
        self,
        in_channels: int,
        num_outputs: int,
        *,
        width: int = 64,
        image_size: int = 28,
        transductive: bool = False,
    ) -> None:
        super().__init__()
        check_sizes(in_channels=in_channels, num_outputs=num_outputs, width=width)
        check_sizes(image_size=image_size)
        num_groups, places = math.gcd(4, width), math.ceil(image_size / 16) ** 2
        if not transductive and width * places == num_groups:
            raise ValueError(
                f"`width` must be above {width} for images of {image_size} pixels: the last groups "
                "of channels would have one number each, and normalise it away."
            )
        layers: list[nn.Module] = []
        for channels in (in_channels, width, width, width):
            layers += [
                nn.Conv2d(channels, width, 3, stride=2, padding=1),
                nn.BatchNorm2d(width, track_running_stats=False)
                if transductive
                else nn.GroupNorm(num_groups, width),
                nn.ReLU(),
            ]
        self.image_shape = (in_channels, image_size, image_size)
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(width * places, num_outputs)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, x: Float[Tensor, "n channel height width"]) -> Float[Tensor, "n num_outputs"]:
        """Outputs of one task at its images; gradients of any order flow.

        Raises:
            ValueError: If the images have another shape than they were said to have.
        """
        if tuple(x.shape[1:]) != self.image_shape:
            raise ValueError(
                f"`x` must be a set of images of the shape {self.image_shape}; "
                f"got {tuple(x.shape)}."
            )
        outputs: Tensor = self.head(self.body(x).flatten(1))
        return outputs
