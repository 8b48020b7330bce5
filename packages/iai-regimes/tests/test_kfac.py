import itertools
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_regimes import Gaussian, Predictor
from iai_regimes.hessian import hessian_products
from iai_regimes.learned.kfac import Whitening
from iai_regimes.objective import MinibatchObjective
from iai_regimes.ravel import ravel, shifted, unravel
from regime_parts import draw
from torch import nn

NEED = "Whitening needs linear layers that read one vector for each input; "


def draws(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


def mlp(*between, bias=True):
    return Predictor(
        nn.Sequential(nn.Linear(3, 4), *between, nn.Tanh(), nn.Linear(4, 2, bias=bias)).double()
    )


class Mixed(nn.Module):
    """Linear layers with and without a bias, and numbers that belong to none."""

    def __init__(self):
        super().__init__()
        self.latent = nn.Parameter(torch.ones(2, 2))
        self.first = nn.Linear(3, 4)
        self.norm = nn.LayerNorm(4)
        self.second = nn.Linear(4, 2, bias=False)

    def forward(self, x):
        return self.second(self.norm(self.first(x))) @ self.latent


def roots_of(whitening, moments, prior_count=1e-9, seen=10.0):
    seen = torch.full((len(moments[0]),), seen, dtype=torch.float64)
    return whitening.roots(moments, moments, seen, prior_count)


def theta_of(predictor, flat):
    """Raveled parameters by name."""
    return unravel(flat, predictor.start(len(flat)))


def colour(predictor, whitening, white, roots):
    """On vectors."""
    return ravel(whitening.colour(theta_of(predictor, white), roots))


def drawn_moments(predictor, num_tasks, drawn):
    sizes = [moment.shape[1] for moment in Whitening(predictor).start(predictor.start(1))]
    factors = [drawn(num_tasks, size, size + 3) for size in sizes]
    return tuple(factor @ factor.mT for factor in factors)


@given(seed=st.integers(0, 99))
def test_moments_are_means_over_what_is_observed(seed):
    drawn, predictor = draws(seed), mlp()
    theta, x = theta_of(predictor, drawn(3, predictor.size)), drawn(3, 6, 3)
    mask = drawn(3, 6) > 0
    mask[1] = False
    x[~mask] = 1e6
    found = Whitening(predictor).moments(theta, x, mask)
    for task in range(3):
        weight, bias = theta["0.weight"][task], theta["0.bias"][task]
        expected = [torch.zeros(4, 4).double(), torch.zeros(5, 5).double()]
        for example in x[task][mask[task]]:
            inputs = example, (weight @ example + bias).tanh()
            for total, a in zip(expected, inputs, strict=True):
                a = torch.cat([a, torch.ones(1).double()])
                total += a[:, None] * a[None] / mask[task].sum()
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one[task], other)


def test_a_layer_whose_bias_is_not_adapted_has_no_constant_input():
    predictor = Predictor(nn.Linear(2, 3), adapt=["weight"])
    x = torch.tensor([[[1.0, 2.0], [3.0, 0.0]]])
    theta, mask = predictor.start(1), torch.ones(1, 2, dtype=torch.bool)
    (moment,) = Whitening(predictor).moments(theta, x, mask)
    assert moment.tolist() == [[[5.0, 1.0], [1.0, 2.0]]]


def test_moments_are_constants_and_nothing_stays_behind():
    predictor = mlp()
    theta = predictor.start(2)
    before = {name: weight.clone() for name, weight in predictor.state_dict().items()}
    found = Whitening(predictor).moments(theta, torch.ones(2, 3, 3).double(), torch.ones(2, 3) > 0)
    assert theta["0.weight"].requires_grad and not any(moment.requires_grad for moment in found)
    assert all(torch.equal(before[name], now) for name, now in predictor.state_dict().items())
    assert not any(layer._forward_pre_hooks for layer in predictor.module.modules())


