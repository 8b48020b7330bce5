"""Learned classifiers: settings of a program, and the regimes that they make by name."""

from typing import Any, Literal

import attrs
from torch import nn

from iai_regimes.interfaces import SetEncoder
from iai_regimes.learned.learned_rule import LearnedRule
from iai_regimes.learned.whitened_newton import WhitenedNewton
from iai_regimes.likelihood import Categorical
from iai_regimes.models.latent_decoder import LatentDecoder
from iai_regimes.predictor import Predictor
from iai_regimes.regimes.explicit import Explicit
from iai_regimes.regimes.implicit import Implicit
from iai_regimes.regimes.parametric import Parametric
from iai_regimes.zero_linear import zero_linear

_KINDS = ("parametric linear", "parametric mlp", "explicit")
_SIGNALS = ("both", "gradient", "data")


@attrs.frozen(kw_only=True)
class LearnedClassifier:
    """Sizes of classifiers that a program can be told to use.

    A size below 1 is refused when a model or a regime is made of it.

    >>> classifier = LearnedClassifier(x_dim=2, num_classes=3, hidden_dim=4)
    >>> classifier.predictor("mlp").size  # 4 (2 + 1) + 3 (4 + 1)
    27
    """

    x_dim: int
    """Numbers of one flattened input."""
    num_classes: int = 10
    """Classes at most."""
    hidden_dim: int = 64
    """Hidden units of the MLP, all of whose parameters a task adapts."""
    summary_dim: int = 64
    """Size of the running mean of learned features of all examples read."""

    def predictor(self, model: Literal["linear", "mlp"]) -> Predictor:
        """A model, all of whose parameters a task adapts.

        Args:
            model: "linear", which starts at even odds, or "mlp": one hidden layer of ReLU.

        Raises:
            ValueError: If there is no such model.
        """
        if model == "linear":
            return Predictor(zero_linear(self.x_dim, self.num_classes))
        if model == "mlp":
            first = nn.Linear(self.x_dim, self.hidden_dim)
            last = nn.Linear(self.hidden_dim, self.num_classes)
            return Predictor(nn.Sequential(first, nn.ReLU(), last))
        raise ValueError(f"`model` must be linear or mlp; got {model!r}.")

    def regime(self, name: str, encoder: SetEncoder) -> Parametric | Explicit | Implicit:
        """A learned regime by its name.

        Args:
            name: "implicit"; or "parametric linear", "parametric mlp" or "explicit", a comma, and
                the signal of `LearnedRule`: "both", "gradient" or "data". A parametric regime
                adapts the model of `predictor`. Each of its tokens has the weights and the bias of
                one unit, and its slope is `WhitenedNewton`. An explicit regime adapts a latent as
                large as a token of the encoder, for a `LatentDecoder`.
            encoder: Reads the tokens.

        Raises:
            ValueError: If there is no such regime.
        """
        likelihood = Categorical(self.num_classes)
        sizes: dict[str, Any] = {"x_dim": self.x_dim, "summary_dim": self.summary_dim}
        if name == "implicit":
            return Implicit(encoder, likelihood, **sizes)
        kind, _, signal = name.partition(", ")
        if kind not in _KINDS or signal not in _SIGNALS:
            raise ValueError(
                f"`name` must be implicit, or one of {', '.join(_KINDS)}, then a comma and one of "
                f"{', '.join(_SIGNALS)}; got {name!r}."
            )
        if kind == "explicit":
            decoder = LatentDecoder(self.x_dim, encoder.dim, self.num_classes)
            predictor = Predictor(decoder, adapt=["latent"])
            rule = LearnedRule(predictor, likelihood, encoder, **sizes | {"signal": signal})
            return Explicit(predictor, likelihood, rule)
        predictor = self.predictor("linear" if kind == "parametric linear" else "mlp")
        slope = None if signal == "data" else WhitenedNewton(predictor)
        sizes |= {"signal": signal, "slope": slope, "chunk": self.x_dim + 1}
        rule = LearnedRule(predictor, likelihood, encoder, **sizes)
        return Parametric(predictor, likelihood, rule)
