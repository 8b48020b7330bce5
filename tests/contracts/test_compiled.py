"""A learner compiles, on the tasks of our own samplers."""

import subprocess
import sys

COMPILED = """
import torch
from iai_encoders import DeepSet
from iai_iterate import Iterated
from iai_regimes import Gaussian, Implicit
from iai_tasks import LinearRegression

sampler, generator = LinearRegression(dim=3), torch.Generator().manual_seed(0)
tasks = sampler.sample(4, num_support=6, num_query=5, generator=generator)
learner = Iterated(Implicit(DeepSet(8), Gaussian(1, scale=0.5), x_dim=3), steps=2, minibatch=3)
compiled = torch.compile(learner, backend="eager", fullgraph=True)(tasks)
torch.testing.assert_close(compiled.losses, learner(tasks).losses, rtol=1e-6, atol=1e-6)
"""


def test_a_learner_compiles_whole():
    # In a process of its own, as what checks shapes in tests does not compile.
    subprocess.run([sys.executable, "-c", COMPILED], check=True)
