import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_encoders import DeepSet
from iai_encoders.testing import check_memory_encoder, check_set_encoder
from torch import nn

DIM = 4


def build(seed=0, num_layers=2):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return DeepSet(DIM, hidden_dim=6, num_layers=num_layers).double()


def test_contract():
    for num_layers in (1, 3):
        check_set_encoder(build(num_layers=num_layers), DIM)
        check_memory_encoder(build(num_layers=num_layers), DIM)


@given(seed=st.integers(0, 2**32), sizes=st.lists(st.integers(0, 5), min_size=1, max_size=4))
def test_a_set_in_minibatches_has_the_memory_of_the_whole(seed, sizes):
    encoder, n = build(seed), sum(sizes)
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(2, n, DIM, generator=generator, dtype=torch.float64)
    mask = torch.rand(2, n, generator=generator) < 0.7
    memory = encoder.empty(2)
    for piece, shown in zip(tokens.split(sizes, 1), mask.split(sizes, 1), strict=True):
        memory = encoder.extend(memory, piece, mask=shown)
    whole = encoder.encode(tokens, mask=mask)
    torch.testing.assert_close(memory, whole, rtol=1e-12, atol=1e-12)


@given(seed=st.integers(0, 2**32), num_layers=st.integers(1, 3), n=st.integers(0, 5))
def test_agrees_with_one_token_and_one_query_at_a_time(seed, num_layers, n):
    encoder = build(seed, num_layers)
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(2, n, DIM, generator=generator, dtype=torch.float64)
    queries = torch.randn(2, 3, DIM, generator=generator, dtype=torch.float64)
    mask = torch.rand(2, n, generator=generator) < 0.7
    memory = encoder.encode(tokens.where(mask[..., None], torch.nan), mask=mask)
    answers = encoder.read(queries, memory)
    for task in range(2):
        mean = torch.zeros(6, dtype=torch.float64)
        for token in tokens[task, mask[task]]:
            h = encoder.embed_token(token)
            for layer in encoder.token_layers:
                h = layer(nn.functional.gelu(h))
            mean += h / mask[task].sum()
        torch.testing.assert_close(memory.mean[task], mean)
        joint = torch.cat([encoder.embed_query.weight, encoder.embed_mean.weight], 1)
        for query, answer in zip(queries[task], answers[task], strict=True):
            h = joint @ torch.cat([query, mean]) + encoder.embed_query.bias
            for layer in [*encoder.query_layers, encoder.answer]:
                h = layer(nn.functional.gelu(h))
            torch.testing.assert_close(answer, h)


def test_a_set_twice_over_has_the_same_memory():
    encoder = build()
    tokens = torch.randn(2, 3, DIM, generator=torch.Generator().manual_seed(0)).double()
    once, twice = encoder.encode(tokens), encoder.encode(torch.cat([tokens, tokens], 1))
    torch.testing.assert_close(once.mean, twice.mean)


def test_the_memory_of_no_tokens_is_zero_and_of_one_size():
    memory = build().encode(torch.zeros(3, 0, DIM, dtype=torch.float64))
    assert torch.equal(memory.mean, torch.zeros(3, 6, dtype=torch.float64))
    assert memory.num_elements == 6
