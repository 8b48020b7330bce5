"""Velocity fields of a network for each task."""

from dataclasses import dataclass

import pytest
import torch
from iai_regimes import Adam, Gaussian, Parametric, Predictor, fit_flow
from torch import Tensor, nn

COUNTS = {"num_steps": 20, "num_points": 5}


@dataclass(frozen=True, eq=False)
class Examples:
    x: Tensor
    mask: Tensor
    y: Tensor | None = None

    def __getitem__(self, key):
        return Examples(self.x[key], self.mask[key])


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.GELU(), nn.Linear(8, 1))


def samples(num_tasks=3):
    """Task k has samples near k."""
    x = torch.randn(num_tasks, 7, 1, generator=torch.Generator().manual_seed(1)) / 10
    x = x + torch.arange(float(num_tasks))[:, None, None]
    return Examples(x, torch.ones(x.shape[:2], dtype=torch.bool))


def path(some, generator):
    """From 0 to each sample, straight."""
    t = torch.rand(some.x.shape, generator=generator)
    return Examples(torch.cat([t * some.x, t], -1), some.mask, some.x)


def fitted(given=samples, path=path, **changes):
    options = {"learning_rate": 0.01, "generator": torch.Generator().manual_seed(2), **COUNTS}
    return fit_flow(network(), given(), path, **(options | changes))


def queries():
    return torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(3))


def test_is_the_parametric_regime_with_adam():
    likelihood = Gaussian(1, scale=0.5**0.5)  # a squared error, and a constant
    regime = Parametric(Predictor(network()), likelihood, Adam(0.01))
    state, generator = regime.init(3), torch.Generator().manual_seed(2)
    for _ in range(COUNTS["num_steps"]):
        index = torch.randint(7, (COUNTS["num_points"],), generator=generator)
        state = regime.update(state, regime.encode(path(samples()[:, index], generator)))
    torch.testing.assert_close(fitted()(queries()), regime.predict(state, queries()))


def test_finds_the_field_of_each_task():
    x = fitted(num_steps=500, learning_rate=0.02)(path(samples(), torch.Generator()).x)
    assert (x - samples().x).abs().max() < 0.2


def test_padding_changes_nothing():
    def padded(some, generator):
        points = path(some, generator)
        x, y = (torch.cat([of, of[:, :2] * torch.nan], 1) for of in (points.x, points.y))
        return Examples(x, torch.cat([points.mask, ~points.mask[:, :2]], 1), y)

    torch.testing.assert_close(fitted(path=padded)(queries()), fitted()(queries()))


def ragged(num_tasks=3):
    """The samples with eight times as much padding, of which some comes first; fewer of task 0."""
    given, order = (
        samples(num_tasks),
        torch.randperm(63, generator=torch.Generator().manual_seed(4)),
    )
    x = torch.cat([given.x, given.x.repeat(1, 8, 1) * torch.nan], 1)
    mask = (torch.arange(63) < torch.tensor([2, 7, 7])[:, None]) & x[..., 0].isfinite()
    return Examples(x[:, order], mask[:, order])


def test_draws_from_each_tasks_own_samples():
    drawn = []

    def recorded(some, generator):
        drawn.append(some)
        return path(some, generator)

    fitted(ragged, recorded, num_steps=40)
    assert all(some.mask.all() for some in drawn)
    known = torch.cat([some.x for some in drawn], 1)
    assert [len(task.unique()) for task in known] == [2, 7, 7]


def test_the_network_stays_as_it_is_and_the_field_has_no_gradient():
    given, before = network(), network()
    velocity = fit_flow(given, samples(), path, **COUNTS, generator=torch.Generator())
    for parameter, old in zip(given.parameters(), before.parameters(), strict=True):
        assert torch.equal(parameter, old) and parameter.grad is None
    assert not velocity(queries()).requires_grad


def test_says_what_is_wrong():
    for name in COUNTS:
        with pytest.raises(ValueError, match=f"`{name}` must be at least 1; got 0"):
            fitted(**{name: 0})
    with pytest.raises(
        ValueError, match="`samples` must hold at least one sample of each task; got none"
    ):
        fitted(lambda: samples()[:, :0])
    wide = nn.Linear(2, 3)
    with pytest.raises(
        ValueError, match=r"^`network` must give .*, \(3, 5, 1\); got \(3, 5, 3\)\.$"
    ):
        fit_flow(wide, samples(), path, **COUNTS, generator=torch.Generator())
