"""A hundred thousand tokens in half precision: what is summed over them stays in float32."""

import copy

import pytest
import torch
from iai_encoders import (
    DeepSet,
    LinearAttention,
    MemoryTransformer,
    RunningTransformer,
    SetTransformer,
)
from torch.utils._pytree import tree_leaves

DIM, NUM_TOKENS, NUM_MINIBATCHES = 8, 100_000, 20


def deep_set():
    return DeepSet(DIM)


def ridge_memory():
    return MemoryTransformer(DIM, num_layers=1, num_heads=2)


def linear_attention():
    return MemoryTransformer(DIM, num_layers=1, num_heads=2, association=LinearAttention)


def running_attention():
    return RunningTransformer(SetTransformer(DIM, num_layers=1, num_heads=2))


def run(encoder, tokens, queries):
    """The answers, and the state in the order of its leaves."""
    if isinstance(encoder, RunningTransformer):
        state = encoder.start(1, queries.shape[1])
        for minibatch in tokens.chunk(NUM_MINIBATCHES, 1):
            answers, state = encoder.read(queries, encoder.encode(minibatch), state)
        return answers, tree_leaves(state)
    memory = encoder.empty(1)
    for minibatch in tokens.chunk(NUM_MINIBATCHES, 1):
        memory = encoder.extend(memory, minibatch)
    return encoder.read(queries, memory), tree_leaves(memory)


@pytest.mark.parametrize("build", [deep_set, ridge_memory, linear_attention, running_attention])
@pytest.mark.parametrize(
    ("weights", "autocast"),
    [(torch.float16, False), (torch.bfloat16, False), (torch.float32, True)],
)
def test_sums_over_many_tokens_stay_close(build, weights, autocast):
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        encoder = build()
        tokens = 1 + torch.randn(1, NUM_TOKENS, DIM, generator=generator)
        queries = torch.randn(1, 20, DIM, generator=generator)
        expected, exact = run(copy.deepcopy(encoder).double(), tokens.double(), queries.double())
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            answers, state = run(encoder.to(weights), tokens.to(weights), queries.to(weights))
    for leaf, wanted in zip(state, exact, strict=True):
        assert leaf.dtype == torch.float32
        if not leaf.numel():  # no latents
            continue
        error = (leaf.double() - wanted).abs().mean() / wanted.abs().mean().clamp(min=1e-9)
        assert error < (0.002 if weights is torch.float16 else 0.01)
    assert (answers.double() - expected).abs().mean() < 0.05
