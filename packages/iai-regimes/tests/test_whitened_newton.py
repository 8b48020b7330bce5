import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_regimes import (
    Categorical,
    Evidence,
    Gaussian,
    LatentDecoder,
    Newton,
    Parametric,
    Predictor,
    WhitenedNewton,
)
from iai_regimes.learned.whitened_newton import InputMemory
from iai_regimes.objective import MinibatchObjective
from iai_regimes.ravel import ravel, shifted
from iai_regimes.testing import check_rule
from regime_parts import X_DIM, Examples, draw, draw_ragged, read, rule, whitened
from torch import nn
from torch.utils._pytree import tree_leaves

# Orthogonal columns, the first one being that of a bias.
HADAMARD = torch.ones(1, 1, dtype=torch.float64)
for _ in range(3):
    HADAMARD = torch.cat([torch.cat([HADAMARD, HADAMARD]), torch.cat([HADAMARD, -HADAMARD])], 1)


def linear(num_products, *, scale=1.0, prior_count=1e-9, x_dim=X_DIM, y_dim=1):
    torch.manual_seed(0)
    likelihood = Gaussian(y_dim, scale=scale)
    predictor = Predictor(nn.Linear(x_dim, y_dim).double())
    return predictor, likelihood, newton(predictor, num_products, prior_count)


def newton(predictor, num_products, prior_count):
    return WhitenedNewton(predictor, num_products, prior_count=prior_count).double()


def step(slope, predictor, likelihood, batch, theta, memory=None, seen=0.0, fresh=True):
    """The last direction, raveled, and the memory."""
    memory = slope.start(theta) if memory is None else memory
    objective = MinibatchObjective(predictor, likelihood, batch)
    count = batch.mask.sum(1).to(batch.x.dtype)
    evidence = Evidence(batch, count, torch.full_like(count, seen), fresh)
    directions, memory = slope.directions(theta, memory, evidence, objective, evidence.gain)
    return directions[-1], memory


def with_ones(x):
    return torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)


def rows(batch, part):
    return Examples(*(field[part] for field in batch))


@pytest.mark.parametrize("y_dim", [1, 2])
def test_one_step_from_nothing_solves_least_squares(y_dim):
    predictor, likelihood, slope = linear(8, scale=0.5, y_dim=y_dim)
    batch = draw(likelihood, n=9, dtype=torch.float64)
    batch.y.add_(torch.randn(batch.y.shape, generator=torch.Generator().manual_seed(1)))
    theta = predictor.start(3)
    solution = shifted(theta, -step(slope, predictor, likelihood, batch, theta)[0])
    expected = torch.linalg.lstsq(with_ones(batch.x), batch.y).solution
    fitted = predictor(solution, batch.x)
    torch.testing.assert_close(fitted, with_ones(batch.x) @ expected, rtol=1e-6, atol=1e-6)


@given(seed=st.integers(0, 99), prior_count=st.floats(0.1, 100))
def test_one_step_from_nothing_is_the_ridge_of_the_prior(seed, prior_count):
    predictor, likelihood, slope = linear(4, prior_count=prior_count)
    batch = draw(likelihood, dtype=torch.float64, seed=seed)
    theta = predictor.start(3)
    moved, memory = step(slope, predictor, likelihood, batch, theta)
    for task in range(3):
        x = with_ones(batch.x[task])
        gradient = x.mT @ (x @ ravel(theta)[task] - batch.y[task, :, 0])
        strength = prior_count * memory.curvatures[task, 0] * x.square().mean()
        ridge = x.mT @ x + strength * torch.eye(4)
        torch.testing.assert_close(moved[task], torch.linalg.solve(ridge, gradient))


