"""Prompts and rules that look up examples: what needs a Transformer of iai-encoders."""

import re
from typing import NamedTuple

import pytest
import torch
from iai_encoders import RunningTransformer, SetTransformer
from iai_regimes import (
    Adam,
    Categorical,
    Gaussian,
    LearnedRule,
    Parametric,
    Predictor,
    RunningAttention,
    SoftPrompt,
)
from torch import Tensor, nn

X_DIM = 3


class Examples(NamedTuple):
    x: Tensor
    y: Tensor
    mask: Tensor


def draw(likelihood, n=6):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, n, X_DIM, generator=generator, dtype=torch.float64)
    y = x[..., :2] if isinstance(likelihood, Gaussian) else x.argmax(-1)
    return Examples(x, y, torch.ones(3, n, dtype=torch.bool))


def read(regime, query_x, *batches):
    state = regime.init(len(query_x), query_x)
    for batch in batches:
        state = regime.update(state, regime.encode(batch), query_x)
    return state


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
    regime, batch = trained(likelihood), draw(likelihood)
    tokens, questions, _ = regime.embed.examples(batch)
    prompt = torch.stack([questions, tokens - questions], 2)
    state = regime.update(regime.init(3, batch.x), regime.encode(batch), batch.x)
    outputs = prompted(regime, tokens.shape[1])({"prompt": prompt}, batch.x)
    torch.testing.assert_close(outputs, regime.predict(state, batch.x))


def test_it_starts_with_each_class_in_turn():
    regime = trained(Categorical(3))
    torch.manual_seed(1)
    prompt = prompted(regime, 6).module.prompt.detach()
    torch.manual_seed(1)
    x = torch.randn(6, X_DIM).double()
    labels = regime.embed.target.weight.mT.repeat(2, 1)
    torch.testing.assert_close(prompt, torch.stack([regime.embed.inputs(x), labels], 1))


def test_the_prompt_alone_is_tuned_and_the_loss_falls():
    likelihood = Categorical(3)
    regime, batch = trained(likelihood), draw(likelihood, n=12)
    before = {name: value.clone() for name, value in regime.state_dict().items()}
    tuned = Parametric(prompted(regime.requires_grad_(False), 4), likelihood, Adam(0.1))
    state = read(tuned, batch.x, *[batch] * 20)
    first, last = (tuned.loss(tuned.predict(s, batch.x), batch) for s in (tuned.init(3), state))
    assert (last < first).all()
    assert list(state.theta) == ["prompt"]
    for name, value in regime.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_prompt_has_a_token():
    message = "`num_tokens` must be at least 1; got 0."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        prompted(trained(Categorical(3)), 0)


@pytest.mark.parametrize("seed", range(3))
def test_from_data_the_weights_of_a_class_first_look_up_its_examples(seed):
    """Other inputs of a class change its row of the weights most, before any training."""
    torch.manual_seed(seed)
    predictor, encoder = Predictor(nn.Linear(X_DIM, 3)), SetTransformer(64, 1, 4)
    options = {"x_dim": X_DIM, "signal": "data", "summary_dim": 0}
    learned = LearnedRule(predictor, Categorical(3), encoder, **options)
    nn.init.normal_(learned.head.weight)
    regime = Parametric(predictor, Categorical(3), learned)
    y = torch.arange(12).remainder(3)
    batch = Examples(torch.randn(1, 12, X_DIM), y[None], torch.ones(1, 12, dtype=torch.bool))
    weight, shares = read(regime, batch.x, batch).theta["weight"], torch.zeros(3, 3)
    for label in range(3):
        x = torch.where(y[:, None] == label, torch.randn(1, 12, X_DIM), batch.x)
        changed = read(regime, x, batch._replace(x=x)).theta["weight"]
        shares[label] = (changed - weight)[0].norm(dim=1)
    shares /= shares.sum(1, keepdim=True)
    assert shares.diagonal().mean() > 0.6
