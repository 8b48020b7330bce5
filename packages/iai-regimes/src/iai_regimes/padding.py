"""Padding may hold anything, NaN included, so zeros replace it before anything is computed.

Masking the results alone is not enough: the gradient of zero times NaN is NaN.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iai_regimes.check import check_shapes
from iai_regimes.interfaces import Examples, Likelihood


def observed_inputs(examples: Examples) -> Tensor:
    """The examples' `x`, `task n *x_shape`, with zeros where nothing is observed.

    Raises:
        ValueError: If inputs, targets and mask are not of the same examples.
    """
    check_shapes(examples)
    return examples.x.masked_fill(~_spread(examples.mask, examples.x), 0.0)


def observed_targets(examples: Examples, outputs: Tensor | None = None) -> Tensor:
    """The examples' `y` with zeros where nothing is observed.

    Real targets have the dtype of the outputs that they are compared with, if these are given, and
    float32 at least.

    Raises:
        ValueError: If there are no targets.
    """
    if examples.y is None:
        raise ValueError("Targets are needed here; got examples whose `y` is None.")
    y = examples.y.masked_fill(~_spread(examples.mask, examples.y), 0)
    if outputs is None or y.dtype == outputs.dtype or not y.is_floating_point():
        return y
    return y.to(torch.promote_types(outputs.dtype, torch.float32))


def observed_features(examples: Examples, likelihood: Likelihood) -> Tensor:
    """What a model reads of the examples' `y`, `task n num_features`, in the dtype of `x`.

    Zeros where nothing is observed.

    Raises:
        ValueError: If a target has features and there are no targets, or they are others.
    """
    if not likelihood.num_features:
        return examples.x.new_zeros(*examples.mask.shape, 0)
    targets = observed_targets(examples)
    features = likelihood.features(targets)
    if features.shape != (*examples.mask.shape, likelihood.num_features):
        raise ValueError(
            f"`y` must have {likelihood.num_features} features an example, the likelihood's "
            f"`num_features`; {targets.dtype} of the shape {tuple(targets.shape)} has "
            f"{tuple(features.shape)}."
        )
    return features.to(examples.x.dtype).masked_fill(~examples.mask[..., None], 0.0)


def finite_queries(
    query_x: Float[Tensor, "task query *x_shape"],
) -> tuple[Float[Tensor, "task query *x_shape"], Bool[Tensor, "task query"]]:
    """Replaces numbers that are not finite by zeros, and says which queries had none of these.

    Queries come without a mask, so NaN is what marks padding among them.

    >>> finite_queries(torch.tensor([[[1.0, 2.0], [torch.nan, 3.0]]]))
    (tensor([[[1., 2.],
             [0., 3.]]]), tensor([[ True, False]]))
    """
    zeros = query_x.detach() * 0  # NaN where a number is not finite, and so is a sum with it
    finite = (zeros.flatten(2).sum(-1) if zeros.dim() > 2 else zeros) == 0
    return query_x.nan_to_num(0.0, 0.0, 0.0), finite


def _spread(mask: Bool[Tensor, "task n"], values: Tensor) -> Tensor:
    return mask.reshape(*mask.shape, *[1] * (values.dim() - 2))