def test_later_steps_are_the_kalman_filters():
    # Where inputs are orthogonal, one probe of the curvature is exact; the prior's scale is that of
    # the mean square, which is the same in all three minibatches.
    predictor, likelihood, slope = linear(4, scale=0.5, prior_count=5.0)
    theta = start = predictor.start(1)
    memory, y_all, x_all = None, [], []
    generator = torch.Generator().manual_seed(2)
    for index, scales in enumerate([(1.0, 2.0, 3.0), (3.0, 1.0, 2.0), (2.0, 3.0, 1.0)]):
        x = (HADAMARD[:, 1:4] * torch.tensor(scales, dtype=torch.float64))[None]
        y = torch.randn(1, 8, 1, generator=generator, dtype=torch.float64)
        batch = Examples(x, y, torch.ones(1, 8, dtype=torch.bool))
        moved, memory = step(slope, predictor, likelihood, batch, theta, memory, 8.0 * index)
        torch.testing.assert_close(memory.curvatures, torch.full((1, 1), 4.0).double())
        theta = shifted(theta, -8 / (8 + 8 * index) * moved)  # by the annealed gain
        x_all.append(with_ones(x[0]))
        y_all.append(y[0, :, 0])
    x, y = torch.cat(x_all), torch.cat(y_all)
    prior = 5.0 * x.square().mean() * torch.eye(4, dtype=torch.float64)
    posterior = torch.linalg.solve(x.mT @ x + prior, x.mT @ y + prior @ ravel(start)[0])
    torch.testing.assert_close(ravel(theta)[0], posterior)


def classifier(num_products, kind):
    torch.manual_seed(0)
    predictor = Predictor(nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 3)).double())
    if kind == "white":
        return predictor, newton(predictor, num_products, 1e-12)
    return predictor, Newton(num_products).double()


@pytest.mark.parametrize(("kind", "same"), [("white", True), ("plain", False)])
def test_units_of_the_inputs_do_not_matter(kind, same):
    likelihood, factors = Categorical(3), torch.tensor([1.0, 30.0, 0.1], dtype=torch.float64)
    earlier = draw(likelihood, n=40, dtype=torch.float64, seed=1)
    batch, query = (draw(likelihood, dtype=torch.float64, seed=seed) for seed in (2, 3))
    answers = []
    for units in (torch.ones(3), factors):
        predictor, slope = classifier(2, kind)
        with torch.no_grad():
            predictor.module[0].weight.div_(units)
        theta, x = predictor.start(3), earlier.x * units
        if kind == "white":
            moments = slope.whitening.moments(theta, x, earlier.mask)
            memory = InputMemory(moments, torch.ones(3, 2, dtype=torch.float64))
        else:
            memory = torch.ones(3, dtype=torch.float64)
        near = batch._replace(x=batch.x * units)
        moved, _ = step(slope, predictor, likelihood, near, theta, memory, 40.0)
        answers.append(predictor(shifted(theta, -moved), query.x * units))
        assert (answers[-1] - predictor(theta, query.x * units)).abs().max() > 1e-3
    difference = (answers[0] - answers[1]).abs().max()
    assert difference < 1e-6 if same else difference > 1e-2


@given(cut=st.integers(0, 12), seed=st.integers(0, 99))
def test_moments_are_over_all_examples_however_they_are_cut(cut, seed):
    predictor, likelihood, slope = linear(1)
    whole = draw(likelihood, n=12, dtype=torch.float64, seed=seed)
    theta = predictor.start(3)
    _, expected = step(slope, predictor, likelihood, whole, theta)
    one, two = rows(whole, (slice(None), slice(cut))), rows(whole, (slice(None), slice(cut, None)))
    _, memory = step(slope, predictor, likelihood, one, theta)
    _, memory = step(
        slope, predictor, likelihood, two, shifted(theta, torch.ones(3, 4)), memory, float(cut)
    )
    torch.testing.assert_close(memory.moments[0], expected.moments[0])
    torch.testing.assert_close(expected.moments[0], with_ones(whole.x).mT @ with_ones(whole.x) / 12)

    _, again = step(slope, predictor, likelihood, two, theta, memory, 12.0, fresh=False)
    assert torch.equal(again.moments[0], memory.moments[0])


