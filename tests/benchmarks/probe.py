"""What a frozen network's features are worth at each size of the images, and what an image costs.

Logistic regression over the features of EfficientNet-Lite0, fitted to some images of CIFAR-10 and
asked about others.
"""

import time

import torch
from iai_tasks import cifar10, efficientnet_lite0
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from workbench import Row, bare_arguments, report


def main() -> None:
    parser = bare_arguments(__doc__)
    parser.add_argument("--data", default="runs/cifar10", help="where the images are, or will be")
    parser.add_argument("--sizes", type=int, nargs="+", default=[96, 128, 160, 224])
    parser.add_argument("--train", type=int, default=2000, help="images to fit")
    parser.add_argument("--test", type=int, default=1000, help="images to ask about")
    options = parser.parse_args()
    images = cifar10(options.data, download=True)
    seen, asked = images.train_images[: options.train], images.test_images[: options.test]
    rows = []
    for size in options.sizes:
        network = efficientnet_lite0(size=size).to(options.device)
        began = time.perf_counter()
        features, others = (network.embed(pictures(flat)) for flat in (seen, asked))
        each = (time.perf_counter() - began) / (len(seen) + len(asked))
        scale = features.std(0).clamp(min=1e-6)
        probe = LogisticRegression(C=0.01, max_iter=1000)
        probe.fit(features / scale, images.train_labels[: options.train])
        right = probe.score(others / scale, images.test_labels[: options.test])
        rows.append(Row(size=size, accuracy=right, **{"ms an image": 1e3 * each}))
    report("EfficientNet-Lite0 under logistic regression", rows, options)


def pictures(flat: Tensor) -> Tensor:
    """Images as bytes, channels first."""
    return flat.reshape(-1, 32, 32, 3).movedim(-1, 1).to(torch.uint8)


if __name__ == "__main__":
    main()
