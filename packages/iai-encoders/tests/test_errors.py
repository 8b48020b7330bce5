import re

import pytest
import torch
from iai_encoders import (
    CausalTransformer,
    DeepSet,
    LinearAttention,
    MemoryTransformer,
    Ridge,
    RunningTransformer,
    SetTransformer,
)

SET_ENCODERS = [SetTransformer(8, num_layers=1, num_heads=2), DeepSet(8)]
SEQUENCE_ENCODER = CausalTransformer(8, num_layers=1, num_heads=2)
MEMORY_ENCODER = MemoryTransformer(8, num_layers=1, num_heads=2)
MEMORY_ENCODERS = [SEQUENCE_ENCODER, MEMORY_ENCODER, DeepSet(8)]
RUNNING_ENCODERS = [
    RunningTransformer(SetTransformer(8, num_layers=1, num_heads=2)),
    RunningTransformer(SetTransformer(8, num_layers=1, num_heads=2), memory=MEMORY_ENCODER),
]


def error(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


@pytest.mark.parametrize("build", [SetTransformer, CausalTransformer])
@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 1, 1), "`dim` must be at least 1; got 0."),
        ((8, 0, 2), "`num_layers` must be at least 1; got 0."),
        ((8, 1, 0), "`num_heads` must be at least 1; got 0."),
        ((8, 1, 2, -1), "`ff_dim` must be at least 1; got -1."),
        ((8, 1, 3), "`dim` must be divisible by `num_heads`; got 8 and 3."),
    ],
)
def test_transformer_sizes(build, sizes, message):
    with error(message):
        build(*sizes)


def test_rotary_positions_need_pairs():
    with error("`dim` / `num_heads` must be even to be turned in pairs; got 3."):
        CausalTransformer(6, num_layers=1, num_heads=2)


@pytest.mark.parametrize("name", ["hidden_dim", "num_layers"])
def test_deep_set_sizes(name):
    with error(f"`{name}` must be at least 1; got 0."):
        DeepSet(8, **{name: 0})


@pytest.mark.usefixtures("own_errors")
@pytest.mark.parametrize(
    ("shape", "mask", "message"),
    [
        ((2, 3, 7), None, "`tokens` must have shape (task, n, 8); got (2, 3, 7)."),
        ((3, 8), None, "`tokens` must have shape (task, n, 8); got (3, 8)."),
        ((2, 3, 8), torch.ones(2, 3), "`mask` must have dtype torch.bool; got torch.float32."),
        (
            (2, 3, 8),
            torch.ones(2, 4, dtype=torch.bool),
            "`mask` must have the shape of the first two axes of `tokens`, (2, 3); got (2, 4).",
        ),
    ],
)
def test_tokens(shape, mask, message):
    tokens = torch.zeros(shape)
    for encoder in SET_ENCODERS + RUNNING_ENCODERS:
        with error(message):
            encoder.encode(tokens, mask=mask)
    for encoder in MEMORY_ENCODERS:
        with error(message):
            encoder.extend(encoder.empty(shape[0]), tokens, mask=mask)


@pytest.mark.usefixtures("own_errors")
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 7), "`queries` must have shape (task, m, 8); got (2, 3, 7)."),
        ((3, 8), "`queries` must have shape (task, m, 8); got (3, 8)."),
        ((3, 1, 8), "`queries` must be of the 2 tasks of the memory; got 3."),
    ],
)
def test_queries(shape, message):
    queries = torch.zeros(shape)
    for encoder in SET_ENCODERS:
        memory = encoder.encode(torch.zeros(2, 3, 8))
        with error(message):
            encoder.read(queries, memory)
    for encoder in MEMORY_ENCODERS:
        with error(message):
            encoder.read(queries, encoder.empty(2))
    for encoder in RUNNING_ENCODERS:
        with error(message):
            encoder.read(queries, encoder.encode(torch.zeros(2, 3, 8)), encoder.start(2, 3))


@pytest.mark.parametrize("encoder", MEMORY_ENCODERS, ids=lambda encoder: type(encoder).__name__)
def test_tokens_for_another_number_of_tasks(encoder):
    with error("`tokens` must be of the 3 tasks of the memory; got 2."):
        encoder.extend(encoder.empty(3), torch.zeros(2, 1, 8))


def test_a_trace_of_fewer_minibatches_for_some_tasks():
    encoder = MemoryTransformer(8, num_layers=1, num_heads=2)
    for num_rows in (0, 2, 5):
        with error(
            "`tokens` must be of the 3 tasks of the memory, or hold as many minibatches of each; "
            f"got {num_rows}."
        ):
            encoder.trace(encoder.empty(3), torch.zeros(num_rows, 1, 8), torch.zeros(3, 2, 8))


@pytest.mark.usefixtures("own_errors")
@pytest.mark.parametrize("shape", [(2, 4, 8), (2, 3, 7), (1, 3, 8)])
def test_questions_that_are_not_those_of_the_tokens(shape):
    message = f"`questions` must have the shape of `tokens`, (2, 3, 8); got {shape}."
    tokens, questions = torch.zeros(2, 3, 8), torch.zeros(shape)
    for encoder in MEMORY_ENCODERS:
        with error(message):
            encoder.extend(encoder.empty(2), tokens, questions=questions)
    for encoder in RUNNING_ENCODERS:
        with error(message):
            encoder.encode(tokens, questions=questions)


@pytest.mark.parametrize("encoder", RUNNING_ENCODERS)
def test_a_running_state_of_other_queries_or_tasks(encoder):
    minibatch, state = encoder.encode(torch.zeros(2, 3, 8)), encoder.start(2, 4)
    with error("`queries` must be the 4 of the state; got 5."):
        encoder.read(torch.zeros(2, 5, 8), minibatch, state)
    with error(
        "`minibatch` must be of the 3 tasks of the memory, or hold as many minibatches of each; "
        "got 2."
    ):
        encoder.read(torch.zeros(3, 4, 8), minibatch, encoder.start(3, 4))


def test_no_fewer_latents_than_none():
    with error("`num_latents` must be at least 0; got -1."):
        RunningTransformer(SET_ENCODERS[0], num_latents=-1)


@pytest.mark.parametrize("build", [Ridge, LinearAttention])
def test_association_sizes(build):
    with error("`num_heads` must be at least 1; got 0."):
        build(0, 1)
    with error("`key_dim` must be at least 1; got 0."):
        build(1, 0)


@pytest.mark.usefixtures("own_errors")
def test_tokens_of_no_axes():
    encoder = MemoryTransformer(8, num_layers=1, num_heads=2)
    with error("`tokens` must have shape (task, n, 8); got ()."):
        encoder.extend(encoder.empty(3), torch.tensor(1.0))


def test_memory_transformer_sizes():
    with error("`features` must be at least 0; got -1."):
        MemoryTransformer(8, 1, 2, features=-1)
    with error("`num_layers` must be at least 1; got 0."):
        MemoryTransformer(8, 0, 2)
    with error("`key_dim` must be at least 1; got 0."):
        MemoryTransformer(8, 1, 2, key_dim=0)
    with error("`num_heads` must divide `dim` where `key_dim` is None; got 3 and 8."):
        MemoryTransformer(8, 1, 3)
    with error("`association` must be one, or one for each of the 2 layers; got 1."):
        MemoryTransformer(8, 2, 2, association=[Ridge])
