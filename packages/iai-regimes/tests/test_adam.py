import re

import pytest
import torch
from iai_regimes import Adam, Gaussian, Parametric, Predictor
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
        expected = torch.cat([own.weight.flatten(), own.bias])
        torch.testing.assert_close(state.theta[task], expected)


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
