"""The suites for what reads minibatch after minibatch: each encoder here breaks one promise."""

from typing import NamedTuple

import pytest
import torch
from iai_encoders import DeepSet, MemoryTransformer, RunningTransformer, SetTransformer
from iai_encoders.testing import check_memory_encoder, check_running_encoder
from torch import Tensor, nn


class Memory(MemoryTransformer):
    """One layer, whose `extend` a mutant changes; `trace` is that of the class."""

    def __init__(self):
        super().__init__(4, num_layers=1, num_heads=1)


class StartsAnew(DeepSet):
    def extend(self, memory, tokens, *, questions=None, mask=None):
        return super().extend(self.empty(len(tokens)), tokens, mask=mask)


class Grows(DeepSet):
    class Memory(NamedTuple):
        mean: Tensor
        seen: Tensor
        tokens: Tensor

        @property
        def num_elements(self):
            return 8

    def empty(self, num_tasks):
        return self.Memory(*super().empty(num_tasks), torch.zeros(num_tasks, 0, 4))

    def extend(self, memory, tokens, *, questions=None, mask=None):
        new = super().extend(memory, tokens, mask=mask)
        return self.Memory(*new, torch.cat([memory.tokens, torch.zeros(tokens.shape)], 1))


class CountsItsTokens(Grows):
    class Memory(Grows.Memory):
        @property
        def num_elements(self):
            return 8 + self.tokens.shape[1]


class KnowsTheOrder(DeepSet):
    def extend(self, memory, tokens, *, questions=None, mask=None):
        places = torch.arange(tokens.shape[1], dtype=tokens.dtype)[:, None]
        return super().extend(memory, tokens * places, mask=mask)


class QueriesMeet(DeepSet):
    def read(self, queries, memory):
        return super().read(queries + queries.sum(1, keepdim=True), memory)


class TasksMeet(DeepSet):
    def extend(self, memory, tokens, *, questions=None, mask=None):
        memory = super().extend(memory, tokens, mask=mask)
        return memory._replace(mean=memory.mean + memory.mean.mean())


class TakesFiniteForObserved(DeepSet):
    def extend(self, memory, tokens, *, questions=None, mask=None):
        return super().extend(memory, tokens, mask=tokens.isfinite().all(-1))


class ForgetsWithTime(DeepSet):
    """Each minibatch takes its toll, the empty one as well."""

    def extend(self, memory, tokens, *, questions=None, mask=None):
        memory = memory._replace(mean=memory.mean * (1 - 1e-12))
        return super().extend(memory, tokens, mask=mask)


class DividesByNothing(DeepSet):
    def read(self, queries, memory):
        return super().read(queries, memory) / memory.seen[:, None, None]


class Overwrites(DeepSet):
    def extend(self, memory, tokens, *, questions=None, mask=None):
        new = super().extend(memory, tokens, mask=mask)
        memory.mean.data.mul_(2)
        return new


class OverwritesTokens(DeepSet):
    def extend(self, memory, tokens, *, questions=None, mask=None):
        new = super().extend(memory, tokens, mask=mask)
        tokens.data.mul_(2)
        return new


class TakesAnyQuestions(Memory):
    def extend(self, memory, tokens, *, questions=None, mask=None):
        fits = questions is not None and questions.shape == tokens.shape
        return super().extend(memory, tokens, questions=questions if fits else None, mask=mask)


class DetachesQuestions(Memory):
    def extend(self, memory, tokens, *, questions=None, mask=None):
        return super().extend(memory, tokens, questions=questions.detach(), mask=mask)


class TrainsOnTheLastMinibatch(DeepSet):
    def extend(self, memory, tokens, *, questions=None, mask=None):
        memory = memory._replace(mean=memory.mean.detach())
        return super().extend(memory, tokens, questions=questions, mask=mask)


class HasAnIdleLayer(DeepSet):
    def __init__(self, dim):
        super().__init__(dim)
        self.idle = nn.Linear(dim, dim)