@pytest.mark.parametrize("tied", ["one layer", "one weight"])
def test_layers_that_are_used_twice(tied):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(2, 2)
            self.again = self.first if tied == "one layer" else nn.Linear(2, 2)
            self.again.weight = self.first.weight

        def forward(self, x):
            return self.again(self.first(x).tanh())

    drawn, predictor = draws(0), Predictor(Twice().double())
    whitening, x = Whitening(predictor), drawn(2, 5, 2)
    theta = theta_of(predictor, drawn(2, predictor.size))
    (moment,) = whitening.moments(theta, x, torch.ones(2, 5, dtype=torch.bool))
    assert list(whitening.layers) == ["first"]
    ones = torch.ones(2, 5, 1).double()
    second = (x @ theta["first.weight"].mT + theta["first.bias"][:, None]).tanh()
    # One layer reads twice; a weight that is tied is whitened by the layer that it is named for.
    read = [x, second] if tied == "one layer" else [x]
    inputs = [torch.cat([a, ones], dim=2) for a in read]
    torch.testing.assert_close(moment, sum(a.mT @ a / 5 for a in inputs))
    assert whitening.num_blocks == (1 if tied == "one layer" else 2)


@given(seed=st.integers(0, 99))
def test_roots_make_the_moments_white_without_a_prior(seed):
    predictor = mlp()
    whitening = Whitening(predictor)
    moments = drawn_moments(predictor, 3, draws(seed))
    for moment, root in zip(moments, roots_of(whitening, moments, 1e-12), strict=True):
        identity = torch.eye(moment.shape[1]).double().expand_as(moment)
        torch.testing.assert_close(root @ moment @ root.mT, identity, rtol=0, atol=1e-6)
        assert torch.equal(root, root.tril())


@given(seed=st.integers(0, 99), seen=st.integers(0, 50), prior_count=st.floats(0.1, 100))
def test_a_prior_joins_the_moments_as_so_many_examples(seed, seen, prior_count):
    drawn, predictor = draws(seed), Predictor(nn.Linear(3, 2).double())
    whitening = Whitening(predictor)
    (moment,), (new,) = (drawn_moments(predictor, 2, drawn) for _ in range(2))
    count = torch.full((2,), seen, dtype=torch.float64)
    (root,) = whitening.roots((moment,), (new,), count, prior_count)
    for task in range(2):
        square = (seen * moment[task].trace() + new[task].trace()) / (seen + 1) / 4
        total = seen * moment[task] + prior_count * square * torch.eye(4)
        white = root[task] @ (total / (seen + prior_count)) @ root[task].mT
        torch.testing.assert_close(white, torch.eye(4).double())


def test_without_any_example_coordinates_are_what_they_were():
    predictor = mlp()
    whitening = Whitening(predictor)
    nothing = whitening.start(predictor.start(2))
    assert [moment.shape for moment in nothing] == [(2, 4, 4), (2, 5, 5)]
    for root in roots_of(whitening, nothing, prior_count=3.0, seen=0.0):
        assert torch.equal(root, torch.eye(root.shape[1]).double().expand_as(root))


def test_a_task_that_is_not_finite_leaves_the_others_alone():
    predictor = mlp()
    whitening = Whitening(predictor)
    moments = drawn_moments(predictor, 3, draws(0))
    expected = roots_of(whitening, moments)
    for bad in (torch.nan, torch.inf, -torch.inf):
        broken = tuple(moment.clone() for moment in moments)
        for moment in broken:
            moment[1] = bad
        for one, other in zip(roots_of(whitening, broken), expected, strict=True):
            assert torch.equal(one[[0, 2]], other[[0, 2]])


def test_without_a_root_coordinates_are_what_they_were():
    whitening = Whitening(Predictor(nn.Linear(1, 1).double()))
    moments = torch.tensor([[[1.0, 1.0], [1.0, 1.0]], [[4.0, 0.0], [0.0, 1.0]]]).double()
    (root,) = roots_of(whitening, (moments,), prior_count=1e-30)  # the first one is singular
    assert root[0].tolist() == [[1.0, 0.0], [0.0, 1.0]]
    torch.testing.assert_close(root[1], torch.tensor([[0.5, 0.0], [0.0, 1.0]]).double())


def test_every_number_belongs_to_one_block():
    predictor = Predictor(Mixed())
    whitening = Whitening(predictor)
    layers = {"first": ["first.weight", "first.bias"], "second": ["second.weight"]}
    assert whitening.layers == layers and whitening.num_blocks == 3
    blocks = theta_of(predictor, whitening.block.double()[None])
    assert {name: set(block.flatten().tolist()) for name, block in blocks.items()} == {
        "latent": {2},
        "first.weight": {0},
        "first.bias": {0},
        "norm.weight": {2},
        "norm.bias": {2},
        "second.weight": {1},
    }
    assert whitening.numbers.tolist() == [16, 8, 12]
    assert Whitening(mlp()).num_blocks == 2  # and no block of nothing
    head = Whitening(Predictor(Mixed(), adapt=["first.bias", "second"]))
    assert head.layers == {"second": ["second.weight"]} and head.block.tolist() == [1] * 4 + [0] * 8


