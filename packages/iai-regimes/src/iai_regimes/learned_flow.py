"""Learned velocity fields: settings of a program, and the regimes that they make by name."""

from typing import Any

import attrs

from iai_regimes.interfaces import SetEncoder
from iai_regimes.learned.learned_rule import LearnedRule
from iai_regimes.likelihood import Gaussian
from iai_regimes.models.latent_decoder import LatentDecoder
from iai_regimes.predictor import Predictor
from iai_regimes.regimes.explicit import Explicit
from iai_regimes.regimes.implicit import Implicit
from iai_regimes.unlabelled import Unlabelled


@attrs.frozen(kw_only=True)
class LearnedFlow:
    """Sizes of learners of flow matching that a program can be told to use.

    A learner reads samples of a distribution, without targets. A query is [point, time], and the
    answer the velocity there; the loss is the squared error of the velocity, up to a constant.
    `flow` follows the velocities from noise to new samples.
    """

    dim: int = 2
    """Numbers of a sample."""
    summary_dim: int = 128
    """Size of the running mean of learned features of all samples read."""
    num_layers: int = 2
    """Hidden layers of the explicit regime's decoder."""

    def regime(self, name: str, encoder: SetEncoder) -> Explicit | Implicit:
        """A learned regime by its name.

        Args:
            name: "implicit"; or "explicit", which adapts a latent as large as a token of the
                encoder, for a `LatentDecoder` of twice that width.
            encoder: Reads the tokens.

        Raises:
            ValueError: If there is no such regime, or a size is below 1.
        """
        likelihood = Unlabelled(Gaussian(self.dim, scale=1.0))
        sizes: dict[str, Any] = {"x_dim": self.dim, "summary_dim": self.summary_dim}
        if name == "implicit":
            return Implicit(encoder, likelihood, query_dim=self.dim + 1, **sizes)
        if name != "explicit":
            raise ValueError(f"`name` must be implicit or explicit; got {name!r}.")
        hidden = {"hidden_dim": 2 * encoder.dim, "num_layers": self.num_layers}
        decoder = LatentDecoder(self.dim + 1, encoder.dim, self.dim, **hidden)
        latent = Predictor(decoder, adapt=["latent"])
        rule = LearnedRule(latent, likelihood, encoder, signal="data", chunk=16, **sizes)
        return Explicit(latent, likelihood, rule)
