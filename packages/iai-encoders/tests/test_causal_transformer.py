import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_encoders import CausalTransformer
from iai_encoders.testing import check_sequence_encoder
from torch.nn.functional import gelu

DIM = 8


def build(seed=0, num_layers=2, num_heads=2):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CausalTransformer(DIM, num_layers, num_heads, ff_dim=12).double()


def draw(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, DIM, generator=generator, dtype=torch.float64)


def turn(x, position):
    """Rotary positions as multiplication by complex numbers of length 1."""
    half = len(x) // 2
    frequencies = 10_000 ** (-torch.arange(half, dtype=torch.float64) / half)
    turned = torch.complex(x[:half], x[half:]) * torch.exp(1j * position * frequencies)
    return torch.cat([turned.real, turned.imag])


def token_by_token(encoder, sequence):
    """The outputs of one task's sequence of observed tokens, by loops over tokens and heads."""
    xs = list(sequence)
    for block in encoder.blocks:
        normed = [block.attention_norm(x) for x in xs]
        attended = []
        for i in range(len(xs)):
            query = block.query(normed[i]).chunk(block.num_heads)
            heads = []
            for head in range(block.num_heads):
                scores, values = [], []
                for j in range(i + 1):
                    key, value = block.key_value(normed[j]).chunk(2)
                    key = turn(key.chunk(block.num_heads)[head], j)
                    scores.append(turn(query[head], i) @ key / len(key) ** 0.5)
                    values.append(value.chunk(block.num_heads)[head])
                heads.append(torch.stack(scores).softmax(0) @ torch.stack(values))
            attended.append(torch.cat(heads))
        xs = [x + block.finish.out(a) for x, a in zip(xs, attended, strict=True)]
        xs = [
            x + block.finish.ff_out(gelu(block.finish.ff_in(block.finish.ff_norm(x)))) for x in xs
        ]
    return torch.stack([encoder.norm(x) for x in xs])


@pytest.mark.parametrize("num_layers", [1, 3])
def test_contract(num_layers):
    check_sequence_encoder(build(num_layers=num_layers), DIM)


@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_agrees_with_loops_over_tokens(num_heads):
    encoder = build(num_heads=num_heads)
    tokens, queries = draw(0, 2, 5), draw(1, 2, 12)
    outputs, memory = encoder.scan(encoder.empty(2), tokens)
    answers = encoder.read(queries, memory)
    for task in range(2):
        expected = token_by_token(encoder, tokens[task])
        torch.testing.assert_close(outputs[task], expected, rtol=1e-11, atol=1e-11)
        for query in (0, 11):
            sequence = torch.cat([tokens[task], queries[task, query, None]])
            expected = token_by_token(encoder, sequence)[-1]
            torch.testing.assert_close(answers[task, query], expected, rtol=1e-11, atol=1e-11)


@given(seed=st.integers(0, 2**32), data=st.data())
def test_pieces_and_padding_change_nothing(seed, data):
    encoder = build(seed)
    lengths = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=4), label="lengths")
    pieces = [draw(seed + i, 3, length) for i, length in enumerate(lengths)]
    generator = torch.Generator().manual_seed(seed)
    masks = [torch.rand(3, length, generator=generator) < 0.7 for length in lengths]
    memory, outputs = encoder.empty(3), []
    for piece, mask in zip(pieces, masks, strict=True):
        padded = piece.where(mask[..., None], torch.nan)
        output, memory = encoder.scan(memory, padded, mask=mask)
        outputs.append(output)
    tokens, mask, output = torch.cat(pieces, 1), torch.cat(masks, 1), torch.cat(outputs, 1)
    queries = draw(seed, 3, 2)
    answers = encoder.read(queries, memory)
    for task in range(3):
        observed = tokens[task, mask[task]][None]
        expected, alone = encoder.scan(encoder.empty(1), observed)
        torch.testing.assert_close(output[task, mask[task]], expected[0], rtol=0, atol=1e-10)
        expected = encoder.read(queries[task, None], alone)
        torch.testing.assert_close(answers[task], expected[0], rtol=0, atol=1e-10)


def test_order_matters():
    encoder, tokens = build(), draw(0, 1, 4)
    forward, _ = encoder.scan(encoder.empty(1), tokens)
    backward, _ = encoder.scan(encoder.empty(1), tokens[:, [1, 0, 2, 3]])
    assert (forward[:, -1] - backward[:, -1]).abs().max() > 1e-3


def test_the_empty_memory_has_the_dtype_of_the_parameters():
    memory = CausalTransformer(DIM, 1, 2).bfloat16().empty(3)
    assert memory.keys[0].dtype == torch.bfloat16
    assert memory.num_elements == 0


def test_the_memory_counts_keys_and_values_a_task():
    encoder = build(num_layers=3)
    _, memory = encoder.scan(encoder.empty(7), draw(0, 7, 4))
    _, memory = encoder.scan(memory, draw(1, 7, 1))
    assert memory.num_elements == 2 * 3 * 5 * DIM
    assert sum(leaf.numel() for leaf in memory.keys + memory.values) == 7 * memory.num_elements