def dense_colour(predictor, whitening, roots, task):
    """The matrix of `colour`: a Kronecker product for each layer, and ones for the rest."""
    matrix = torch.eye(predictor.size, dtype=torch.float64)
    indices = theta_of(predictor, torch.arange(predictor.size).double()[None])
    for name, root in zip(whitening.layers, roots, strict=True):
        index = indices[f"{name}.weight"][0]
        if f"{name}.bias" in indices:
            index = torch.cat([index, indices[f"{name}.bias"][0][:, None]], dim=1)
        rows, index = len(index), index.flatten().long()
        product = torch.kron(torch.eye(rows, dtype=torch.float64), root[task].mT.contiguous())
        matrix[index[:, None], index] = product
    return matrix


@given(seed=st.integers(0, 99))
def test_colour_is_a_kronecker_product_for_each_layer(seed):
    drawn, predictor = draws(seed), Predictor(Mixed().double())
    whitening = Whitening(predictor)
    roots = roots_of(whitening, drawn_moments(predictor, 3, drawn), prior_count=1.0)
    white = drawn(3, predictor.size)
    for task in range(3):
        matrix = dense_colour(predictor, whitening, roots, task)
        coloured = colour(predictor, whitening, white, roots)
        torch.testing.assert_close(coloured[task], matrix @ white[task])
    doubled = colour(predictor, whitening, 2 * white + 1, roots)
    ones = colour(predictor, whitening, torch.ones_like(white), roots)
    torch.testing.assert_close(doubled, 2 * coloured + ones)


def test_gradients_flow_through_colour():
    drawn, predictor = draws(0), Predictor(Mixed().double())
    whitening = Whitening(predictor)
    roots = roots_of(whitening, drawn_moments(predictor, 2, drawn), prior_count=1.0)
    white = drawn(2, predictor.size).requires_grad_()
    assert torch.autograd.gradcheck(lambda u: colour(predictor, whitening, u, roots), white)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_the_hessian_of_linear_regression_becomes_the_identity(scale):
    likelihood = Gaussian(2, scale=scale)
    drawn, predictor = draws(0), Predictor(nn.Linear(3, 2).double())
    whitening, batch = Whitening(predictor), draw(likelihood, 3, 9, dtype=torch.float64)
    objective, theta = MinibatchObjective(predictor, likelihood, batch), predictor.start(3)
    moments = whitening.moments(theta, batch.x, batch.mask)
    roots = roots_of(whitening, moments, prior_count=1e-12)
    _, _, product = hessian_products(
        lambda u: objective.loss(shifted(theta, colour(predictor, whitening, u, roots))),
        torch.zeros(3, 8).double(),
    )
    vector = drawn(3, 8)
    torch.testing.assert_close(product(vector), vector / scale**2, rtol=1e-6, atol=1e-6)
    curvatures = whitening.curvatures(product, moments, roots)
    expected = torch.full((3, 1), scale**-2).double()
    torch.testing.assert_close(curvatures, expected, rtol=1e-6, atol=0)


@given(seed=st.integers(0, 99))
def test_curvatures_are_in_expectation_ratios_of_traces(seed):
    drawn, predictor = draws(seed), Predictor(nn.Sequential(nn.Linear(2, 1), nn.LayerNorm(1)))
    whitening = Whitening(predictor)
    every = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=5)), dtype=torch.float64)
    whitening.signs = every  # each as a task of its own
    hessian = drawn(5, 5)
    hessian = hessian + hessian.mT + 30 * torch.eye(5)  # no estimate of it is below 0
    new, moment = (drawn_moments(predictor, 1, drawn)[0] for _ in range(2))
    (root,) = roots_of(whitening, (moment,), prior_count=1.0)
    spread = (new.expand(32, -1, -1),), (root.expand(32, -1, -1),)
    curvatures = whitening.curvatures(lambda vectors: vectors @ hessian, *spread)
    layer, rest = hessian.diagonal()[:3].sum(), hessian.diagonal()[3:].mean()
    expected = torch.stack([layer / (root[0] @ new[0] @ root[0].mT).trace(), rest])
    torch.testing.assert_close(curvatures.mean(0), expected)
    assert curvatures.std(0).min() > 1e-6  # a single one is an estimate

    diagonal = hessian.diagonal().diag()
    exact = whitening.curvatures(lambda vectors: vectors @ diagonal, *spread)
    torch.testing.assert_close(exact, expected.expand(32, 2))


