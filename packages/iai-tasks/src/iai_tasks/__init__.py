"""Tasks to learn to learn from: sets of examples, samplers of tasks, and their oracles."""

from iai_tasks.backbone import Backbone
from iai_tasks.class_split import ClassSplit, split_classes
from iai_tasks.digits import digits
from iai_tasks.efficientnet_lite import efficientnet_lite0
from iai_tasks.embedding_store import EmbeddingStore, embed
from iai_tasks.examples import Examples, TaskBatch
from iai_tasks.few_shot_classification import FewShotClassification
from iai_tasks.flow_matching import straight_path
from iai_tasks.glyph_clouds import GlyphClouds
from iai_tasks.glyphs import glyphs
from iai_tasks.hub_backbone import hub_backbone
from iai_tasks.image_classes import ImageClasses
from iai_tasks.image_folder import image_folder
from iai_tasks.image_source import ImageArrays, ImageFiles, ImageSource, image_files
from iai_tasks.interfaces import Sampler
from iai_tasks.labelled_images import LabelledImages
from iai_tasks.leaf_order import order_by_leaves, order_error, variance_order, without_leaves
from iai_tasks.linear_classification import LinearClassification
from iai_tasks.linear_regression import LinearRegression
from iai_tasks.mixture_of_gaussians import MixtureOfGaussians
from iai_tasks.omniglot import omniglot
from iai_tasks.projected_classification import ProjectedClassification
from iai_tasks.random_graph import (
    ErdosRenyi,
    GivenGraphs,
    GraphFamily,
    ScaleFree,
    StochasticBlock,
    WattsStrogatz,
    to_networkx,
)
from iai_tasks.random_network import RandomNetworkRegression
from iai_tasks.sinusoid import Sinusoid
from iai_tasks.spec import Categorical, Real, TaskSpec, check_examples, check_task_batch
from iai_tasks.structural_causal_models import StructuralCausalModels
from iai_tasks.torchvision_backbone import torchvision_backbone
from iai_tasks.vision import cifar10, fashion_mnist, mnist

__all__ = [
    "Backbone",
    "Categorical",
    "ClassSplit",
    "EmbeddingStore",
    "ErdosRenyi",
    "Examples",
    "FewShotClassification",
    "GivenGraphs",
    "GlyphClouds",
    "GraphFamily",
    "ImageArrays",
    "ImageClasses",
    "ImageFiles",
    "ImageSource",
    "LabelledImages",
    "LinearClassification",
    "LinearRegression",
    "MixtureOfGaussians",
    "ProjectedClassification",
    "RandomNetworkRegression",
    "Real",
    "Sampler",
    "ScaleFree",
    "Sinusoid",
    "StochasticBlock",
    "StructuralCausalModels",
    "TaskBatch",
    "TaskSpec",
    "WattsStrogatz",
    "check_examples",
    "check_task_batch",
    "cifar10",
    "digits",
    "efficientnet_lite0",
    "embed",
    "fashion_mnist",
    "glyphs",
    "hub_backbone",
    "image_files",
    "image_folder",
    "mnist",
    "omniglot",
    "order_by_leaves",
    "order_error",
    "split_classes",
    "straight_path",
    "to_networkx",
    "torchvision_backbone",
    "variance_order",
    "without_leaves",
]
