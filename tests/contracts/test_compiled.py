"""Learners compile, on the tasks of our own samplers."""

import subprocess
import sys

COMPILED = """
import torch
from iai_encoders import DeepSet
from iai_iterate import Iterated
from iai_regimes import Gaussian, GradientDescent, Implicit, Parametric, Predictor
from iai_tasks import LinearRegression

sampler, generator = LinearRegression(dim=3), torch.Generator().manual_seed(0)
tasks = sampler.sample(4, num_support=16, num_query=6, generator=generator)
likelihood = Gaussian(1, scale=0.5)
regimes = [
    Implicit(DeepSet(8), likelihood, x_dim=3),
    Parametric(Predictor(torch.nn.Linear(3, 1)), likelihood, GradientDescent(0.1)),
]
for regime in regimes:
    learner = Iterated(regime, steps=3, minibatch=8)
    whole = isinstance(regime, Implicit)  # a gradient inside a step breaks the graph
    compiled = torch.compile(learner, backend="eager", fullgraph=whole)(tasks)
    torch.testing.assert_close(compiled.losses, learner(tasks).losses, rtol=1e-6, atol=1e-6)
"""


def test_a_learner_compiles():
    # In a process of its own, as what checks shapes in tests does not compile.
    subprocess.run([sys.executable, "-c", COMPILED], check=True)
