"""Parametric, implicit and explicit regimes of amortized learning."""

from iai_regimes.adam import Adam
from iai_regimes.conv4 import Conv4
from iai_regimes.embedded import Embedded
from iai_regimes.embedding import BilinearEmbedding
from iai_regimes.evidence import annealed_gain, count_features
from iai_regimes.explicit import Explicit, LatentDecoder
from iai_regimes.flow import flow
from iai_regimes.gradient_descent import GradientDescent
from iai_regimes.gradient_feature import clipped_log, log_and_sign, raw, rms_normalised
from iai_regimes.implicit import Implicit, ImplicitState
from iai_regimes.implicit_columns import ColumnState, ImplicitColumns
from iai_regimes.lbfgs import LBFGS
from iai_regimes.learned_optimizer import LearnedOptimizer
from iai_regimes.learned_rule import LearnedRule
from iai_regimes.likelihood import Categorical, Gaussian
from iai_regimes.mlp_rule import MLPRule
from iai_regimes.newton_cg import NewtonCG
from iai_regimes.parameter_token import ParameterTokens
from iai_regimes.parametric import AdaptedState, Parametric
from iai_regimes.predictor import Predictor
from iai_regimes.proximal import Proximal
from iai_regimes.recurrent_rule import RecurrentRule
from iai_regimes.unlabelled import Unlabelled
from iai_regimes.until_converged import UntilConverged

__all__ = [
    "LBFGS",
    "Adam",
    "AdaptedState",
    "BilinearEmbedding",
    "Categorical",
    "ColumnState",
    "Conv4",
    "Embedded",
    "Explicit",
    "Gaussian",
    "GradientDescent",
    "Implicit",
    "ImplicitColumns",
    "ImplicitState",
    "LatentDecoder",
    "LearnedOptimizer",
    "LearnedRule",
    "MLPRule",
    "NewtonCG",
    "ParameterTokens",
    "Parametric",
    "Predictor",
    "Proximal",
    "RecurrentRule",
    "Unlabelled",
    "UntilConverged",
    "annealed_gain",
    "clipped_log",
    "count_features",
    "flow",
    "log_and_sign",
    "raw",
    "rms_normalised",
]
