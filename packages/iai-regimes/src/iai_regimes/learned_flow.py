"""Learned velocity fields: settings of a program, and the regimes that they make by name."""

from typing import Any

import attrs

from iai_regimes.interfaces import MemoryEncoder, RunningEncoder, SetEncoder
from iai_regimes.learned.learned_rule import LearnedRule
from iai_regimes.likelihood import Gaussian
from iai_regimes.models.latent_decoder import LatentDecoder
from iai_regimes.predictor import Predictor
from iai_regimes.regimes.explicit import Explicit
from iai_regimes.regimes.explicit_memory import ExplicitMemory
from iai_regimes.regimes.implicit import Implicit
from iai_regimes.regimes.running_attention import RunningAttention
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
    """Size of the running mean of learned features in the states of "implicit" and "explicit"."""
    num_layers: int = 2
    """Hidden layers of the explicit regime's decoder."""

    def regime(
        self, name: str, encoder: SetEncoder | MemoryEncoder | RunningEncoder
    ) -> Explicit | ExplicitMemory | Implicit | RunningAttention:
        """A learned regime by its name.

        Args:
            name: "running attention", "explicit memory", "implicit", or "explicit", which adapts a
                latent as large as a token of the encoder, for a `LatentDecoder` of twice that
                width.
            encoder: Reads the tokens: a `RunningEncoder`, a `MemoryEncoder`, or a `SetEncoder` for
                the last two.

        Raises:
            ValueError: If there is no such regime, or a size is below 1.
            TypeError: If `encoder` lacks a member of its role.
        """
        likelihood = Unlabelled(Gaussian(self.dim, scale=1.0))
        reads: Any = encoder  # each regime checks the role
        asks: dict[str, Any] = {"x_dim": self.dim, "query_dim": self.dim + 1}
        if name == "running attention":
            return RunningAttention(reads, likelihood, **asks)
        if name == "explicit memory":
            return ExplicitMemory(reads, likelihood, **asks)
        if name == "implicit":
            return Implicit(reads, likelihood, summary_dim=self.summary_dim, **asks)
        if name != "explicit":
            raise ValueError(
                "`name` must be one of running attention, explicit memory, implicit, explicit; got "
                f"{name!r}."
            )
        hidden = {"hidden_dim": 2 * encoder.dim, "num_layers": self.num_layers}
        decoder = LatentDecoder(self.dim + 1, encoder.dim, self.dim, **hidden)
        latent = Predictor(decoder, adapt=["latent"])
        sizes: dict[str, Any] = {"x_dim": self.dim, "summary_dim": self.summary_dim, "chunk": 16}
        rule = LearnedRule(latent, likelihood, reads, signal="data", **sizes)
        return Explicit(latent, likelihood, rule)
