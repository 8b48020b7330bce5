import pytest
import torch
from iai_iterate import Iterated, unrolled
from slopes import draw
from torch import distributed
from torch.nn.parallel import DistributedDataParallel


@pytest.fixture
def one_process(tmp_path):
    if not (distributed.is_available() and distributed.is_gloo_available()):
        pytest.skip("needs torch.distributed with gloo")
    store = f"file://{tmp_path / 'store'}"
    distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("loss", ["every", "last"])
def test_forward_is_all_that_several_processes_need(regime, loss, one_process):
    learner = Iterated(regime, steps=2, minibatch=4, gradient=unrolled, loss=loss)
    wrapped, tasks, state = DistributedDataParallel(learner), draw(), None
    for _ in range(3):  # a weight without a gradient would raise in the second iteration
        expected = learner(tasks, state).losses.mean()
        expected = torch.autograd.grad(expected, list(learner.parameters()))
        learner.zero_grad()
        losses, _, state = wrapped(tasks, state)
        losses.mean().backward()
        actual = [weight.grad for weight in learner.parameters()]
        torch.testing.assert_close(actual, list(expected), rtol=1e-12, atol=1e-12)
