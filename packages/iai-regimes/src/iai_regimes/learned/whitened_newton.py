"""What a gradient suggests where the inputs of linear layers have been made white."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from iai_regimes.curvature import DampedNewton, hessian_products, split
from iai_regimes.evidence import annealed_gain, running_mean
from iai_regimes.interfaces import Objective
from iai_regimes.learned.whitening import Whitening
from iai_regimes.predictor import Predictor


class InputMemory(NamedTuple):
    """What is known of the inputs of a predictor's linear layers, and of the curvature behind."""

    moments: tuple[Float[Tensor, "task columns columns"], ...]  # mean of a a', for each layer
    sizes: Float[Tensor, "task block"]  # recent mean curvature by each layer's outputs


class WhitenedNewton(nn.Module):
    """A Newton step damped by what earlier evidence has settled.

    The curvature that n earlier examples left behind is taken to be n times the Kronecker product
    of the second moment A of a linear layer's inputs, a mean over all of them, and of h I, the mean
    curvature by the layer's outputs of late. A prior worth `prior_count` examples of isotropic
    inputs joins them. In coordinates in which all of this is the identity, the step is
    `DampedNewton`'s, which asks just that; its Krylov space adds what the minibatch's own curvature
    has beside it. A step costs `num_products + 1` Hessian-vector products and the cube of a layer's
    inputs; the memory is their square, however many examples are read.

    Args:
        predictor: What is adapted; `Whitening` says which of its numbers are whitened.
        num_products: Hessian-vector products in the minibatch's Krylov space, at least 1.
        prior_count: Examples that the prior is worth, above 0.

    Raises:
        ValueError: If no adapted weight is that of a linear layer, or a number is out of range.

    Source:
        Ours: the extended Kalman filter with a covariance as in K-FAC, Martens and Grosse (2015),
        arXiv 1503.05671, whose output factor is one number here; the trace is Hutchinson's (1989).
    """

    def __init__(
        self, predictor: Predictor, num_products: int, *, prior_count: float = 100.0
    ) -> None:
        super().__init__()
        if num_products < 1:
            raise ValueError(f"`num_products` must be at least 1; got {num_products}.")
        if not prior_count > 0:
            raise ValueError(f"`prior_count` must be above 0; got {prior_count}.")
        self.num_products, self.prior_count = num_products, prior_count
        self.rates = (1.0,)  # what the step begins with
        self.whitening = Whitening(predictor)
        self.newton = DampedNewton()
        nn.init.constant_(self.newton.log_prior_count, math.log(prior_count))

    def start(self, theta: Float[Tensor, "task p"]) -> InputMemory:
        """The memory of nothing: zeros."""
        sizes = theta.new_zeros(theta.shape[0], self.whitening.num_blocks)
        return InputMemory(self.whitening.start(theta), sizes)

    def step(
        self,
        objective: Objective,
        theta: Float[Tensor, "task p"],
        memory: InputMemory,
        x: Float[Tensor, "task n *x_shape"],
        mask: Bool[Tensor, "task n"],
        seen: Float[Tensor, " task"],
        fresh: bool,
    ) -> tuple[list[Tensor], InputMemory]:
        """The step, `task p`, as the one direction, and the memory with this minibatch in it.

        The gradient is not another one: along it the curvature may be a thousand times the mean,
        and what a learned rate of it does, however small, is to leave the valley. Outer gradients
        flow to the step's learned numbers alone.

        Raises:
            ValueError: If a linear layer does not read one vector for each input, the module would
                change a buffer, or in inference mode.
        """
        with torch.autocast(theta.device.type, enabled=False):
            whitening, count = self.whitening, mask.sum(1).to(theta.dtype)
            moments = whitening.moments(theta, x, mask)
            roots = whitening.roots(memory.moments, moments, seen, self.prior_count)
            gradient, product = hessian_products(
                lambda white: objective.loss(theta + whitening.colour(white, roots)),
                torch.zeros_like(theta),
            )
            # Curvature changes as theta moves: the root of the gain forgets, and averages.
            recent = annealed_gain(seen, count).sqrt()[:, None]
            sizes = whitening.sizes(product, moments, roots)
            sizes = memory.sizes + recent * (sizes - memory.sizes)
            scale = whitening.scale(sizes)
            found = split(scale * gradient, lambda v: scale * product(scale * v), self.num_products)
            step = self.newton(found, torch.ones_like(seen), seen, count)
            step = whitening.colour(scale * step, roots)
            means = tuple(
                running_mean(old, new, seen, count, fresh)
                for old, new in zip(memory.moments, moments, strict=True)
            )
            return [step], InputMemory(means, sizes)
