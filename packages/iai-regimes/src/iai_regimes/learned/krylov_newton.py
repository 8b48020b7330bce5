"""What a gradient suggests: itself, and a damped Newton step in its Krylov space."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from iai_regimes.curvature import DampedNewton, curvature_at
from iai_regimes.evidence import annealed_gain
from iai_regimes.interfaces import Objective


class KrylovNewton(nn.Module):
    """The gradient of a minibatch, and a Newton step whose earlier evidence is alike all around.

    Args:
        num_products: Hessian-vector products that the step is made of; 0 for the gradient alone.
        differentiate: Whether outer gradients flow through the gradient.
    """

    def __init__(self, num_products: int, *, differentiate: bool) -> None:
        super().__init__()
        self.num_products, self.differentiate = num_products, differentiate
        # What each direction begins with: nothing of the gradient, and the Newton step as it is.
        self.rates = (0.0, 1.0) if num_products else (0.0,)
        if num_products:
            self.newton = DampedNewton()

    def start(self, theta: Float[Tensor, "task p"]) -> Float[Tensor, "task sizes"]:
        """The recent mean size of the curvature before any is known; no column without products."""
        return theta.new_zeros(theta.shape[0], len(self.rates) - 1)

    def step(
        self,
        objective: Objective,
        theta: Float[Tensor, "task p"],
        size: Float[Tensor, "task sizes"],
        x: Float[Tensor, "task n *x_shape"],
        mask: Bool[Tensor, "task n"],
        seen: Float[Tensor, " task"],
        fresh: bool,
    ) -> tuple[list[Tensor], Float[Tensor, "task sizes"]]:
        """The directions, each `task p`, and the recent mean size with this minibatch in it."""
        found = curvature_at(
            objective.loss, theta, self.num_products, differentiate=self.differentiate
        )
        if not self.num_products:
            return [found.gradient], size
        count = mask.sum(1).to(theta.dtype)
        # Curvature changes as theta moves: the root of the gain forgets, and averages.
        recent = annealed_gain(seen, count).sqrt()[:, None]
        size = size + recent * (found.mean_size()[:, None] - size)
        return [found.gradient, self.newton(found, size[:, 0], seen, count)], size
