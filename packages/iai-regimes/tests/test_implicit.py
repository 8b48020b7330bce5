import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_regimes import Categorical, Gaussian
from regime_parts import PAPER, X_DIM, build, draw, implicit, read
from torch import nn


@given(seed=st.integers(0, 99), update=st.sampled_from(["annealed", "residual", "gated"]))
def test_probabilities_stay_probabilities(seed, update):
    likelihood = Categorical(3)
    regime = build(f"implicit-probabilities-{update}", likelihood, std=1.0, seed=seed)
    batch = draw(likelihood, seed=seed)
    state = regime.init(3, batch.x)
    for _ in range(4):
        state = regime.update(state, regime.encode(batch), batch.x)
        assert (state.answer >= 0).all()
        torch.testing.assert_close(state.answer.sum(-1), torch.ones(3, 6))
        log_probabilities = regime.predict(state, batch.x)
        torch.testing.assert_close(log_probabilities.softmax(-1), state.answer)


def test_probabilities_need_classes():
    with pytest.raises(ValueError, match="only for a categorical likelihood"):
        implicit(Gaussian(1), state="probabilities")


def test_the_papers_state_is_the_answer_alone():
    likelihood = Gaussian(1, scale=0.5)
    regime = build("paper-implicit", likelihood, std=0.3)
    batch = draw(likelihood)
    start = regime.init(3, batch.x)
    assert start.summary.numel() == 0
    one, other = (
        regime.update(start._replace(seen=torch.full((3,), seen)), regime.encode(batch), batch.x)
        for seen in (0.0, 100.0)
    )
    assert torch.equal(one.answer, other.answer) and not torch.equal(one.answer, start.answer)


def test_support_and_queries_of_one_size_share_a_map_that_is_stored_once():
    shared, split = implicit(Gaussian(1)), implicit(Gaussian(1), query_dim=2)
    assert not any("embed_query_input" in name for name in shared.state_dict())
    assert "embed_query_input.weight" in split.state_dict()


def test_evidence_is_kept_for_queries_that_come_later():
    likelihood = Gaussian(1, scale=0.5)
    regime = build("implicit-logits-annealed", likelihood, std=0.3)
    first, second, query = (draw(likelihood, seed=seed) for seed in range(3))
    evidence = [regime.encode(batch) for batch in (first, second)]
    state = regime.init(3, query.x)
    for piece in evidence:
        state = regime.update(state, piece, query.x)
    assert torch.equal(state.answer, read(regime, query.x, first, second).answer)


def test_the_latents_go_through_the_head():
    regime = implicit(Gaussian(2, scale=1.0), state="latents", **PAPER)
    nn.init.zeros_(regime.head.weight)
    x = torch.zeros(1, 1, X_DIM)
    assert torch.equal(regime.predict(regime.init(1, x), x)[0, 0], regime.head.bias)