@given(seed=st.integers(0, 99), num_products=st.integers(1, 4))
def test_a_batch_of_tasks_is_its_tasks_one_at_a_time(seed, num_products):
    regime, batch = whitened(Gaussian(1, scale=0.5), num_products), draw_ragged(seed)
    regime = regime.double()
    state = regime.init(3)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(3, regime.predictor.size, generator=generator)
    state = state._replace(theta=shifted(state.theta, noise))
    both = [batch, draw_ragged(seed + 1)]

    def refined(part):
        theta = {name: value[part] for name, value in state.theta.items()}
        refined = type(state)(theta, regime.rule.start(theta), state.seen[part])
        for each in both:
            refined = regime.update(refined, regime.encode(rows(each, part)))
        return tree_leaves(refined)

    whole = refined(slice(None))
    for task in range(3):
        part = slice(task, task + 1)
        for one, other in zip(refined(part), whole, strict=True):
            torch.testing.assert_close(one, other[part], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e300])
def test_a_task_that_diverged_does_not_stop_the_others(bad):
    likelihood = Gaussian(1, scale=0.5)
    regime, batch = whitened(likelihood).double(), draw(likelihood, dtype=torch.float64)
    start = regime.init(3)
    theta = {name: value.detach().clone() for name, value in start.theta.items()}
    for value in theta.values():
        value[1] = bad
    state, expected = start._replace(theta=theta), start
    for _ in range(3):
        state = regime.update(state, regime.encode(batch))
        expected = regime.update(expected, regime.encode(batch))
    for one, other in zip(tree_leaves(state), tree_leaves(expected), strict=True):
        assert torch.equal(one[[0, 2]], other[[0, 2]])


def test_padding_of_nan_is_not_read():
    likelihood = Gaussian(1, scale=0.5)
    regime, batch = whitened(likelihood).double(), draw(likelihood, dtype=torch.float64)
    batch.mask[:, 4:] = False
    kept = rows(batch, (slice(None), slice(4)))
    batch.x[:, 4:] = batch.y[:, 4:] = torch.nan
    one, other = (read(regime, kept.x, part, part) for part in (batch, kept))
    for left, right in zip(tree_leaves(one), tree_leaves(other), strict=True):
        torch.testing.assert_close(left, right)


def test_gradients_flow_to_the_learned_numbers_alone():
    predictor, likelihood, slope = linear(3, prior_count=7.0)
    batch, theta = draw(likelihood, dtype=torch.float64), predictor.start(3)
    _, memory = step(slope, predictor, likelihood, batch, theta)
    assert not any(leaf.requires_grad for leaf in tree_leaves(memory))
    other = draw(likelihood, dtype=torch.float64, seed=1)

    def size(*values):
        for number, value in zip(slope.damped.parameters(), values, strict=True):
            number.data = value.detach()
        return step(slope, predictor, likelihood, other, theta, memory, 6.0)[0].square().sum()

    values = [number.detach().clone() for number in slope.damped.parameters()]
    names = list(slope.damped.parameters())
    inputs = [*names, *theta.values()]
    found = torch.autograd.grad(size(*values), inputs, allow_unused=True)
    assert all(gradient is None for gradient in found[3:])
    for index in range(3):
        near = [
            [value + sign * 1e-5 * (i == index) for i, value in enumerate(values)]
            for sign in (1, -1)
        ]
        slopes = (size(*near[0]) - size(*near[1])) / 2e-5
        assert slopes.abs() > 1e-6
        torch.testing.assert_close(found[index], slopes.detach(), rtol=1e-5, atol=1e-10)


def test_without_examples_nothing_changes():
    predictor, likelihood, slope = linear(3, prior_count=7.0)
    batch, theta = draw(likelihood, dtype=torch.float64), predictor.start(3)
    _, memory = step(slope, predictor, likelihood, batch, theta)
    hidden = batch._replace(mask=torch.zeros_like(batch.mask))
    for nothing in (hidden, rows(batch, (slice(None), slice(0)))):
        for before, seen in ((memory, 6.0), (slope.start(theta), 0.0)):
            moved, after = step(slope, predictor, likelihood, nothing, theta, before, seen)
            assert not moved.any()
            for one, other in zip(tree_leaves(before), tree_leaves(after), strict=True):
                assert torch.equal(one, other)


