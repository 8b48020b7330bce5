"""Learned regimes by name: what adapts, what is read, and which names there are."""

import pytest
import torch
from iai_regimes import (
    Explicit,
    ExplicitMemory,
    Implicit,
    LearnedClassifier,
    LearnedFlow,
    Newton,
    Parametric,
    RunningAttention,
    WhitenedNewton,
)
from regime_parts import DIM, Examples, MeanEncoder

CLASSIFIER = LearnedClassifier(x_dim=3, num_classes=4, hidden_dim=5, summary_dim=2)
NAMES = {
    "parametric linear, both": (Parametric, 4 * (3 + 1)),
    "parametric linear, data": (Parametric, 4 * (3 + 1)),
    "parametric mlp, gradient": (Parametric, 5 * (3 + 1) + 4 * (5 + 1)),
    "explicit, both": (Explicit, DIM),
    "explicit, data": (Explicit, DIM),
}


def answer(regime, examples, query_x):
    with torch.no_grad():
        state = regime.init(2, query_x)
        before = regime.predict(state, query_x)
        state = regime.update(state, regime.encode(examples), query_x, True)
        return before, regime.predict(state, query_x)


def classes(n=6):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, n, 3, generator=generator)
    y = torch.randint(4, (2, n), generator=generator)
    return Examples(x, y, torch.ones(2, n, dtype=torch.bool))


@pytest.mark.parametrize("name", NAMES)
def test_a_classifier_adapts_what_its_name_says(name):
    kind, size = NAMES[name]
    regime = CLASSIFIER.regime(name, MeanEncoder())
    assert type(regime) is kind
    assert regime.predictor.size == size
    assert regime.rule.summary_dim == (0 if name.endswith("gradient") else 2)
    slope = {"data": type(None)}.get(
        name.split(", ")[1], (WhitenedNewton, Newton)[kind is Explicit]
    )
    assert type(regime.rule.slope) is slope
    before, after = answer(regime, classes(), torch.randn(2, 5, 3))
    assert after.shape == (2, 5, 4)
    if kind is Parametric and not name.startswith("parametric mlp"):
        assert not before.any()  # even odds


def test_an_implicit_classifier_answers_too():
    regime = CLASSIFIER.regime("implicit", MeanEncoder())
    assert type(regime) is Implicit
    assert answer(regime, classes(), torch.randn(2, 5, 3))[1].shape == (2, 5, 4)


@pytest.mark.parametrize(
    "name", ["explicit", "parametric, both", "implicit, both", "explicit, all"]
)
@pytest.mark.usefixtures("own_errors")
def test_a_classifier_of_another_name_is_refused(name):
    with pytest.raises(ValueError, match=f"one of both, gradient, data; got '{name}'"):
        CLASSIFIER.regime(name, MeanEncoder())
    with pytest.raises(ValueError, match="`model` must be linear or mlp; got 'latent'"):
        CLASSIFIER.predictor("latent")


class MeanMemory(MeanEncoder):
    def empty(self, num_tasks):
        return torch.zeros(num_tasks, self.dim)

    def extend(self, memory, tokens, *, questions, mask):
        assert questions is None, "a sample has no target, so it is its own key and value"
        return memory + self.encode(tokens, mask=mask)


class RunningMean(MeanEncoder):
    def start(self, num_tasks, num_queries):
        return torch.zeros(num_tasks, self.dim)

    def encode(self, tokens, *, questions, mask):
        return super().encode(tokens, mask=mask)

    def read(self, queries, minibatch, state):
        state = state + minibatch
        return super().read(queries, state), state


FLOWS = {
    "implicit": (Implicit, MeanEncoder),
    "explicit": (Explicit, MeanEncoder),
    "explicit memory": (ExplicitMemory, MeanMemory),
    "running attention": (RunningAttention, RunningMean),
}


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_reads_samples_and_answers_with_velocities(name):
    kind, encoder = FLOWS[name]
    regime = LearnedFlow(dim=3, summary_dim=2, num_layers=1).regime(name, encoder())
    assert type(regime) is kind
    samples = classes()._replace(y=None)
    assert answer(regime, samples, torch.randn(2, 5, 4))[1].shape == (2, 5, 3)


@pytest.mark.usefixtures("own_errors")
def test_a_flow_of_another_name_or_with_an_encoder_of_another_role_is_refused():
    names = "running attention, explicit memory, implicit, explicit"
    with pytest.raises(ValueError, match=f"`name` must be one of {names}; got 'parametric'"):
        LearnedFlow().regime("parametric", MeanEncoder())
    for name in ("running attention", "explicit memory"):
        with pytest.raises(TypeError, match="`encoder`"):
            LearnedFlow().regime(name, MeanEncoder())
