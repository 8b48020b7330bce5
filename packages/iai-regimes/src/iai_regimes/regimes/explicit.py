"""The explicit regime: the state is a latent, read by a decoder that is learned with the rule."""

from iai_regimes.interfaces import Likelihood, Rule
from iai_regimes.predictor import Predictor
from iai_regimes.regimes.parametric import Parametric


class Explicit(Parametric):
    """Amortizes f and g: the rule moves a task's latent, and the decoder of it is learned as well.

    It is the parametric regime whose adapted parameter is the decoder's `latent`, everything else
    being shared.

    Args:
        predictor: A decoder of which the latent is adapted: `Predictor(decoder, adapt=["latent"])`.
        likelihood: What its outputs say about a target.
        rule: How a minibatch moves the latent.

    Raises:
        ValueError: If nothing of the decoder is left to be shared.

    Source:
        Mittal et al. (2025), arXiv 2510.11471: z_{i+1} = h(z_i, B_i), prediction f(x, z_K), both
        learned.
    """

    def __init__(self, predictor: Predictor, likelihood: Likelihood, rule: Rule) -> None:
        super().__init__(predictor, likelihood, rule)
        if predictor.size == sum(p.numel() for p in predictor.module.parameters()):
            raise ValueError(
                "An explicit regime learns a decoder that all tasks share; here every parameter is "
                "adapted."
            )
