"""Derivatives, low precision, compilation and devices, for every encoder."""

import copy

import pytest
import torch
from iai_encoders import CausalTransformer, DeepSet, SetTransformer
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.attention import SDPBackend, sdpa_kernel


def set_transformer():
    return SetTransformer(4, num_layers=2, num_heads=2, ff_dim=3)


def deep_set():
    return DeepSet(4, hidden_dim=3)


def causal_transformer():
    return CausalTransformer(4, num_layers=2, num_heads=2, ff_dim=3)


@pytest.fixture(params=[set_transformer, deep_set, causal_transformer])
def encoder(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return request.param()


def run(encoder, tokens, queries, mask):
    """All that an encoder puts out."""
    if isinstance(encoder, CausalTransformer):
        outputs, memory = encoder.extend(encoder.empty(tokens.shape[0]), tokens[:, :1])
        later, memory = encoder.extend(memory, tokens[:, 1:], mask=mask[:, 1:])
        return torch.cat([outputs, later, encoder.read(queries, memory)], 1)
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
        if isinstance(encoder, CausalTransformer):
            _, memory = encoder.extend(encoder.empty(2), tokens)
        else:
            memory = encoder.encode(tokens)
    assert encoder.read(queries, memory).dtype == torch.float32


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
