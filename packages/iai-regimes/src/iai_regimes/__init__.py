"""Parametric, implicit and explicit regimes of amortized learning."""

from iai_regimes.check import check_examples
from iai_regimes.evidence import Evidence, masked_mean, moved_where
from iai_regimes.gradient import gradient_at
from iai_regimes.gradient_rule import GradientRule
from iai_regimes.learned.learned_optimizer import LearnedOptimizer
from iai_regimes.learned.learned_rule import LearnedRule
from iai_regimes.learned.mlp_rule import MLPRule
from iai_regimes.learned.newton import Newton
from iai_regimes.learned.recurrent_rule import RecurrentRule
from iai_regimes.learned.slope import Gradient
from iai_regimes.learned.whitened_newton import WhitenedNewton
from iai_regimes.learned_classifier import LearnedClassifier
from iai_regimes.learned_flow import LearnedFlow
from iai_regimes.likelihood import Categorical, Gaussian
from iai_regimes.models.conv4 import Conv4
from iai_regimes.models.fit_flow import fit_flow
from iai_regimes.models.flow import flow
from iai_regimes.models.latent_decoder import LatentDecoder
from iai_regimes.models.soft_prompt import SoftPrompt
from iai_regimes.padding import finite_queries, observed_inputs, observed_targets
from iai_regimes.predictor import Predictor
from iai_regimes.regimes.embedded import Embedded
from iai_regimes.regimes.explicit import Explicit
from iai_regimes.regimes.explicit_memory import ExplicitMemory, MemoryState
from iai_regimes.regimes.implicit import Implicit
from iai_regimes.regimes.implicit_columns import ImplicitColumns
from iai_regimes.regimes.parametric import AdaptedState, Parametric
from iai_regimes.regimes.running_attention import RunningAttention, RunningState
from iai_regimes.rules.adam import Adam
from iai_regimes.rules.gradient_descent import GradientDescent
from iai_regimes.rules.lbfgs import LBFGS
from iai_regimes.rules.newton_cg import NewtonCG
from iai_regimes.rules.proximal import Proximal
from iai_regimes.rules.until_converged import UntilConverged
from iai_regimes.unlabelled import Unlabelled
from iai_regimes.zero_linear import zero_linear

__all__ = [
    "LBFGS",
    "Adam",
    "AdaptedState",
    "Categorical",
    "Conv4",
    "Embedded",
    "Evidence",
    "Explicit",
    "ExplicitMemory",
    "Gaussian",
    "Gradient",
    "GradientDescent",
    "GradientRule",
    "Implicit",
    "ImplicitColumns",
    "LatentDecoder",
    "LearnedClassifier",
    "LearnedFlow",
    "LearnedOptimizer",
    "LearnedRule",
    "MLPRule",
    "MemoryState",
    "Newton",
    "NewtonCG",
    "Parametric",
    "Predictor",
    "Proximal",
    "RecurrentRule",
    "RunningAttention",
    "RunningState",
    "SoftPrompt",
    "Unlabelled",
    "UntilConverged",
    "WhitenedNewton",
    "check_examples",
    "finite_queries",
    "fit_flow",
    "flow",
    "gradient_at",
    "masked_mean",
    "moved_where",
    "observed_inputs",
    "observed_targets",
    "zero_linear",
]
