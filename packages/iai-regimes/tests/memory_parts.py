"""Small encoders whose memory goes on, and the regimes that hold them."""

from typing import NamedTuple

import torch
from iai_regimes import ExplicitMemory, RunningAttention
from regime_parts import DIM, X_DIM
from torch import Tensor, nn


class Sums(NamedTuple):
    """What a `SummingEncoder` keeps; `count` is in a dict, as a memory may hold any pytree."""

    total: Tensor
    counts: dict[str, Tensor]


class SummingEncoder(nn.Module):
    """Memory and running encoder in one: it adds up tokens, and the questions that come along."""

    def __init__(self, dim=DIM):
        super().__init__()
        self.dim = dim
        self.token, self.query = nn.Linear(dim, dim), nn.Linear(2 * dim, dim)

    def empty(self, num_tasks):
        weight = self.token.weight
        zeros = weight.new_zeros(num_tasks, self.dim + 1)
        zeros = zeros.to(torch.promote_types(weight.dtype, torch.float32))
        return Sums(zeros[:, 1:], {"n": zeros[:, 0]})

    def extend(self, memory, tokens, *, questions=None, mask):
        told = tokens if questions is None else tokens + questions
        hidden = self.token(told.masked_fill(~mask[..., None], 0.0)).tanh()
        total = hidden.masked_fill(~mask[..., None], 0.0).sum(1).to(memory.total.dtype)
        return Sums(memory.total + total, {"n": memory.counts["n"] + mask.sum(1)})

    def _answer(self, queries, memory):
        mean = memory.total / memory.counts["n"].clamp(min=1)[:, None]
        mean = mean[:, None].expand_as(queries).to(queries.dtype)
        return self.query(torch.cat([queries, queries * mean + mean], dim=-1))

    def start(self, num_tasks, num_queries):
        return self.empty(num_tasks)

    def encode(self, tokens, *, questions=None, mask):
        return tokens, questions, mask


class MemoryStub(SummingEncoder):
    def read(self, queries, memory):
        return self._answer(queries, memory)


class RunningStub(SummingEncoder):
    def read(self, queries, minibatch, state):
        tokens, questions, mask = minibatch
        state = self.extend(state, tokens, questions=questions, mask=mask)
        return self._answer(queries, state), state


def memory(likelihood, encoder=None, **options):
    encoder = MemoryStub() if encoder is None else encoder
    return ExplicitMemory(encoder, likelihood, **{"x_dim": X_DIM} | options)


def running(likelihood, encoder=None, **options):
    encoder = RunningStub() if encoder is None else encoder
    return RunningAttention(encoder, likelihood, **{"x_dim": X_DIM} | options)


MEMORY_REGIMES = {"memory": memory, "running": running}
