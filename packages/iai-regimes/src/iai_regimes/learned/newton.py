"""Newton steps on a minibatch, damped by what earlier evidence has settled."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iai_regimes.check import check_sizes
from iai_regimes.evidence import Evidence
from iai_regimes.hessian import hessian_products
from iai_regimes.interfaces import Objective, Theta
from iai_regimes.learned.slope import Slope
from iai_regimes.learned.trust import trusted
from iai_regimes.ravel import of_vectors, ravel, task_zeros


def ritz(
    gradient: Float[Tensor, "task p"], product: Callable[[Tensor], Tensor], num_products: int
) -> tuple[Float[Tensor, "task k"], Float[Tensor, "task k p"]]:
    """Splits the gradient along the Ritz vectors of the Hessian in the gradient's Krylov space.

    Lanczos' method with full orthogonalisation. The curvatures are absolute values: along a
    direction of negative curvature a Newton step goes down, not up.

    Args:
        gradient: The gradient g of each task.
        product: The Hessian H of each task times a vector, `task p` to `task p`.
        num_products: k, the dimensions of the Krylov space. Where the space has fewer, the parts in
            excess are zero. With as many as H has different eigenvalues, the split is exact.

    Returns:
        |Ritz values| and the parts of g along the Ritz vectors, which add up to g. Where g is not
        finite, neither are they.

    Source:
        Lanczos (1950); the absolute values are those of saddle-free Newton, Dauphin et al. (2014),
        arXiv 1406.2572.

    >>> diagonal = torch.tensor([1.0, 3.0])
    >>> curvatures, parts = ritz(torch.tensor([[2.0, 0.0]]), lambda v: diagonal * v, 1)
    >>> curvatures.tolist(), parts.tolist()
    ([[1.0]], [[[2.0, 0.0]]])
    """
    vector, units, images = gradient, list[Tensor](), list[Tensor]()
    length = gradient.norm(dim=-1, keepdim=True)
    for _ in range(num_products):
        norm = vector.norm(dim=-1, keepdim=True)
        new = norm > 1e-6 * length if units else norm > 0
        units.append(torch.where(new, vector / torch.where(new, norm, 1.0), 0.0))
        vector = product(units[-1])
        images.append(vector)
        length, basis = vector.norm(dim=-1, keepdim=True), torch.stack(units, dim=1)
        for _ in range(2):  # the second pass removes what rounding left of the first
            vector = vector - ((basis * vector[:, None]).sum(-1, keepdim=True) * basis).sum(1)
    projected = (basis[:, :, None] * torch.stack(images, 1)[:, None]).sum(-1)
    symmetric = torch.nan_to_num((projected + projected.mT) / 2, 0.0, 0.0, 0.0)
    values, rotation = torch.linalg.eigh(symmetric)  # raises where a number is not finite
    vectors = rotation.mT @ basis
    return values.abs(), (vectors * gradient[:, None]).sum(-1, keepdim=True) * vectors


class DampedNewton(nn.Module):
    """A Newton step on a minibatch that keeps what earlier evidence has settled.

    With n examples behind theta, b in the minibatch, and the gradient g and the Hessian H of the
    minibatch's mean loss, the step is

        d = (n + b) / (n + n0 + b) ((1 - w) |H| + w h I)^-1 g,    w = (n + n0) / (n + n0 + b).

    n0 is the number of examples that the prior is worth; it is learned. h is the mean curvature of
    the earlier examples' loss, which is taken to be isotropic. For a linear Gaussian model of which
    that is true, theta - b / (n + b) d is the Kalman filter's update. Real losses are not
    linear-Gaussian, so h is multiplied by two learned factors, e^s and e^(s' sqrt(b / (n + b))):
    the second fades to 1 as evidence gathers.

    >>> step = DampedNewton()
    >>> curvatures, parts = torch.tensor([[2.0]]), torch.ones(1, 1, 1)
    >>> one = Evidence((), torch.ones(1), seen=torch.zeros(1), fresh=True)
    >>> step(curvatures, parts, torch.tensor([2.0]), one).item()  # 0.5 of g / H
    0.25
    """

    def __init__(self, prior_count: float = 1.0) -> None:
        super().__init__()
        self.log_prior_count = nn.Parameter(torch.tensor(math.log(prior_count)))
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.early_log_scale = nn.Parameter(torch.zeros(()))

    def forward(
        self,
        curvatures: Float[Tensor, "task k"],
        parts: Float[Tensor, "task k p"],
        earlier: Float[Tensor, " task"],
        evidence: Evidence,
    ) -> Float[Tensor, "task p"]:
        """The step d; gradients flow to the learned numbers alone. Zero without any curvature.

        Args:
            curvatures: `|H|` along each of k directions.
            parts: The parts of g along them.
            earlier: h, the mean curvature of the earlier examples' loss.
            evidence: Holds n and b.
        """
        behind = evidence.seen + self.log_prior_count.exp()
        total = behind + evidence.num_observed
        w = (behind / total)[:, None]
        log_scale = self.log_scale + evidence.gain.sqrt() * self.early_log_scale
        damped = (1 - w) * curvatures + w * (log_scale.exp() * earlier)[:, None]
        share = ((evidence.seen + evidence.num_observed) / total)[:, None]
        return ((share * _reciprocal(damped))[..., None] * parts).sum(1)


class Newton(Slope):
    """The gradient, and the step of `DampedNewton` with a recent mean of `|H|` for h.

    The mean of `|H|` over the Krylov space of each minibatch enters h with the weight
    sqrt(b / (n + b)): curvature changes as theta moves, so h must forget as well as average. The
    rates start at 0 for the gradient and at 1 for the step: before training, the rule is damped
    Newton.

    Args:
        num_products: Hessian-vector products of a step, at least 1.

    Raises:
        ValueError: If `num_products` is below 1.
    """

    initial_rates = (0.0, 1.0)

    def __init__(self, num_products: int = 4) -> None:
        super().__init__()
        check_sizes(num_products=num_products)
        self.num_products = num_products
        self.damped = DampedNewton()

    def start(self, theta: Theta) -> Float[Tensor, " task"]:
        """The h before any curvature is known: 0."""
        return task_zeros(theta)

    def directions(
        self,
        theta: Theta,
        memory: Float[Tensor, " task"],
        evidence: Evidence,
        objective: Objective,
        share: Float[Tensor, " task"],
    ) -> tuple[list[Float[Tensor, "task p"]], Float[Tensor, " task"]]:
        """Gives g and d, and the new h; outer gradients flow to the learned numbers of d alone."""
        with torch.autocast(memory.device.type, enabled=False):
            loss, flat = of_vectors(objective.loss, theta), ravel(theta)
            value, gradient, product = hessian_products(loss, flat)
            curvatures, parts = ritz(gradient, product, self.num_products)
            # A part of less than 1e-4 of the gradient may be what rounding left.
            real = parts.norm(dim=-1) > 1e-4 * gradient.norm(dim=-1, keepdim=True)
            mean = (curvatures * real).sum(-1) / real.sum(-1).clamp(min=1)
            h = memory + evidence.gain.sqrt() * (mean - memory)
            step = self.damped(curvatures, parts, h, evidence)
            return [gradient, trusted(loss, flat, value, gradient, step, share) * step], h


def _reciprocal(x: Tensor) -> Tensor:
    """1 / x where x is above the root of the smallest normal number, else 0.

    Neither it nor its derivative is ever NaN. A saturated softmax has curvatures so small that
    their inverse would be infinite.
    """
    positive = x > torch.finfo(x.dtype).tiny ** 0.5
    return torch.where(positive, 1 / torch.where(positive, x, 1.0), 0.0)
