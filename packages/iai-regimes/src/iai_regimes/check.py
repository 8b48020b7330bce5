"""The values of examples, checked where a user hands them in."""

import torch

from iai_regimes.interfaces import Examples, Likelihood


def check_examples(batch: Examples, likelihood: Likelihood) -> None:
    """Raises ValueError unless observed inputs are finite and observed targets fit the likelihood.

    It reads values, which waits for the device: it is meant for data that a user hands in, not for a training loop.
    """
    if batch.mask.shape != batch.x.shape[:2]:
        raise ValueError(
            f"`mask` must have the shape {tuple(batch.x.shape[:2])} of the examples; got {tuple(batch.mask.shape)}."
        )
    if not bool(torch.isfinite(batch.x[batch.mask]).all()):
        raise ValueError("`x` must be finite where `mask` is True; got NaN or infinity.")
    likelihood.check(batch.y, batch.mask)
