import re

import pytest
import torch
from iai_encoders import CausalTransformer, DeepSet, SetTransformer

SET_ENCODERS = [SetTransformer(8, num_layers=1, num_heads=2), DeepSet(8)]
SEQUENCE_ENCODER = CausalTransformer(8, num_layers=1, num_heads=2)


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
    for encoder in SET_ENCODERS:
        with error(message):
            encoder.encode(tokens, mask=mask)
    memory = SEQUENCE_ENCODER.empty(shape[0])
    with error(message):
        SEQUENCE_ENCODER.extend(memory, tokens, mask=mask)


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
    memory = SEQUENCE_ENCODER.empty(2)
    with error(message):
        SEQUENCE_ENCODER.read(queries, memory)


def test_tokens_for_another_number_of_tasks():
    memory = SEQUENCE_ENCODER.empty(3)
    with error("`tokens` must be of the 3 tasks of the memory; got 2."):
        SEQUENCE_ENCODER.extend(memory, torch.zeros(2, 1, 8))
