"""Derivatives, low precision, compilation and devices, for every encoder."""

import copy

import pytest
import torch
from iai_encoders import (
    CausalTransformer,
    DeepSet,
    LinearAttention,
    LowerMemory,
    MemoryEncoder,
    MemoryTransformer,
    Ridge,
    RunningTransformer,
    SequenceEncoder,
    SetEncoder,
    SetTransformer,
)
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.attention import SDPBackend, sdpa_kernel


def set_transformer():
    return SetTransformer(4, num_layers=2, num_heads=2, ff_dim=3)


def deep_set():
    return DeepSet(4, hidden_dim=3)


def causal_transformer():
    return CausalTransformer(4, num_layers=2, num_heads=2, ff_dim=3)


def memory_transformer():
    return MemoryTransformer(4, 2, num_heads=2, ff_dim=3, association=[LinearAttention, Ridge])


def running_transformer():
    memory = MemoryTransformer(4, num_layers=1, num_heads=1, ff_dim=3)
    return RunningTransformer(set_transformer(), num_latents=1, memory=memory)


ENCODERS = [
    set_transformer,
    deep_set,
    causal_transformer,
    memory_transformer,
    running_transformer,
]


@pytest.fixture(params=ENCODERS)
def encoder(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return request.param()


def run(encoder, tokens, queries, mask):
    """All that an encoder puts out."""
    pieces = (tokens[:, :1], None), (tokens[:, 1:], mask[:, 1:])
    if isinstance(encoder, RunningTransformer):
        state, all_answers = encoder.start(len(tokens), queries.shape[1]), []
        for piece, shown in pieces:
            minibatch = encoder.encode(piece, questions=piece.cos(), mask=shown)
            answers, state = encoder.read(queries, minibatch, state)
            all_answers.append(answers)
        return torch.cat(all_answers, 1)
    if isinstance(encoder, LowerMemory):
        memory, all_outputs = encoder.empty(len(tokens)), []
        for piece, shown in pieces:
            how = {"questions": piece.cos(), "mask": shown}
            *outputs, memory = encoder.pass_through(memory, piece, queries, **how)
            all_outputs += outputs
        return torch.cat(all_outputs, 1)
    if isinstance(encoder, SequenceEncoder):
        memory, all_outputs = encoder.empty(len(tokens)), []
        for piece, shown in pieces:
            outputs, memory = encoder.scan(memory, piece, questions=piece.cos(), mask=shown)
            all_outputs.append(outputs)
        return torch.cat([*all_outputs, encoder.read(queries, memory)], 1)
    return encoder.read(queries, encoder.encode(tokens, mask=mask))


def draw(num_queries, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(2, 3, 4, generator=generator, dtype=dtype).requires_grad_()
    queries = torch.randn(2, num_queries, 4, generator=generator, dtype=dtype).requires_grad_()
    return tokens, queries, torch.tensor([[True, True, False], [False, False, False]])


def test_gradients_are_those_of_finite_differences(encoder):
    tokens, queries, mask = draw(num_queries=2)
    encoder = encoder.double()
    assert gradcheck(lambda t, q: run(encoder, t, q, mask), (tokens, queries), fast_mode=True)


# Two queries to three slots go through the attention kernel, seven do not.
@pytest.mark.parametrize("num_queries", [2, 7])
def test_second_derivatives_are_those_of_finite_differences(encoder, num_queries):
    tokens, queries, mask = draw(num_queries)
    encoder = encoder.double()
    with sdpa_kernel(SDPBackend.MATH):
        assert gradgradcheck(
            lambda t, q: run(encoder, t, q, mask), (tokens, queries), fast_mode=True
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # autocast leaves float64 alone
def test_autocast_to_bfloat16_stays_close(encoder, dtype):
    tokens, queries, mask = draw(num_queries=2, dtype=dtype)
    expected = run(encoder, tokens, queries, mask)
    with torch.autocast("cpu", torch.bfloat16):
        answers = run(encoder, tokens, queries, mask)
    torch.testing.assert_close(answers.float(), expected, rtol=0.05, atol=0.1)
    answers.float().square().sum().backward()
    assert all(leaf.grad.isfinite().all() for leaf in [tokens, queries, *encoder.parameters()])


@pytest.mark.parametrize(
    ("weights", "data"),
    [
        (torch.float16, torch.float16),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float64),
        (torch.float64, torch.float32),
    ],
)
def test_tokens_are_read_in_the_dtype_of_the_weights(encoder, weights, data):
    tokens, queries, mask = draw(num_queries=7)
    expected = run(copy.deepcopy(encoder).double(), tokens, queries, mask)
    answers = run(encoder.to(weights), tokens.to(data), queries.to(data), mask)
    assert answers.dtype == weights
    tolerance = 20 * torch.finfo(weights).eps + 1e-6
    torch.testing.assert_close(answers.double(), expected, rtol=tolerance, atol=tolerance)
    answers.sum().backward()
    assert all(leaf.grad.dtype == weights for leaf in encoder.parameters())


def test_a_memory_made_under_autocast_is_read_without_it(encoder):
    tokens, queries, _ = draw(num_queries=2, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        if isinstance(encoder, RunningTransformer):
            minibatch = encoder.encode(tokens)
            _, memory = encoder.read(queries, minibatch, encoder.start(2, 2))
        elif isinstance(encoder, MemoryEncoder) and not isinstance(encoder, SetEncoder):
            memory = encoder.extend(encoder.empty(2), tokens)
        else:
            memory = encoder.encode(tokens)
    if isinstance(encoder, RunningTransformer):
        answers, _ = encoder.read(queries, minibatch, memory)
    else:
        answers = encoder.read(queries, memory)
    assert answers.dtype == torch.float32


@pytest.mark.usefixtures("own_errors")  # the compiler need not see the shape checks
def test_one_graph_holds_it_all(encoder):
    tokens, queries, mask = draw(num_queries=2, dtype=torch.float32)
    compiled = torch.compile(run, fullgraph=True, backend="eager")
    torch.testing.assert_close(
        compiled(encoder, tokens, queries, mask), run(encoder, tokens, queries, mask)
    )


def test_no_result_waits_for_the_device(encoder):
    """A tensor on the meta device has no value, so nothing here can have asked for one."""
    tokens, queries, mask = (tensor.detach().to("meta") for tensor in draw(2, torch.float32))
    answers = run(encoder.to("meta"), tokens, queries, mask)
    assert answers.device.type == "meta"
    answers.sum().backward()
