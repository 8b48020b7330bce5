"""Handwritten digits, which come with scikit-learn."""

import torch

from iai_tasks._extra import extra
from iai_tasks.images.labelled_images import LabelledImages


def digits() -> LabelledImages:
    """Loads 1,797 handwritten digits, 8 x 8 pixels from 0 to 16, without a download.

    Needs scikit-learn: `pip install "iai-tasks[digits]"`.

    Returns:
        The images. A fifth of each class, the same at every call, is the test part.

    Raises:
        ImportError: If scikit-learn is not installed.

    Source:
        E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
        Repository, 1998: its test part, from 13 writers. The split is ours; a writer can be in both
        of its parts.

    >>> digits().test_images.shape  # doctest: +SKIP
    torch.Size([360, 64])
    """
    with extra("digits"):
        from sklearn import datasets, model_selection
    images, labels = datasets.load_digits(return_X_y=True)
    parts = model_selection.train_test_split(
        torch.tensor(images, dtype=torch.float32),
        torch.tensor(labels, dtype=torch.int64),
        test_size=0.2,
        stratify=labels,
        random_state=0,
    )
    return LabelledImages(
        train_images=parts[0], test_images=parts[1], train_labels=parts[2], test_labels=parts[3]
    )
