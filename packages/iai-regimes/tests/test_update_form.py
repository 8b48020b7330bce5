import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_regimes import Evidence, annealed_gain, count_features
from iai_regimes.evidence import masked_mean, running_mean
from iai_regimes.update_form import UPDATE_FORMS, move, num_proposals

COUNTS = st.lists(st.integers(0, 20), min_size=1, max_size=8)


@given(counts=COUNTS)
def test_annealed_moves_towards_each_minibatch_end_at_the_mean_of_all_examples(counts):
    values = torch.randn(len(counts), dtype=torch.float64)
    state, seen = torch.zeros(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for value, count in zip(values, torch.tensor(counts, dtype=torch.float64), strict=True):
        gain = annealed_gain(seen, count[None])
        assert 0 <= gain <= 1
        state = move("annealed", state, (value - state,), gain)
        seen = seen + count
    expected = (values * torch.tensor(counts)).sum() / max(sum(counts), 1)
    torch.testing.assert_close(state[0, 0], expected)


@given(seen=st.integers(0, 10**9), count=st.integers(0, 10**6))
def test_count_features_are_bounded(seen, count):
    features = count_features(torch.tensor([float(seen)]), torch.tensor([float(count)]))
    assert ((features >= 0) & (features <= 1)).all()


def test_the_forms_by_hand():
    state, gain = torch.tensor([[2.0], [2.0]], requires_grad=True), torch.tensor([0.5, 0.0])
    delta, gate = torch.tensor([[4.0], [4.0]]), torch.tensor([[-2.0], [-2.0]])  # half is kept
    assert move("annealed", state, (delta,), gain).tolist() == [[4.0], [2.0]]
    assert move("residual", state, (delta,), gain).tolist() == [[6.0], [2.0]]
    gated = move("gated", state, (delta, gate), gain)
    assert gated.tolist() == [[3.0], [2.0]]
    (gradient,) = torch.autograd.grad(gated.sum(), state)
    assert gradient.tolist() == [[0.0], [1.0]]  # stopped where the state moved


@pytest.mark.parametrize("form", UPDATE_FORMS)
def test_a_gain_of_zero_keeps_the_state_bit_for_bit_whatever_is_proposed(form):
    state = torch.tensor([[-0.0, 1e-30, 3.0]])
    proposal = tuple(torch.full((1, 3), torch.inf) for _ in range(num_proposals(form)))
    kept = move(form, state, proposal, torch.zeros(1))
    assert torch.equal(kept.view(torch.int32), state.view(torch.int32))


def test_a_masked_mean_does_not_see_what_is_masked():
    values = torch.tensor([[[1.0], [torch.nan]], [[torch.inf], [torch.nan]]])
    mask = torch.tensor([[True, False], [False, False]])
    assert masked_mean(values, mask).tolist() == [[1.0], [0.0]]


def test_a_summary_takes_a_minibatch_once():
    summary, statistic, two = torch.ones(1, 3), torch.full((1, 3), 4.0), torch.tensor([2.0])
    evidence = Evidence((), 2 * two, two, True)
    assert running_mean(summary, statistic, evidence).tolist() == [[3.0] * 3]
    assert running_mean(summary, statistic, evidence._replace(fresh=False)) is summary
