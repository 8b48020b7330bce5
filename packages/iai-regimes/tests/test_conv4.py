import re

import pytest
import torch
from iai_regimes import Categorical, Conv4, GradientDescent, Parametric, Predictor
from regime_parts import Examples, read
from torch.func import functional_call
from torch.nn import functional as F

WAYS = 3


def error(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def images(num_tasks=2, n=6, *, seed=0, tasks=0, size=17, noise=0.3, dtype=torch.float32):
    """A pattern for each class of each task, under noise."""
    patterns = torch.Generator().manual_seed(tasks)
    pattern = torch.randn(num_tasks, WAYS, 1, 4, 4, generator=patterns, dtype=dtype)
    pattern = pattern.repeat_interleave(-(-size // 4), -1).repeat_interleave(-(-size // 4), -2)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(num_tasks, n, 1, size, size, generator=generator, dtype=dtype)
    y = torch.arange(n).remainder(WAYS)
    x = pattern[:, y, :, :size, :size] + noise * drawn
    return Examples(x, y.expand(num_tasks, n), torch.ones(num_tasks, n, dtype=torch.bool))


def maml(*, rate=0.05, **options):
    torch.manual_seed(0)
    network = Conv4(1, WAYS, **{"width": 8, "image_size": 17} | options)
    return Parametric(Predictor(network), Categorical(WAYS), GradientDescent(rate))


@pytest.mark.parametrize("transductive", [False, True])
@pytest.mark.parametrize(("size", "places"), [(28, 2), (84, 6), (8, 1), (17, 2)])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes(channels, size, places, transductive):
    network = Conv4(channels, 5, width=8, image_size=size, transductive=transductive)
    x = torch.randn(2, channels, size, size)
    assert network(x).shape == (2, 5)
    assert network.body(x).shape == (2, 8, places, places)
    assert network.head.in_features == 8 * places**2


def test_the_start():
    torch.manual_seed(0)
    network = Conv4(1, 5)
    bound = (6 / (64 * 9 + 64 * 9)) ** 0.5
    assert network.body[3].weight.abs().max() < bound
    assert abs(network.body[3].weight.std() - bound / 3**0.5) < 0.01 * bound
    assert all((p == 0).all() for name, p in network.named_parameters() if name.endswith("bias"))
    assert network.body[1].num_groups == 4 and Conv4(1, 5, width=6).body[1].num_groups == 2


def test_each_image_by_itself_unless_transductive():
    x = torch.randn(4, 1, 28, 28)
    network = Conv4(1, 5, width=8).eval()
    torch.testing.assert_close(network(x)[:1], network(x[:1]))
    network = Conv4(1, 5, width=8, transductive=True).eval()
    assert (network(x)[:1] - network(x[:1])).abs().max() > 0.01
    assert "Sets must then have no padding" in " ".join(Conv4.__doc__.split())


@pytest.mark.parametrize("transductive", [False, True])
def test_the_meta_gradient_is_that_of_a_loop_over_tasks(transductive):
    regime = maml(transductive=transductive).double()
    network = regime.predictor.module
    support, query = (images(seed=seed, dtype=torch.float64) for seed in (0, 1))
    state = read(regime, query.x, support, support)
    losses = regime.loss(regime.predict(state, query.x), query)
    batched = torch.autograd.grad(losses.sum(), list(network.parameters()))

    total = torch.zeros((), dtype=torch.float64)
    for task in range(2):
        own = dict(network.named_parameters())
        for _ in range(2):
            loss = F.cross_entropy(functional_call(network, own, support.x[task]), support.y[task])
            gradients = torch.autograd.grad(loss, list(own.values()), create_graph=True)
            own = {k: p - 0.05 * g for (k, p), g in zip(own.items(), gradients, strict=True)}
        total = total + F.cross_entropy(functional_call(network, own, query.x[task]), query.y[task])
    looped = torch.autograd.grad(total, list(network.parameters()))
    for one, other in zip(batched, looped, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("transductive", [False, True])
def test_maml_on_it_is_stable_in_single_precision(transductive):
    regime = maml(transductive=transductive, image_size=28, rate=0.1)
    optimizer = torch.optim.Adam(regime.parameters(), lr=3e-3)
    losses = []
    for step in range(15):
        support, query = (images(4, size=28, seed=seed, tasks=step, noise=2.0) for seed in (0, 1))
        state = read(regime, query.x, support, support, support)
        losses.append(regime.loss(regime.predict(state, query.x), query).mean())
        optimizer.zero_grad()
        losses[-1].backward()
        assert all(p.grad.isfinite().all() and p.grad.norm() < 100 for p in regime.parameters())
        optimizer.step()
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])


@pytest.mark.parametrize("name", ["in_channels", "num_outputs", "width", "image_size"])
def test_errors(name):
    sizes = {"in_channels": 1, "num_outputs": 5, "width": 8, "image_size": 28} | {name: 0}
    message = f"`{name}` must be at least 1; got 0."
    with error(message):
        Conv4(sizes.pop("in_channels"), sizes.pop("num_outputs"), **sizes)


@pytest.mark.usefixtures("own_errors")
@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 28, 28), (28, 28)])
def test_images_of_another_shape_are_refused(shape):
    network = Conv4(1, WAYS, width=8)
    message = f"`x` must be a set of images of the shape (1, 28, 28); got {(6, *shape)}."
    with error(message):
        functional_call(network, dict(network.named_parameters()), (torch.zeros(6, *shape),))
    predictor = Predictor(network)
    with error(message):  # under vmap
        predictor(predictor.start(2), torch.zeros(2, 6, *shape))


def test_groups_of_one_number_are_refused():
    with pytest.raises(ValueError, match="`width` must be above 4 for images of 16 pixels"):
        Conv4(1, 2, width=4, image_size=16)
    Conv4(1, 2, width=4, image_size=16, transductive=True)
    Conv4(1, 2, width=8, image_size=16)
