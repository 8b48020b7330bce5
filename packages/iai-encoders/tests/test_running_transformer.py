import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_encoders import DeepSet, MemoryTransformer, RunningTransformer, SetTransformer
from iai_encoders.testing import check_running_encoder
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._pytree import tree_leaves

DIM = 8


def build(num_layers=1, num_latents=0, *, beneath=False, **choices):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        memory = MemoryTransformer(DIM, 1, num_heads=2, ff_dim=6) if beneath else None
        encoder = SetTransformer(DIM, num_layers, num_heads=2, ff_dim=12)
        choices |= {"num_latents": num_latents, "memory": memory}
        return RunningTransformer(encoder, **choices).double()


def randn(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, DIM, generator=generator, dtype=torch.float64)


def run(encoder, queries, minibatches):
    """Answers and state after minibatches, each tokens and a mask."""
    state = encoder.start(*queries.shape[:2])
    for tokens, mask in minibatches:
        answers, state = encoder.read(queries, encoder.encode(tokens, mask=mask), state)
    return answers, state


def at_once(encoder, tokens, queries, mask=None):
    """The answers of the layers to the whole set, tokens and queries having their products."""
    tokens, queries = encoder.products(tokens), encoder.products(queries)
    return encoder.encoder.read(queries, encoder.encoder.encode(tokens, mask=mask))


@pytest.mark.parametrize("beneath", [False, True])
@pytest.mark.parametrize("num_latents", [0, 3])
def test_contract(num_latents, beneath):
    check_running_encoder(build(2, num_latents, beneath=beneath), DIM)
    check_running_encoder(build(2, num_latents, beneath=beneath, sharpen=True), DIM)


@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.integers(0, 5), min_size=1, max_size=4),
)
def test_one_layer_is_attention_over_the_whole_set(seed, sizes):
    encoder, tokens = build(), randn(seed, 3, sum(sizes))
    queries, mask = randn(seed + 1, 3, 4), randn(seed + 2, 3, sum(sizes))[..., 0] < 0.5
    padded = tokens.where(mask[..., None], torch.nan)
    cut = zip(padded.split(sizes, 1), mask.split(sizes, 1), strict=True)
    answers, state = run(encoder, queries, cut)
    expected = at_once(encoder, tokens, queries, mask)
    torch.testing.assert_close(answers, expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(state.seen, mask.sum(1).double())


def test_has_the_weights_of_a_set_transformer():
    trained, encoder = SetTransformer(DIM, num_layers=2, num_heads=2, ff_dim=12), build(2)
    encoder.encoder.load_state_dict(trained.state_dict())
    names = {f"encoder.{name}" for name in trained.state_dict()}
    own = {"embed_count.weight"}
    own |= {f"products.{name}" for name in encoder.products.state_dict()}
    assert set(encoder.state_dict()) == names | own


def test_parts_that_would_do_nothing_are_refused():
    with pytest.raises(ValueError, match="no token would see the latents"):
        build(1, num_latents=2)
    alone = SetTransformer(DIM, 2, num_heads=2, self_attention=False)
    with pytest.raises(ValueError, match="no token would see the latents"):
        RunningTransformer(alone, num_latents=2)
    with pytest.raises(TypeError, match="LowerMemory"):
        RunningTransformer(alone, memory=DeepSet(DIM))


def test_latents_carry_what_was_read_into_the_next_minibatch():
    first, second, queries = randn(0, 2, 4), randn(1, 2, 4), randn(2, 2, 3)
    deep = build(2, num_latents=2)
    _, state = run(deep, queries, [(first, None), (second, None)])
    alone = state._replace(summary=0 * state.summary)
    forgot, _ = deep.read(queries, deep.encode(first), alone)
    told, _ = deep.read(queries, deep.encode(first), state)
    assert (forgot - told).abs().max() > 1e-3


def test_sharpness_multiplies_scores_by_the_logarithm_of_the_number_of_tokens():
    encoder, tokens, queries = build(sharpen=True), randn(0, 2, 7), randn(1, 2, 3)
    sharper = build()
    encoder.sharpness.data.fill_(0.7)
    (block,) = sharper.encoder.blocks
    for parameter in block.query.parameters():
        parameter.data *= 1 + 0.7 * math.log(8) / 4
    answers, _ = run(encoder, queries, [(tokens, None)])
    expected = at_once(sharper, tokens, queries)
    torch.testing.assert_close(answers, expected, rtol=1e-11, atol=1e-11)


def test_what_attention_finds_is_added_to_the_answer_of_the_memory_beneath():
    encoder, tokens, queries = build(2, beneath=True), randn(0, 2, 5), randn(1, 2, 3)
    nn.init.zeros_(encoder.encoder.norm.weight)
    answers, state = run(encoder, queries, [(tokens, None)])
    beneath = encoder.memory
    expected = beneath.read(queries, beneath.extend(beneath.empty(2), tokens))
    torch.testing.assert_close(answers, expected)
    torch.testing.assert_close(state.memory, beneath.extend(beneath.empty(2), tokens))
    encoder.encoder.norm.bias.data.fill_(1.0)
    encoder.rate.data.fill_(3.0)
    rate = math.log1p(math.exp(3.0))
    answers, _ = run(encoder, queries, [(tokens, None)])
    torch.testing.assert_close(answers, expected + 6**-rate)


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_huge_scores_do_not_overflow(scale):
    encoder, tokens, queries = build(2, num_latents=2).float(), randn(0, 2, 6), randn(1, 2, 3)
    for block in encoder.encoder.blocks:
        block.query.weight.data *= scale  # scores of about 1e4, or of below -1e4
    tokens, queries = tokens.float().requires_grad_(), queries.float()
    answers, state = run(encoder, queries, [(tokens[:, :2], None), (tokens[:, 2:], None)])
    assert state.found[0].log_normaliser.abs().max() > 5e3
    (gradient,) = torch.autograd.grad(answers.square().sum(), tokens)
    assert all(leaf.isfinite().all() for leaf in (answers, gradient, *tree_leaves(state)))


def test_a_hundred_thousand_tokens_leave_the_state_flat_and_exact():
    encoder, tokens, queries = build().float(), randn(0, 1, 100_000).float(), randn(1, 1, 4)
    queries = queries.float()
    with torch.no_grad():
        answers, state = run(encoder, queries, [(m, None) for m in tokens.split(1_000, 1)])
        torch.testing.assert_close(answers, at_once(encoder, tokens, queries))
    sizes = [[leaf.shape for leaf in tree_leaves(s)] for s in (state, encoder.start(1, 4))]
    assert sizes[0] == sizes[1]
    assert state.seen.item() == 100_000


@pytest.mark.parametrize(("num_latents", "beneath"), [(0, False), (2, True)])
def test_derivatives_are_those_of_finite_differences(num_latents, beneath):
    encoder = build(2, num_latents, beneath=beneath)
    mask = torch.tensor([[True, True, False], [False, False, False]])

    def answers(tokens, queries):
        return run(encoder, queries, [(tokens, mask), (tokens.flip(1), None)])[0]

    inputs = [randn(0, 2, 3).requires_grad_(), randn(1, 2, 2).requires_grad_()]
    assert gradcheck(answers, inputs, fast_mode=True)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert gradgradcheck(answers, inputs, fast_mode=True)
