import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_regimes import Categorical, Gaussian, Unlabelled
from iai_regimes.example_embedding import ExampleEmbedding
from regime_parts import LIKELIHOODS, X_DIM, Examples, draw

DIM = 16


def embedding(likelihood, query_dim=None, *, x_dim=X_DIM, dim=DIM):
    torch.manual_seed(0)
    return ExampleEmbedding(likelihood, x_dim, query_dim, dim)


@given(name=st.sampled_from(sorted(LIKELIHOODS)), seed=st.integers(0, 99))
def test_an_example_is_its_question_and_its_target(name, seed):
    embed, batch = embedding(LIKELIHOODS[name]()), draw(LIKELIHOODS[name](), seed=seed)
    tokens, questions, mask = embed.examples(batch)
    assert torch.equal(questions, embed.questions(batch.x)) and torch.equal(mask, batch.mask)
    told = embed.target(embed.likelihood.features(batch.y).to(batch.x.dtype))
    torch.testing.assert_close(tokens - questions, told, rtol=1e-4, atol=1e-5)


def test_padding_is_a_token_without_nan_and_takes_no_gradient():
    embed, batch = embedding(Gaussian(1)), draw(Gaussian(1))
    batch.mask[0, 2:] = False
    batch.x[0, 2:], batch.y[0, 2:] = torch.nan, torch.inf
    tokens, questions, _ = embed.examples(batch)
    (tokens.square().sum() + questions.sum()).backward()
    assert tokens.isfinite().all()
    assert all(weight.grad.isfinite().all() for weight in embed.parameters())


def test_the_scale_at_the_start():
    """A question has about one for each number, whatever the inputs' size; a target half of it."""
    for x_dim in (4, 64):
        embed = embedding(Categorical(5), x_dim=x_dim, dim=256)
        x, y = torch.randn(2, 50, x_dim), torch.arange(100).remainder(5).view(2, 50)
        tokens, questions, _ = embed.examples(Examples(x, y, torch.ones(2, 50, dtype=torch.bool)))
        assert questions.std().item() == pytest.approx(1.0, rel=0.2)
        assert (tokens - questions).std().item() == pytest.approx(0.5, rel=0.2)


def test_queries_of_one_size_share_the_embedding_and_others_have_their_own():
    shared, split = embedding(Gaussian(1)), embedding(Gaussian(1), 2)
    assert shared.queries is shared.inputs and split.queries is not split.inputs
    assert split.questions(torch.zeros(3, 4, 2)).shape == (3, 4, DIM)


def test_without_targets_a_token_is_its_input():
    embed = embedding(Unlabelled(Gaussian(1)))
    assert embed.target is None
    tokens, questions, _ = embed.examples(draw(Gaussian(1))._replace(y=None))
    assert questions is None and tokens.shape == (3, 6, DIM)


def test_far_inputs_and_targets_are_finite():
    embed, batch = embedding(Gaussian(1)), draw(Gaussian(1))
    far = batch._replace(x=batch.x * 1e30, y=batch.y * 1e30)
    assert embed.examples(far).tokens.isfinite().all()


@pytest.mark.parametrize(("name", "sizes"), [("x_dim", (0, 1, 4)), ("dim", (3, 1, 0))])
def test_sizes_below_one(name, sizes):
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1; got 0"):
        ExampleEmbedding(Gaussian(1), *sizes)