class TracesOtherwise(Memory):
    def extend(self, memory, tokens, *, questions=None, mask=None):
        return super().extend(memory, 1.01 * tokens, questions=questions, mask=mask)


class TracesToNoEnd(Memory):
    def trace(self, memory, tokens, queries, *, questions=None, mask=None):
        answers, _ = super().trace(memory, tokens, queries, questions=questions, mask=mask)
        return answers, memory


class PassesThroughOtherwise(Memory):
    def pass_through(self, memory, tokens, queries, *, questions=None, mask=None):
        queries = 1.01 * queries
        return super().pass_through(memory, tokens, queries, questions=questions, mask=mask)


NOTHING = "Without an observed token, a task's memory stays as it was, bit for bit."
LEFT = "The same tokens have the same memory, and reading leaves it so."


@pytest.mark.usefixtures("own_errors")
@pytest.mark.parametrize(
    ("encoder", "sentence"),
    [
        (StartsAnew(4), "Tokens of earlier minibatches count."),
        (Grows(4), "A memory keeps its shapes and dtypes"),
        (CountsItsTokens(4), "`num_elements` does not grow with the tokens read."),
        (KnowsTheOrder(4), "The order within a minibatch changes no answer."),
        (QueriesMeet(4), "A subset of the queries has the same answers."),
        (TasksMeet(4), "A task has the same answers alone and in a batch."),
        (TakesFiniteForObserved(4), "A masked token, NaN included, changes no answer."),
        (ForgetsWithTime(4), NOTHING),
        (DividesByNothing(4), "A memory of no tokens has finite answers."),
        (Overwrites(4), LEFT),
        (OverwritesTokens(4), "Tokens, questions and queries are left as they were."),
        (TakesAnyQuestions(), "`questions` that are not as many as `tokens` raise ValueError."),
        (DetachesQuestions(), "Gradients reach questions."),
        (TrainsOnTheLastMinibatch(4), "Gradients reach the tokens of earlier minibatches."),
        (HasAnIdleLayer(4), "none reaches idle.weight."),
        (TracesOtherwise(), "`trace` gives what `read` gives after each `extend`."),
        (TracesToNoEnd(), "The memory of `trace` is that of the last `extend`."),
        (PassesThroughOtherwise(), "gives the answers and the memory of `trace`."),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_broken_memory_encoder_is_found(encoder, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_memory_encoder(encoder, dim=4)


class Running(RunningTransformer):
    def __init__(self):
        super().__init__(SetTransformer(4, num_layers=2, num_heads=1), num_latents=1)


class ReadsAnew(Running):
    def read(self, queries, minibatch, state):
        return super().read(queries, minibatch, self.start(*queries.shape[:2]))


class AnswersMeet(Running):
    def read(self, queries, minibatch, state):
        answers, state = super().read(queries, minibatch, state)
        return answers + answers.sum(1, keepdim=True), state


class SummarisesNothing(Running):
    def read(self, queries, minibatch, state):
        answers, state = super().read(queries, minibatch, state)
        return answers, state._replace(summary=state.summary + 1)


class WearsOut(Running):
    def read(self, queries, minibatch, state):
        result = super().read(queries, minibatch, state)
        minibatch.tokens.data.mul_(1 + 1e-12)
        return result


class OverwritesQueries(Running):
    def read(self, queries, minibatch, state):
        result = super().read(queries, minibatch, state)
        queries.data.mul_(1 + 1e-12)
        return result


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (ReadsAnew, "Tokens of earlier minibatches count."),
        (AnswersMeet, "A subset of the queries has the same answers."),
        (SummarisesNothing, NOTHING),
        (WearsOut, "`read` leaves a minibatch as it was."),
        (OverwritesQueries, "Tokens, questions and queries are left as they were."),
    ],
)
def test_a_broken_running_encoder_is_found(build, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_running_encoder(build(), dim=4)
