"""A damped Newton step in coordinates in which the inputs of linear layers are white."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from iai_regimes.check import check_positive, check_sizes
from iai_regimes.evidence import Evidence, running_mean
from iai_regimes.hessian import hessian_products
from iai_regimes.interfaces import Objective, Theta
from iai_regimes.learned.kfac import Whitening
from iai_regimes.learned.newton import DampedNewton, ritz
from iai_regimes.learned.slope import Slope
from iai_regimes.learned.trust import trusted
from iai_regimes.predictor import Predictor
from iai_regimes.ravel import ravel, task_zeros, unravel


class InputMemory(NamedTuple):
    """What is known of the inputs of linear layers, and of the curvature by their outputs."""

    moments: tuple[Float[Tensor, "task columns columns"], ...]  # A of each layer, a mean
    curvatures: Float[Tensor, "task block"]  # recent mean of h of each layer, and of the rest


class WhitenedNewton(Slope):
    """The step of `DampedNewton` in coordinates in which earlier evidence is isotropic.

    For a predictor of thousands of parameters, whose curvature along one direction may be a
    thousand times that along another. For each linear layer the earlier examples' Hessian is taken
    to be the Kronecker product of h I and A (see `Whitening`): A is a mean over all examples seen
    and `prior_count` more with isotropic inputs, h a recent mean over minibatches. With theta =
    theta_0 + C S u, that Hessian is the identity in u, so the step in u is d with h = 1.

    The gradient is not a second direction: where the curvature is a thousand times its mean, even
    a small learned rate of the gradient overshoots. A step costs `num_products + 1`
    Hessian-vector products and a Cholesky factor of each A; the memory is the size of all A.

    Args:
        predictor: What is adapted; give the rule the same predictor.
        num_products: Hessian-vector products for the Krylov space, at least 1.
        prior_count: Examples that the prior is worth, above 0.

    Raises:
        ValueError: If no weight of a linear layer is adapted, or a number is out of range.

    Source:
        Ours: the extended Kalman filter, with a covariance as in K-FAC, Martens and Grosse (2015),
        arXiv 1503.05671, whose output factor is one number.
    """

    initial_rates = (1.0,)

    def __init__(
        self, predictor: Predictor, num_products: int = 1, *, prior_count: float = 100.0
    ) -> None:
        super().__init__()
        check_sizes(num_products=num_products)
        check_positive(prior_count=prior_count)
        self.num_products, self.prior_count = num_products, prior_count
        self.whitening = Whitening(predictor)
        self.damped = DampedNewton(prior_count)

    def start(self, theta: Theta) -> InputMemory:
        """Nothing is known: zeros.

        Raises:
            ValueError: If theta is not of the predictor.
        """
        shapes = {name: value.shape[1:] for name, value in theta.items()}
        if shapes != self.whitening.shapes:
            raise ValueError("`predictor` must be the same for a `WhitenedNewton` and its rule.")
        zeros = task_zeros(theta)
        curvatures = zeros.new_zeros(len(zeros), self.whitening.num_blocks)
        return InputMemory(self.whitening.start(theta), curvatures)

    def directions(
        self,
        theta: Theta,
        memory: InputMemory,
        evidence: Evidence,
        objective: Objective,
        share: Float[Tensor, " task"],
    ) -> tuple[list[Float[Tensor, "task p"]], InputMemory]:
        """Gives d and the new memory; outer gradients flow to the learned numbers of d alone.

        Raises:
            ValueError: If a linear layer does not read one vector for each input, the module would
                change a buffer, or in inference mode.
        """
        with torch.autocast(evidence.seen.device.type, enabled=False):
            whitening, x, mask = self.whitening, evidence.encoded.x, evidence.encoded.mask
            moments = whitening.moments(theta, x, mask)
            roots = whitening.roots(memory.moments, moments, evidence.seen, self.prior_count)

            def coloured(u: Tensor) -> Theta:
                return whitening.colour(unravel(u, theta), roots)

            def loss(u: Tensor) -> Tensor:
                change = coloured(u)
                return objective.loss({name: theta[name] + change[name] for name in theta})

            nowhere = torch.zeros_like(ravel(theta))
            value, gradient, product = hessian_products(loss, nowhere)
            h = whitening.curvatures(product, moments, roots)
            h = memory.curvatures + evidence.gain.sqrt()[:, None] * (h - memory.curvatures)
            level = whitening.levels(h)
            split = ritz(level * gradient, lambda v: level * product(level * v), self.num_products)
            step = level * self.damped(*split, torch.ones_like(evidence.seen), evidence)
            step = trusted(loss, nowhere, value, gradient, step, share) * step
            means = tuple(
                running_mean(mean, new, evidence)
                for mean, new in zip(memory.moments, moments, strict=True)
            )
            return [ravel(coloured(step))], InputMemory(means, h)