def test_autocast_does_not_reach_the_step():
    likelihood = Gaussian(1, scale=0.5)
    regime, batch = whitened(likelihood), draw(likelihood)
    slope, predictor = regime.rule.slope, regime.predictor
    theta, memory = predictor.start(3), None
    for seen in (0.0, 6.0):
        plain = step(slope, predictor, likelihood, batch, theta, memory, seen)
        with torch.autocast("cpu", torch.bfloat16):
            cast = step(slope, predictor, likelihood, batch, theta, memory, seen)
        for one, other in zip(tree_leaves(plain), tree_leaves(cast), strict=True):
            assert torch.equal(one, other)
        memory = plain[1]


@pytest.mark.parametrize("adapt", [None, ["0", "1"]])
def test_numbers_of_no_layer_take_part(adapt):
    likelihood = Gaussian(1, scale=0.5)
    body = [nn.Linear(X_DIM, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 1, bias=False)]
    predictor = Predictor(nn.Sequential(*body), adapt)
    learned = rule(predictor, likelihood, slope=WhitenedNewton(predictor, 4))
    regime, batch = Parametric(predictor, likelihood, learned), draw(likelihood)
    start = regime.init(3)
    moved = regime.update(start, regime.encode(batch)).theta
    assert (ravel(moved) != ravel(start.theta)).all()
    check_rule(learned, predictor, likelihood, batch)


def test_every_number_of_a_predictor_of_thousands_moves():
    torch.manual_seed(0)
    likelihood = Categorical(10)
    predictor = Predictor(nn.Sequential(nn.Linear(100, 64), nn.Tanh(), nn.Linear(64, 10)))
    options = {"signal": "gradient", "x_dim": 100, "chunk": 101}
    learned = rule(predictor, likelihood, slope=WhitenedNewton(predictor), **options)
    regime = Parametric(predictor, likelihood, learned)
    x, y = torch.randn(2, 30, 100), torch.arange(30).remainder(10).expand(2, 30)
    batch = Examples(x, y, torch.ones(2, 30, dtype=torch.bool))
    start = state = regime.init(2)
    losses = []
    for index in range(3):
        state = regime.update(state, regime.encode(batch), fresh=index == 0)
        losses.append(regime.loss(regime.predict(state, x), batch))
        moved = ravel(state.theta) != ravel(start.theta)
        assert moved.shape == (2, 7114) and moved.all()
        start = state
    assert (losses[2] < losses[0]).all() and (losses[0] < math.log(10)).all()


def test_errors():
    likelihood = Gaussian(1)
    decoder = Predictor(LatentDecoder(X_DIM, 5, 2), adapt=["latent"])
    with pytest.raises(ValueError, match=r"Whitening needs an adapted weight of an `nn\.Linear`"):
        WhitenedNewton(decoder)
    predictor = Predictor(nn.Linear(X_DIM, 2))
    other = rule(Predictor(nn.Linear(X_DIM, 1)), likelihood, slope=WhitenedNewton(predictor))
    with pytest.raises(ValueError, match=r"`predictor` must be the same for a `WhitenedNewton`"):
        other.start(Predictor(nn.Linear(X_DIM, 1)).start(3))
    with pytest.raises(ValueError, match=r"^`num_products` must be at least 1; got 0.$"):
        WhitenedNewton(predictor, 0)
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=rf"^`prior_count` must be above 0; got {bad}.$"):
            WhitenedNewton(predictor, 1, prior_count=bad)
    slope, batch = WhitenedNewton(predictor, 1), draw(likelihood)
    with torch.inference_mode(), pytest.raises(ValueError, match=r"torch.no_grad\(\)"):
        step(slope, predictor, likelihood, batch, predictor.start(3))
