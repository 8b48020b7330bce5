"""The contract suites find what they are there to find: each encoder here breaks one promise."""

from typing import NamedTuple

import pytest
import torch
from iai_encoders import AxialTransformer, CausalTransformer, DeepSet, DeepSetMemory, SetTransformer
from iai_encoders.testing import check_sequence_encoder, check_set_encoder, check_table_encoder
from torch import Tensor, nn


class KnowsTheOrder(SetTransformer):
    def encode(self, tokens, *, mask=None):
        places = torch.arange(tokens.shape[1], dtype=tokens.dtype)[:, None]
        return super().encode(tokens * places, mask=mask)


class QueriesMeet(SetTransformer):
    def read(self, queries, memory):
        return super().read(queries + queries.mean(1, keepdim=True), memory)


class TasksMeet(DeepSet):
    def encode(self, tokens, *, mask=None):
        memory = super().encode(tokens, mask=mask)
        return memory._replace(mean=memory.mean.flip(0))


class CountsPadding(DeepSet):
    def encode(self, tokens, *, mask=None):
        hidden = torch.zeros_like(tokens) if mask is None else tokens.where(mask[..., None], 0)
        return super().encode(tokens if mask is None else hidden)


class PassesOnNaN(SetTransformer):
    def encode(self, tokens, *, mask=None):
        memory = super().encode(tokens, mask=mask)
        return memory._replace(keys=tuple(k + 0 * tokens.sum() for k in memory.keys))


class DividesByTheTokens(nn.Linear):
    class Memory(NamedTuple):
        mean: Tensor
        num_elements = 4

    def encode(self, tokens, *, mask=None):
        if mask is None:
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool)
        observed = self(tokens.where(mask[..., None], 0)) * mask[..., None]
        return self.Memory(observed.sum(1) / mask.sum(1, keepdim=True))

    def read(self, queries, memory):
        return queries * memory.mean[:, None]


class HasAnIdleLayer(DeepSet):
    def __init__(self, dim):
        super().__init__(dim)
        self.idle = nn.Linear(dim, dim)


class NothingToCount(DeepSet):
    class Memory(NamedTuple):
        mean: Tensor

    def encode(self, tokens, *, mask=None):
        return self.Memory(super().encode(tokens, mask=mask).mean)


class TakesFiniteForObserved(DeepSet):
    def encode(self, tokens, *, mask=None):
        return super().encode(tokens, mask=tokens.isfinite().all(-1))


class Overwrites(DeepSet):
    def encode(self, tokens, *, mask=None):
        memory = super().encode(tokens, mask=mask)
        if not tokens.requires_grad:
            tokens.mul_(2)
        return memory


class RandomFeatures(DeepSet):
    def encode(self, tokens, *, mask=None):
        memory = super().encode(tokens, mask=mask)
        return memory._replace(mean=memory.mean + torch.randn(()))


class OneMemoryForAll(DeepSet):
    class Memory(NamedTuple):
        mean: Tensor
        scale: Tensor
        num_elements = 5

    def encode(self, tokens, *, mask=None):
        return self.Memory(super().encode(tokens, mask=mask).mean, torch.ones(()))

    def read(self, queries, memory):
        mean = memory.mean * memory.scale
        return super().read(queries, DeepSetMemory(mean, mean[:, 0]))


