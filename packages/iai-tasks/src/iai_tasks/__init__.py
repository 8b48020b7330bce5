"""Tasks to learn to learn from: sets of examples, samplers of tasks, and their oracles."""

from iai_tasks.digits import digits
from iai_tasks.examples import Examples, TaskBatch
from iai_tasks.interfaces import Sampler
from iai_tasks.labelled_images import LabelledImages
from iai_tasks.linear_classification import LinearClassification
from iai_tasks.linear_regression import LinearRegression
from iai_tasks.projected_classification import ProjectedClassification
from iai_tasks.random_network import RandomNetworkRegression
from iai_tasks.spec import Categorical, Real, TaskSpec, check_examples, check_task_batch
from iai_tasks.vision import cifar10, fashion_mnist, mnist

__all__ = [
    "Categorical",
    "Examples",
    "LabelledImages",
    "LinearClassification",
    "LinearRegression",
    "ProjectedClassification",
    "RandomNetworkRegression",
    "Real",
    "Sampler",
    "TaskBatch",
    "TaskSpec",
    "check_examples",
    "check_task_batch",
    "cifar10",
    "digits",
    "fashion_mnist",
    "mnist",
]
