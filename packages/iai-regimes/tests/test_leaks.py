"""A step leaves nothing to the garbage collector, but for what torch's vmap leaves."""

import gc

import pytest
import torch
from iai_regimes import (
    LBFGS,
    Gaussian,
    GradientDescent,
    Parametric,
    Predictor,
    Proximal,
    UntilConverged,
    predictor,
)
from regime_parts import RULES, X_DIM, draw, read
from torch import nn

LEFT = RULES | {
    "l-bfgs": LBFGS,
    "solved": lambda: UntilConverged(
        Proximal(GradientDescent(0.1), 0.5), tolerance=1e-9, max_steps=9
    ),
}


def collected(run):
    """Objects in cycles that a second run leaves."""
    run()
    gc.collect()
    gc.disable()
    try:
        run()
        return gc.collect()
    finally:
        gc.enable()


@pytest.mark.parametrize("num_tasks", [1, 3])
@pytest.mark.parametrize("rule", LEFT)
def test_a_step_leaves_nothing(rule, num_tasks, monkeypatch, own_errors):
    torch.manual_seed(0)
    likelihood = Gaussian(1, scale=1.0)
    body = nn.Sequential(nn.Linear(X_DIM, 3), nn.Tanh(), nn.Linear(3, 1))
    regime, batch = Parametric(Predictor(body), likelihood, LEFT[rule]()), draw(likelihood, 1)
    batch = type(batch)(*(field.expand(num_tasks, *field.shape[1:]) for field in batch))
    calls, vmap = [], predictor.vmap

    def counted(*arguments, **options):
        calls.append(None)
        return vmap(*arguments, **options)

    monkeypatch.setattr(predictor, "vmap", counted)

    def meta_step():
        calls.clear()
        state = read(regime, batch.x, batch, batch)
        regime.loss(regime.predict(state, batch.x), batch).sum().backward()

    left = collected(meta_step)
    of_vmap = collected(lambda: vmap(lambda named, x: x)({"w": batch.x}, batch.x))
    assert bool(calls) is (num_tasks > 1)
    assert left == of_vmap * len(calls)