@pytest.mark.usefixtures("own_errors")
@pytest.mark.parametrize(
    ("encoder", "sentence"),
    [
        (KnowsTheOrder(4, 1, 2), "A permuted set has the same answers."),
        (QueriesMeet(4, 1, 2), "A subset of the queries has the same answers."),
        (TasksMeet(4), "A task has the same answers alone and in a batch."),
        (CountsPadding(4), "A masked token, NaN included, changes no answer."),
        (PassesOnNaN(4, 1, 2), "A masked token, NaN included, changes no answer."),
        (DividesByTheTokens(4, 4), "A fully masked set has the finite answers of an empty one."),
        (HasAnIdleLayer(4), "none reaches idle.weight."),
        (NothingToCount(4), "A memory has `num_elements`."),
        (TakesFiniteForObserved(4), "A masked token, NaN included, changes no answer."),
        (Overwrites(4), "A set is left as it was."),
        (RandomFeatures(4), "A set has the same answers each time."),
        (OneMemoryForAll(4), "A memory is a pytree of tensors that lead with the tasks"),
    ],
)
def test_a_broken_set_encoder_is_found(encoder, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_set_encoder(encoder, dim=4)


class LooksAhead(CausalTransformer):
    def scan(self, memory, tokens, *, questions=None, mask=None):
        outputs, memory = super().scan(memory, tokens, mask=mask)
        return outputs.mean(1, keepdim=True).expand_as(outputs), memory


class StartsAnew(CausalTransformer):
    def scan(self, memory, tokens, *, questions=None, mask=None):
        return super().scan(self.empty(tokens.shape[0]), tokens, mask=mask)


class MixesUpPieces(CausalTransformer):
    def scan(self, memory, tokens, *, questions=None, mask=None):
        outputs, longer = super().scan(memory, tokens, mask=mask)
        return outputs, longer._replace(values=tuple(v.roll(1, 2) for v in longer.values))


class ReadsLess(CausalTransformer):
    def read(self, queries, memory):
        return super().read(queries, memory._replace(values=tuple(0.99 * v for v in memory.values)))


class ReadsWearOut(CausalTransformer):
    def read(self, queries, memory):
        answers = super().read(queries, memory)
        memory.keys[0].mul_(1 + 1e-12)
        return answers


class TakesFiniteForTokens(CausalTransformer):
    def scan(self, memory, tokens, *, questions=None, mask=None):
        return super().scan(memory, tokens, mask=tokens.isfinite().all(-1))


class ExtendsOtherwise(CausalTransformer):
    def extend(self, memory, tokens, *, questions=None, mask=None):
        memory = super().extend(memory, tokens)
        return memory._replace(values=tuple(1.01 * value for value in memory.values))


class CountsPaddingAsTime(CausalTransformer):
    def scan(self, memory, tokens, *, questions=None, mask=None):
        if mask is None:
            return super().scan(memory, tokens)
        return super().scan(memory, tokens.where(mask[..., None], 0))


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (LooksAhead, "A token changes no output before it."),
        (StartsAnew, "A read answers as the next output would"),
        (ReadsLess, "A read answers as the next output would."),
        (ReadsWearOut, "`scan` and `read` leave the memory as it was."),
        (TakesFiniteForTokens, "A masked token, NaN included, changes nothing before or after it."),
        (MixesUpPieces, "A sequence in pieces is the same as in one pass."),
        (ExtendsOtherwise, "The memory of `extend` is that of `scan`."),
        (CountsPaddingAsTime, "A masked token, NaN included, changes nothing before or after it."),
    ],
)
def test_a_broken_sequence_encoder_is_found(build, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_sequence_encoder(build(4, 1, 2), dim=4)


class TakesFiniteForRows(AxialTransformer):
    def encode(self, cells, *, mask=None):
        return super().encode(cells, mask=cells.isfinite().flatten(2).all(-1))


class CountsRows(AxialTransformer):
    def encode(self, cells, *, mask=None):
        return super().encode(cells, mask=mask) * cells.shape[1]


class KnowsTheColumns(AxialTransformer):
    def encode(self, cells, *, mask=None):
        places = torch.arange(cells.shape[2], dtype=cells.dtype)[:, None]
        return super().encode(cells * places, mask=mask)


class KnowsTheRows(AxialTransformer):
    def encode(self, cells, *, mask=None):
        places = torch.arange(cells.shape[1], dtype=cells.dtype)[:, None, None]
        return super().encode(cells * places, mask=mask)


class TablesMeet(AxialTransformer):
    def encode(self, cells, *, mask=None):
        return super().encode(cells, mask=mask).flip(0)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (KnowsTheRows, "Rows in another order change no vector."),
        (KnowsTheColumns, "Vectors follow their columns."),
        (TablesMeet, "A task is the same alone and in a batch."),
        (TakesFiniteForRows, "A masked row, NaN included, changes no vector."),
        (CountsRows, "A masked row, NaN included, changes no vector."),
    ],
)
def test_a_broken_table_encoder_is_found(build, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_table_encoder(build(4, 1, 2), dim=4)
