"""The handwritten digits that come with scikit-learn."""

import torch

from iai_tasks.images.labelled_images import LabelledImages


def digits(*, test_fraction: float = 0.2, seed: int = 0) -> LabelledImages:
    """Loads 1,797 handwritten digits, 8 x 8 pixels from 0 to 16, without a download.

    Needs scikit-learn: `pip install "iai-tasks[digits]"`.

    Args:
        test_fraction: Part of each class that is held out as test images, between 0 and 1.
        seed: Fixes which images are held out.

    Returns:
        The images, split at random within each class.

    Raises:
        ImportError: If scikit-learn is not installed.
        ValueError: If the fraction is not between 0 and 1.

    Source:
        E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
        Repository, 1998: its test part, from 13 writers. The split is ours, and a writer can be on
        both sides of it.

    >>> digits(test_fraction=0.25).test_images.shape  # doctest: +SKIP
    torch.Size([450, 64])
    """
    try:
        from sklearn import datasets, model_selection
    except ModuleNotFoundError as error:
        raise ImportError(
            "`digits` needs scikit-learn: pip install 'iai-tasks[digits]'."
        ) from error
    if not 0 < test_fraction < 1:
        raise ValueError(f"`test_fraction` must be between 0 and 1; got {test_fraction}.")
    images, labels = datasets.load_digits(return_X_y=True)
    parts = model_selection.train_test_split(
        torch.tensor(images, dtype=torch.float32),
        torch.tensor(labels, dtype=torch.int64),
        test_size=test_fraction,
        stratify=labels,
        random_state=seed,
    )
    train_images, test_images, train_labels, test_labels = parts
    return LabelledImages(
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
    )
