"""The explicit regime: the state is a latent, which a learned decoder reads."""

from iai_regimes.interfaces import Likelihood, Rule
from iai_regimes.predictor import Predictor
from iai_regimes.regimes.parametric import Parametric


class Explicit(Parametric):
    """Amortizes f and g: the rule moves a task's latent, and the decoder is learned, too.

    This is the parametric regime with the decoder's `latent` as the adapted parameter; all tasks
    share the rest of the decoder.

    Args:
        predictor: A decoder whose latent is adapted: `Predictor(decoder, adapt=["latent"])`.
        likelihood: Compares outputs with targets.
        rule: How a minibatch moves the latent.

    Raises:
        ValueError: If every parameter of the decoder is adapted.

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
