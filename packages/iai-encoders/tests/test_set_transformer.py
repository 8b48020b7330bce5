import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_encoders import SetTransformer
from iai_encoders.testing import check_set_encoder
from torch import nn

DIM = 8


def build(seed=0, num_layers=2, num_heads=2):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SetTransformer(DIM, num_layers, num_heads, ff_dim=12).double()


def draw(seed, num_tasks, n, m):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(num_tasks, n, DIM, generator=generator, dtype=torch.float64)
    queries = torch.randn(num_tasks, m, DIM, generator=generator, dtype=torch.float64)
    mask = torch.rand(num_tasks, n, generator=generator) < 0.7
    return tokens, queries, mask


def library_encoder(encoder):
    """PyTorch's own Transformer with the same weights."""
    first = encoder.blocks[0]
    layer = nn.TransformerEncoderLayer(
        encoder.dim,
        first.num_heads,
        first.finish.ff_in.out_features,
        dropout=0.0,
        activation="gelu",
        batch_first=True,
        norm_first=True,
        dtype=torch.float64,
    )
    library = nn.TransformerEncoder(
        layer, len(encoder.blocks), nn.LayerNorm(encoder.dim).double(), enable_nested_tensor=False
    )
    for ours, theirs in zip(encoder.blocks, library.layers, strict=True):
        attention = theirs.self_attn
        pairs = [
            (ours.attention_norm, theirs.norm1),
            (ours.finish.out, attention.out_proj),
            (ours.finish.ff_norm, theirs.norm2),
            (ours.finish.ff_in, theirs.linear1),
            (ours.finish.ff_out, theirs.linear2),
        ]
        for source, target in pairs:
            target.load_state_dict(source.state_dict())
        with torch.no_grad():
            attention.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
            attention.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
    library.norm.load_state_dict(encoder.norm.state_dict())
    return library


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_contract(num_layers):
    check_set_encoder(build(num_layers=num_layers), DIM)


def test_without_self_attention_a_token_has_the_same_keys_in_any_company():
    encoder = SetTransformer(DIM, num_layers=2, num_heads=2, self_attention=False).double()
    check_set_encoder(encoder, DIM)
    tokens, _, _ = draw(0, num_tasks=2, n=5, m=1)
    whole, some = encoder.encode(tokens), encoder.encode(tokens[:, 2:])
    for layer in range(2):
        torch.testing.assert_close(whole.keys[layer][:, :, 2:], some.keys[layer])


@given(
    seed=st.integers(0, 2**32),
    num_layers=st.integers(1, 3),
    num_heads=st.sampled_from([1, 2, 4]),
    n=st.integers(0, 6),
)
def test_agrees_with_the_library_that_reads_one_query_at_a_time(seed, num_layers, num_heads, n):
    encoder = build(seed, num_layers, num_heads)
    tokens, queries, mask = draw(seed, num_tasks=2, n=n, m=3)
    answers = encoder.read(queries, encoder.encode(tokens, mask=mask))
    library = library_encoder(encoder)
    for task in range(2):
        observed = tokens[task, mask[task]]
        to_query = torch.zeros(len(observed) + 1, len(observed) + 1, dtype=torch.bool)
        to_query[:-1, -1] = True  # no token of the set sees the query
        for query, answer in zip(queries[task], answers[task], strict=True):
            joined = torch.cat([observed, query[None]])[None]
            expected = library(joined, mask=to_query)[0, -1]
            torch.testing.assert_close(answer, expected, rtol=1e-11, atol=1e-11)


@given(seed=st.integers(0, 2**32), n=st.integers(1, 8), m=st.integers(1, 20))
def test_order_and_padding_change_nothing(seed, n, m):
    encoder = build(seed)
    tokens, queries, mask = draw(seed, num_tasks=3, n=n, m=m)
    answers = encoder.read(queries, encoder.encode(tokens, mask=mask))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    padding = torch.full((3, 2, DIM), torch.nan, dtype=torch.float64)
    padded = torch.cat([padding, tokens[:, order].where(mask[:, order, None], torch.inf)], 1)
    hidden = torch.zeros(3, 2, dtype=torch.bool)
    memory = encoder.encode(padded, mask=torch.cat([hidden, mask[:, order]], 1))
    torch.testing.assert_close(encoder.read(queries, memory), answers, rtol=1e-11, atol=1e-11)


def test_an_empty_memory_leaves_the_query_to_itself():
    encoder = build()
    tokens, queries, _ = draw(0, num_tasks=2, n=3, m=4)
    alone = library_encoder(encoder)(queries.flatten(0, 1)[:, None]).view_as(queries)
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    for memory in (encoder.encode(tokens[:, :0]), encoder.encode(tokens, mask=nothing)):
        torch.testing.assert_close(encoder.read(queries, memory), alone, rtol=1e-11, atol=1e-11)


def test_the_memory_counts_keys_and_values_a_task():
    encoder = build(num_layers=3)
    memory = encoder.encode(torch.zeros(7, 5, DIM, dtype=torch.float64))
    assert memory.num_elements == 2 * 3 * 5 * DIM
    assert sum(leaf.numel() for leaf in memory.keys + memory.values) == 7 * memory.num_elements
    assert encoder.encode(torch.zeros(7, 0, DIM, dtype=torch.float64)).num_elements == 0
