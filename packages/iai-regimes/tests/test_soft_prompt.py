"""A soft prompt, and the in-context learner that reads it."""

import re

import pytest
import torch
from iai_encoders import RunningTransformer, SetTransformer
from iai_regimes import (
    Adam,
    Categorical,
    Gaussian,
    Parametric,
    Predictor,
    RunningAttention,
    SoftPrompt,
)
from regime_parts import X_DIM, draw, read
from torch import nn


def trained(likelihood):
    """A regime with other weights than those at the start."""
    torch.manual_seed(0)
    encoder = RunningTransformer(SetTransformer(dim=8, num_layers=2, num_heads=2))
    regime = RunningAttention(encoder, likelihood, x_dim=X_DIM)
    nn.init.normal_(regime.head.weight)
    return regime.double()


def prompted(regime, num_tokens):
    model = SoftPrompt(regime.encoder, regime.embed, regime.head, num_tokens=num_tokens)
    return Predictor(model, adapt=["prompt"])


@pytest.mark.parametrize("likelihood", [Categorical(3), Gaussian(2, scale=0.5)])
def test_a_prompt_of_the_tokens_of_examples_answers_as_the_examples_do(likelihood):
    regime, batch = trained(likelihood), draw(likelihood, dtype=torch.float64)
    tokens = regime.embed.examples(batch).tokens
    state = regime.update(regime.init(3, batch.x), regime.encode(batch), batch.x)
    outputs = prompted(regime, tokens.shape[1])({"prompt": tokens}, batch.x)
    torch.testing.assert_close(outputs, regime.predict(state, batch.x))


def test_it_starts_with_each_class_in_turn():
    regime = trained(Categorical(3))
    torch.manual_seed(1)
    prompt = prompted(regime, 6).module.prompt.detach()
    torch.manual_seed(1)
    x = torch.randn(6, X_DIM).double()
    labels = regime.embed.target.weight.mT.repeat(2, 1)
    torch.testing.assert_close(prompt, regime.embed.inputs(x) + labels)


def test_the_prompt_alone_is_tuned_and_the_loss_falls():
    likelihood = Categorical(3)
    regime, batch = trained(likelihood), draw(likelihood, n=12, dtype=torch.float64)
    before = {name: value.clone() for name, value in regime.state_dict().items()}
    tuned = Parametric(prompted(regime.requires_grad_(False), 4), likelihood, Adam(0.1))
    state = read(tuned, batch.x, *[batch] * 20)
    first, last = (tuned.loss(tuned.predict(s, batch.x), batch) for s in (tuned.init(3), state))
    assert (last < first).all()
    assert list(state.theta) == ["prompt"]
    for name, value in regime.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.usefixtures("own_errors")
def test_a_prompt_has_a_token():
    message = "`num_tokens` must be at least 1; got 0."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        prompted(trained(Categorical(3)), 0)
