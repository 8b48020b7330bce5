import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_encoders import LinearAttention, MemoryTransformer, Ridge
from iai_encoders.testing import check_memory_encoder
from torch.utils._pytree import tree_leaves

DIM, INPUTS = 8, 3


def build(num_layers=2, key_dim=3, **choices):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = MemoryTransformer(
            DIM, num_layers, num_heads=2, ff_dim=12, key_dim=key_dim, **choices
        )
        return encoder.double()


def randn(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def extend(encoder, tokens, questions, mask, sizes):
    memory = encoder.empty(len(tokens))
    pieces = (leaf.split(sizes, 1) for leaf in (tokens, questions, mask))
    for token, question, shown in zip(*pieces, strict=True):
        memory = encoder.extend(memory, token, questions=question, mask=shown)
        yield memory


@pytest.mark.parametrize(
    ("num_layers", "association"),
    [(1, Ridge), (2, Ridge), (2, LinearAttention), (2, [LinearAttention, Ridge])],
)
def test_contract(num_layers, association):
    check_memory_encoder(build(num_layers, association=association), DIM)
    check_memory_encoder(build(num_layers, association=association, products=False), DIM)
    check_memory_encoder(build(num_layers, association=association, features=5), DIM)


@pytest.mark.parametrize("association", [Ridge, LinearAttention])
@given(seed=st.integers(0, 2**32), sizes=st.lists(st.integers(0, 4), min_size=1, max_size=4))
def test_the_first_layer_depends_on_neither_cut_nor_order(association, seed, sizes):
    encoder, n = build(association=association), sum(sizes)
    tokens, questions = randn(seed, 2, 3, n, DIM)
    mask = randn(seed + 1, 3, n) < 0.5
    *_, memory = extend(encoder, tokens, questions, mask, sizes)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    shuffled = (leaf[:, order] for leaf in (tokens, questions, mask))
    (whole,) = extend(encoder, *shuffled, [n])
    torch.testing.assert_close(memory.layers[0], whole.layers[0], rtol=1e-11, atol=1e-11)
    assert torch.equal(memory.seen, mask.sum(1).double())


def test_a_token_without_a_question_has_the_output_of_a_query():
    encoder, tokens = build(), randn(0, 2, 5, DIM)
    outputs, _, memory = encoder.pass_through(encoder.empty(2), tokens, tokens[:, :0])
    torch.testing.assert_close(outputs, encoder.read(tokens, memory), rtol=1e-11, atol=1e-11)


def linear_regression(key_dim, noise_variance):
    """One layer on questions [x, 1, 0] and tokens [x, 1, 0, y]: the regression alone answers y."""
    encoder = build(num_layers=1, key_dim=key_dim, products=False)
    regression = encoder.regression
    parts = encoder.norm, encoder.recalled, encoder.layers, regression
    for parameter in (parameter for part in parts for parameter in part.parameters()):
        torch.nn.init.zeros_(parameter)
    basis = torch.linalg.qr(randn(0, INPUTS + 1, INPUTS + 1)).Q[:key_dim]
    regression.key.weight.data[:, : INPUTS + 1] = basis  # orthonormal rows
    regression.association.log_lambda.data += torch.tensor(noise_variance).log()
    return encoder, basis


def draw_regression(seed, n, noise_variance):
    x, weights = randn(seed, 2, n, INPUTS), randn(seed + 1, 2, INPUTS + 1, 1)
    x = torch.cat([x, torch.ones(2, n, 1)], 2)  # the last weight is the bias
    y = x @ weights + noise_variance**0.5 * randn(seed + 2, 2, n, 1)
    questions = torch.nn.functional.pad(x, (0, DIM - INPUTS - 1))
    tokens = questions.clone()
    tokens[..., -1:] = y
    return x, y, weights, questions, tokens


def posterior_mean(rows, targets, noise_variance):
    """Of w, where targets are rows w and noise, and w ~ N(0, I)."""
    ridge = noise_variance * torch.eye(rows.shape[2], dtype=rows.dtype)
    return torch.linalg.solve(rows.mT @ rows + ridge, rows.mT @ targets)


@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    noise_variance=st.sampled_from([0.01, 0.25, 4.0]),
)
def test_one_layer_can_be_bayesian_linear_regression_at_every_step(seed, sizes, noise_variance):
    encoder, _ = linear_regression(INPUTS + 1, noise_variance)
    x, y, _, questions, tokens = draw_regression(seed, sum(sizes) + 4, noise_variance)
    mask = randn(seed + 3, 2, sum(sizes) + 4) < 0.5
    memories = extend(encoder, tokens, questions, mask, [*sizes, 4])
    for step, memory in enumerate(memories):
        read = slice(sum([*sizes, 4][: step + 1]))
        answers = encoder.read(questions[:, -4:], memory)
        rows, targets = (leaf[:, read] * mask[:, read, None] for leaf in (x, y))
        expected = x[:, -4:] @ posterior_mean(rows, targets, noise_variance)
        torch.testing.assert_close(answers[..., -1:], expected, rtol=1e-7, atol=1e-7)


def test_keys_of_fewer_numbers_regress_on_a_projection_of_the_inputs():
    (encoder, basis), (whole, _) = (linear_regression(size, 0.25) for size in (2, INPUTS + 1))
    x, y, weights, questions, tokens = draw_regression(0, 2_000, 0.25)
    mask = torch.ones(2, 2_000, dtype=torch.bool)
    (memory,) = extend(encoder, tokens, questions, mask, [2_000])
    answers = encoder.read(questions, memory)[..., -1:]
    projected = x @ basis.T
    expected = projected @ posterior_mean(projected, y, 0.25)
    torch.testing.assert_close(answers, expected, rtol=1e-9, atol=1e-9)
    (memory,) = extend(whole, tokens, questions, mask, [2_000])
    error, least = (
        (answer - x @ weights).square().mean()
        for answer in (answers, whole.read(questions, memory)[..., -1:])
    )
    assert error > 0.1 > 0.01 > least


@pytest.mark.parametrize("association", [Ridge, LinearAttention])
def test_the_memory_counts_its_numbers(association):
    memory = build(num_layers=3, association=association).empty(7)
    assert sum(leaf.numel() for leaf in tree_leaves(memory.layers)) == 7 * memory.num_elements
    if association is Ridge:
        assert memory.num_elements == 2 * 3 * 2 * 3**2 + 3 * (3 + DIM)
