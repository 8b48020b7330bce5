"""Tasks to learn to learn from: sets of examples, samplers of tasks, and their oracles."""

from iai_tasks.causal.leaf_order import order_by_leaves, order_error, variance_order, without_leaves
from iai_tasks.causal.leaves_removed import LeavesRemoved
from iai_tasks.causal.precision_score import precision_score
from iai_tasks.causal.random_graph import (
    ErdosRenyi,
    GivenGraphs,
    GraphFamily,
    ScaleFree,
    StochasticBlock,
    WattsStrogatz,
    to_networkx,
)
from iai_tasks.causal.structural_causal_models import StructuralCausalModels
from iai_tasks.embedding_source import EmbeddingSource
from iai_tasks.embeddings.backbone import Backbone
from iai_tasks.embeddings.efficientnet_lite import efficientnet_lite0
from iai_tasks.embeddings.embedding_store import EmbeddingStore, embed
from iai_tasks.embeddings.hub_backbone import hub_backbone
from iai_tasks.embeddings.load_backbone import load_backbone
from iai_tasks.embeddings.torchvision_backbone import torchvision_backbone
from iai_tasks.embeddings.whitening import whitening
from iai_tasks.examples import Examples, TaskBatch
from iai_tasks.flow_matching import straight_path
from iai_tasks.image_class_source import ImageClassSource
from iai_tasks.image_classes import ImageClasses
from iai_tasks.images.class_split import ClassSplit, split_classes
from iai_tasks.images.digits import digits
from iai_tasks.images.few_shot_classification import FewShotClassification
from iai_tasks.images.image_folder import ImageFiles, image_files, image_folder
from iai_tasks.images.labelled_images import LabelledImages
from iai_tasks.images.omniglot import omniglot
from iai_tasks.images.projected_classification import ProjectedClassification
from iai_tasks.images.vision import cifar10, fashion_mnist, mnist
from iai_tasks.interfaces import ImageSource, Sampler
from iai_tasks.letters.glyph_clouds import GlyphClouds
from iai_tasks.letters.glyphs import glyphs
from iai_tasks.random_examples import RandomExamples
from iai_tasks.sampler import AbstractSampler
from iai_tasks.spec import Categorical, Real, TaskSpec, check_examples
from iai_tasks.synthetic.linear_classification import LinearClassification
from iai_tasks.synthetic.linear_regression import LinearRegression
from iai_tasks.synthetic.mixture_of_gaussians import MixtureOfGaussians
from iai_tasks.synthetic.random_network import RandomNetworkRegression
from iai_tasks.synthetic.sinusoid import Sinusoid

__all__ = [
    "AbstractSampler",
    "Backbone",
    "Categorical",
    "ClassSplit",
    "EmbeddingSource",
    "EmbeddingStore",
    "ErdosRenyi",
    "Examples",
    "FewShotClassification",
    "GivenGraphs",
    "GlyphClouds",
    "GraphFamily",
    "ImageClassSource",
    "ImageClasses",
    "ImageFiles",
    "ImageSource",
    "LabelledImages",
    "LeavesRemoved",
    "LinearClassification",
    "LinearRegression",
    "MixtureOfGaussians",
    "ProjectedClassification",
    "RandomExamples",
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
    "cifar10",
    "digits",
    "efficientnet_lite0",
    "embed",
    "fashion_mnist",
    "glyphs",
    "hub_backbone",
    "image_files",
    "image_folder",
    "load_backbone",
    "mnist",
    "omniglot",
    "order_by_leaves",
    "order_error",
    "precision_score",
    "split_classes",
    "straight_path",
    "to_networkx",
    "torchvision_backbone",
    "variance_order",
    "whitening",
    "without_leaves",
]