def test_the_mean_is_zero_where_curvature_is_negative_or_unknown():
    whitening = Whitening(Predictor(nn.Sequential(nn.Linear(2, 1), nn.LayerNorm(1))))
    moments = torch.stack([torch.eye(3), torch.eye(3), torch.zeros(3, 3)])
    slopes = torch.tensor([[2.0], [-2.0], [2.0]])
    roots = (torch.eye(3).expand(3, -1, -1),)
    curvatures = whitening.curvatures(lambda vectors: slopes * vectors, (moments,), roots)
    assert curvatures.tolist() == [[2.0, 2.0], [0.0, 0.0], [0.0, 2.0]]
    levels = whitening.levels(4 * curvatures)
    torch.testing.assert_close(levels[0], torch.full((5,), 8**-0.5))
    assert levels[1].tolist() == [1.0] * 5 and levels[2, :3].tolist() == [1.0] * 3


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.MultiheadAttention(4, 1)

    def forward(self, x):
        return self.mix(x, x, x, need_weights=False)[0]


class ByName(nn.Module):
    """Calls its layer with the input's name."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, x):
        return self.layer(input=x)


def test_an_input_given_by_name_is_read_as_well():
    by_name, plain = ByName(), nn.Linear(2, 3)
    x, mask = torch.randn(2, 5, 2), torch.ones(2, 5, dtype=torch.bool)
    found = [
        Whitening(predictor).moments(predictor.start(2), x, mask)
        for predictor in (Predictor(by_name), Predictor(plain))
    ]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    ("module", "shape", "reads"),
    [
        (nn.Linear(2, 3), (4, 2), "this one reads (5, 4, 2) for 5 inputs."),
        (
            nn.Sequential(nn.Flatten(2), nn.Linear(4, 3)),
            (3, 2, 2),
            "1 reads (5, 3, 4) for 5 inputs.",
        ),
        (
            nn.Sequential(nn.Flatten(0, 1), nn.Linear(2, 3)),
            (4, 2),
            "1 reads (20, 2) for 5 inputs.",
        ),
        (Attending(), (4,), "mix.out_proj reads none."),
    ],
)
@pytest.mark.parametrize("num_tasks", [1, 2])
def test_layers_that_read_no_vector_an_input_are_refused(module, shape, reads, num_tasks):
    predictor = Predictor(module)
    whitening, theta = Whitening(predictor), predictor.start(num_tasks)
    x, mask = torch.zeros(num_tasks, 5, *shape), torch.ones(num_tasks, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match=f"^{re.escape(NEED + reads)}$"):
        whitening.moments(theta, x, mask)
    assert not any(layer._forward_pre_hooks for layer in module.modules())


@pytest.mark.parametrize(
    "predictor",
    [
        Predictor(nn.Conv2d(1, 2, 3)),
        Predictor(nn.Linear(3, 2), adapt=["bias"]),
        Predictor(Mixed(), adapt=["latent", "norm"]),
    ],
)
def test_without_an_adapted_weight_there_is_nothing_to_whiten(predictor):
    sentence = "^Whitening needs an adapted weight of an `nn.Linear`; there is none.$"
    with pytest.raises(ValueError, match=sentence):
        Whitening(predictor)


@pytest.mark.parametrize("num_tasks", [1, 2])
def test_running_statistics_are_refused_before_they_move(num_tasks):
    norm = nn.BatchNorm1d(4)
    predictor = Predictor(nn.Sequential(nn.Linear(3, 4), norm))
    x, mask = torch.randn(num_tasks, 5, 3), torch.ones(num_tasks, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match="The module keeps running statistics"):
        Whitening(predictor).moments(predictor.start(num_tasks), x, mask)
    assert norm.num_batches_tracked == 0 and not norm.running_mean.any()
