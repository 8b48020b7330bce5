"""Parametric, implicit and explicit regimes of amortized learning."""

from iai_regimes.adam import Adam
from iai_regimes.embedding import BilinearEmbedding
from iai_regimes.evidence import annealed_gain, count_features
from iai_regimes.explicit import Explicit, LatentDecoder
from iai_regimes.gradient_feature import clipped_log, log_and_sign, raw, rms_normalised
from iai_regimes.implicit import Implicit, ImplicitState
from iai_regimes.learned_rule import LearnedRule
from iai_regimes.likelihood import Categorical, Gaussian
from iai_regimes.parameter_token import ParameterTokens
from iai_regimes.parametric import AdaptedState, Parametric
from iai_regimes.predictor import Predictor

__all__ = [
    "Adam",
    "AdaptedState",
    "BilinearEmbedding",
    "Categorical",
    "Explicit",
    "Gaussian",
    "Implicit",
    "ImplicitState",
    "LatentDecoder",
    "LearnedRule",
    "ParameterTokens",
    "Parametric",
    "Predictor",
    "annealed_gain",
    "clipped_log",
    "count_features",
    "log_and_sign",
    "raw",
    "rms_normalised",
]
