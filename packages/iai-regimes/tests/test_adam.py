import re

import pytest
import torch
from iai_regimes import Adam, Gaussian, Parametric, Predictor
from iai_regimes.ravel import ravel
from regime_parts import X_DIM, draw
from torch import nn


def test_each_task_is_torchs_adam():
    likelihood = Gaussian(1, scale=0.5)
    module = nn.Linear(X_DIM, 1).double()
    regime = Parametric(Predictor(module), likelihood, Adam(0.1, betas=(0.8, 0.9)))
    batches = [draw(likelihood, dtype=torch.float64, seed=seed) for seed in range(4)]
    batches[2].mask[1] = False
    state = regime.init(3)
    for batch in batches:
        state = regime.update(state, regime.encode(batch))
    for task in range(3):
        own = nn.Linear(X_DIM, 1).double()
        own.load_state_dict(module.state_dict())
        optimizer = torch.optim.Adam(own.parameters(), lr=0.1, betas=(0.8, 0.9))
        for batch in batches:
            if not batch.mask[task].any():
                continue
            loss = likelihood.negative_log(own(batch.x[task])[None], batch.y[task][None]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for name, expected in own.named_parameters():
            torch.testing.assert_close(state.theta[name][task], expected)


def test_outer_gradients_flow_where_the_gradient_is_zero():
    """A dead unit has a square of 0, at which a root has no derivative."""
    likelihood = Gaussian(1, scale=0.5)
    module = nn.Sequential(nn.Linear(X_DIM, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        module[0].bias.copy_(torch.tensor([-100.0, 100.0]))
    batch = draw(likelihood, dtype=torch.float64)
    losses = {}
    for differentiate in (True, False):
        rule = Adam(0.1, differentiate_gradient=differentiate)
        regime = Parametric(Predictor(module), likelihood, rule)
        state = regime.init(3)
        for _ in range(3):
            state = regime.update(state, regime.encode(batch))
        square = ravel(state.carry.square)
        assert (square == 0).any() and (square > 0).any()
        losses[differentiate] = regime.loss(regime.predict(state, batch.x), batch).sum()
        gradients = torch.autograd.grad(losses[differentiate], list(module.parameters()))
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert state.carry.mean["0.bias"].requires_grad == differentiate
    assert torch.equal(losses[True], losses[False])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "`learning_rate` must be above 0; got 0.0."),
        ({"betas": (0.9, 1.0)}, "`betas` must lie in 0..1, below 1; got (0.9, 1.0)."),
        ({"epsilon": 0.0}, "`epsilon` must be above 0; got 0.0."),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Adam(**{"learning_rate": 0.1} | options)
