"""A learner compiles, on the tasks of our own samplers."""

import subprocess
import sys

COMPILED = """
import torch
from iai_encoders import DeepSet, MemoryTransformer, RunningTransformer, SetTransformer
from iai_iterate import Iterated, unrolled
from iai_regimes import ExplicitMemory, Gaussian, Implicit, RunningAttention
from iai_tasks import LinearRegression

sampler, generator = LinearRegression(dim=3), torch.Generator().manual_seed(0)
tasks = sampler.sample(4, num_support=6, num_query=5, generator=generator)
how = {"likelihood": Gaussian(1, scale=0.5), "x_dim": 3}
memories = [
    ExplicitMemory(MemoryTransformer(8, 1, 2), **how),
    RunningAttention(RunningTransformer(SetTransformer(8, 1, 2)), **how),
]
learners = [Iterated(regime, steps=3, minibatch=2, gradient=unrolled) for regime in memories]
for learner in Iterated(Implicit(DeepSet(8), **how), steps=2, minibatch=3), *learners:
    compiled = torch.compile(learner, backend="eager", fullgraph=True)(tasks)
    torch.testing.assert_close(compiled.losses, learner(tasks).losses, rtol=1e-6, atol=1e-6)
"""


def test_a_learner_compiles_whole():
    # In a process of its own, as what checks shapes in tests does not compile.
    subprocess.run([sys.executable, "-c", COMPILED], check=True)
