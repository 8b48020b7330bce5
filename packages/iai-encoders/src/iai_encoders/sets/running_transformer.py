"""A set Transformer whose queries go on attending, minibatch after minibatch."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from iai_encoders.fading_share import fading_share
from iai_encoders.interfaces import LowerMemory
from iai_encoders.memory import TransformerMemory
from iai_encoders.products import Products
from iai_encoders.running_mean import count_tokens
from iai_encoders.sets.running_softmax import (
    Found,
    attend_further,
    nothing_found,
    with_itself,
)
from iai_encoders.sets.set_transformer import SetTransformer
from iai_encoders.validation import (
    as_weights,
    check_queries,
    check_questions,
    check_steps,
    check_tokens,
)

Tokens = Float[Tensor, "task n dim"]

_NUM_COUNTS = 4


class RunningMemory(NamedTuple):
    """The state of a `RunningTransformer`, of one size however many tokens it has read.

    Attributes:
        found: What the attention of each layer has found, of latents and then of queries, in
            float32 at least.
        summary: ``task latent dim``, the answers of the latents, which the next tokens see.
        memory: Of the memory beneath; an empty tuple where there is none.
        seen: ``task``, the number of tokens read, in float32 at least.
    """

    found: tuple[Found, ...]
    summary: Tensor
    memory: Any
    seen: Tensor


class Minibatch(NamedTuple):
    """A minibatch, for queries to read.

    Attributes:
        tokens: The tokens, with their products where there is no memory beneath.
        questions: Their questions, for the memory beneath.
        mask: ``task n`` bool, True where a token is observed.
        slots: Each layer's keys and values of the tokens; None where these depend on what was read
            before, and so are computed when the minibatch is read.
    """

    tokens: Tensor
    questions: Tensor | None
    mask: Tensor
    slots: TransformerMemory | None


class RunningTransformer(nn.Module):
    """Softmax attention over everything that was read, in flat memory.

    For each query, layer and head the state keeps the log-normaliser s and the value v of attention
    to all tokens read so far. A minibatch, with s_B and v_B of its own, adds

        s' = log(e^s + e^s_B),    v' = e^(s - s') v + e^(s_B - s') v_B.

    A query attends to all of them and to itself, never to another query. With one layer this is
    attention over the whole set, for any cut into minibatches (without a `memory`, and while
    `sharpness` and `embed_count` are 0, as at the start). In deeper layers a token's key is that of
    its minibatch, and a query's depends on what it had found by then.

    Without a `memory`, questions and queries get `Products` of their own numbers before the first
    layer. Queries are told how many tokens were read, and what share of them is the minibatch.
    Tokens of a minibatch see one another where the encoder has self-attention. With latents they
    also see what was read before: latents are learned queries, and their answers join the tokens of
    the next minibatch. With a `memory`, tokens and queries first read it, and what attention finds
    is added to its answer:

        answer = memory answer + (1 + n)^-r norm(x).

    Args:
        encoder: The layers.
        num_latents: Learned queries whose answers the next minibatch sees.
        memory: What lies beneath, a `MemoryTransformer` for one, of the same `dim`.
        sharpen: Whether scores are multiplied by ``1 + a log(1 + n) / 4``, with an a for each head
            that is learned from 0 and n the tokens read by then: attention over 10,000 tokens has
            to be sharper than over 100. What was found before keeps the sharpness that it was found
            with, so tokens that come later weigh more. Beyond the numbers of tokens in training it
            did harm where it was tried.

    Raises:
        ValueError: If `num_latents` is below 0, or above 0 where no token would see the latents.
        TypeError: If `memory` lacks a member of its role.

    Source:
        Ours. The sums are those of attention computed in blocks (Milakov and Gimelshein, 2018,
        arXiv 1805.02867), kept from one minibatch to the next. A temperature in log n is after
        the scalable softmax of Nakanishi (2025), arXiv 2501.19399, which has one n for all tokens.

    >>> encoder = RunningTransformer(SetTransformer(dim=8, num_layers=2, num_heads=2))
    >>> queries, state = torch.zeros(3, 4, 8), encoder.start(num_tasks=3, num_queries=4)
    >>> for size in (5, 7):
    ...     minibatch = encoder.encode(torch.zeros(3, size, 8))
    ...     answers, state = encoder.read(queries, minibatch, state)
    >>> answers.shape, state.seen.tolist()
    (torch.Size([3, 4, 8]), [12.0, 12.0, 12.0])
    """

    def __init__(
        self,
        encoder: SetTransformer,
        *,
        num_latents: int = 0,
        memory: LowerMemory[Any] | None = None,
        sharpen: bool = False,
    ) -> None:
        super().__init__()
        if num_latents < 0:
            raise ValueError(f"`num_latents` must be at least 0; got {num_latents}.")
        if num_latents and not (encoder.self_attention and encoder.num_layers > 1):
            raise ValueError(
                "`num_latents` needs an encoder with self-attention and two layers or more: no "
                "token would see the latents."
            )
        if memory is not None and not isinstance(memory, LowerMemory):
            raise TypeError(f"`memory` must be a LowerMemory; got {type(memory).__name__}.")
        self.encoder, self.memory = encoder, memory
        self.dim = encoder.dim
        self.sharpness = None
        if sharpen:
            self.sharpness = nn.Parameter(torch.zeros(encoder.num_layers, encoder.num_heads))
        self.num_latents = num_latents
        if num_latents:
            self.latents = nn.Parameter(torch.randn(num_latents, self.dim) * 0.5)
            self.embed_summary = nn.Linear(self.dim, self.dim)
        self.embed_count = nn.Linear(_NUM_COUNTS, self.dim, bias=False)
        nn.init.zeros_(self.embed_count.weight)
        self.products = Products(self.dim) if memory is None else None
        if memory is not None:
            self.rate = nn.Parameter(torch.tensor(0.0))  # r = softplus(rate), 0.7 at the start

    def start(self, num_tasks: int, num_queries: int) -> RunningMemory:
        """Nothing read yet, on the device of the parameters."""
        weight = self.embed_count.weight
        like = weight.new_empty(0, dtype=torch.promote_types(weight.dtype, torch.float32))
        memory = () if self.memory is None else self.memory.empty(num_tasks)
        num_latents, num_heads = self.num_latents, self.encoder.num_heads
        shape = num_tasks, num_heads, num_latents + num_queries, self.dim // num_heads
        return RunningMemory(
            tuple(nothing_found(like.new_zeros(shape)) for _ in self.encoder.blocks),
            like.new_zeros(num_tasks, num_latents, self.dim),
            memory,
            like.new_zeros(num_tasks),
        )

    def encode(
        self,
        tokens: Tokens,
        *,
        questions: Tokens | None = None,
        mask: Bool[Tensor, "task n"] | None = None,
    ) -> Minibatch:
        """All work on a minibatch that needs neither queries nor what was read before.

        Args:
            tokens: The minibatch. Masked tokens, NaN included, change nothing that is read.
            questions: Each token's input without its target; None where tokens have none.
            mask: True where a token is observed; None where all are.

        Returns:
            The minibatch for `read`; gradients flow to `tokens` and `questions`.

        Raises:
            ValueError: If `tokens`, `questions` or `mask` has the wrong shape, or `mask` is not
                bool.
        """
        check_tokens(tokens, mask, self.dim)
        check_questions(questions, tokens)
        if mask is None:
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        if self.products is None:
            return Minibatch(tokens, questions, mask, None)
        tokens = as_weights(tokens, self.embed_count.weight).masked_fill(~mask[..., None], 0.0)
        if questions is None:
            tokens = self.products(tokens)
        else:
            questions = as_weights(questions, self.embed_count.weight)
            questions = questions.masked_fill(~mask[..., None], 0.0)
            tokens = self.products(questions) + (tokens - questions)
        slots = None if self.num_latents else self.encoder.encode(tokens, mask=mask)
        return Minibatch(tokens, None, mask, slots)

    def read(
        self,
        queries: Float[Tensor, "task m dim"],
        minibatch: Minibatch,
        state: RunningMemory,
    ) -> tuple[Float[Tensor, "row m dim"], RunningMemory]:
        """Answers each query from all that was read so far and this minibatch.

        Args:
            queries: The queries that the state was started for, in their order.
            minibatch: What `encode` returned for these tasks; or for several minibatches of each,
                minibatch `j` of task `i` in row ``i * step + j``. Without latents these are read
                side by side, layer by layer, as no step waits for the one before.
            state: What `start`, or the read before, returned. It is not changed.

        Returns:
            One answer a query, after each minibatch; and the state after the last, whose tasks
            without an observed token stay as they were. Gradients flow to `queries` and through the
            minibatch and the state.

        Raises:
            ValueError: If `queries` are not as many as the state has, or of another size.
        """
        check_queries(queries, state.seen, self.dim)
        steps = check_steps(minibatch.mask, state.seen, "minibatch")
        num_queries = state.found[0].value.shape[2] - self.num_latents
        if queries.shape[1] != num_queries:
            raise ValueError(
                f"`queries` must be the {num_queries} of the state; got {queries.shape[1]}."
            )
        queries = as_weights(queries, self.embed_count.weight)
        if steps == 1 or not self.num_latents:
            return self._read(queries, minibatch, state, steps)
        answers = []
        for step in range(steps):  # tokens of a step see the latents' answers after the one before
            rows = slice(step, None, steps)
            asked = None if minibatch.questions is None else minibatch.questions[rows]
            one = Minibatch(minibatch.tokens[rows], asked, minibatch.mask[rows], None)
            answer, state = self._read(queries, one, state, 1)
            answers.append(answer)
        return torch.stack(answers, 1).flatten(0, 1), state

    def _read(
        self,
        queries: Float[Tensor, "task m dim"],
        minibatch: Minibatch,
        state: RunningMemory,
        steps: int,
    ) -> tuple[Float[Tensor, "row m dim"], RunningMemory]:
        """The answers after steps that do not wait for one another."""
        shape, mask, num_latents = (len(queries), steps), minibatch.mask, self.num_latents
        counts = count_tokens(mask, state.seen).view(shape).cumsum(1)
        seen = state.seen[:, None] + counts
        before = torch.cat([state.seen[:, None], seen[:, :-1]], 1).flatten()
        last, seen = seen[:, -1], seen.flatten()
        tokens, memory, told = minibatch.tokens, state.memory, queries
        if self.memory is not None:
            tokens, told, memory = self.memory.pass_through(
                memory, tokens, queries, questions=minibatch.questions, mask=mask
            )
        elif self.products is not None:
            told = self.products(queries)[:, None].expand(-1, steps, -1, -1).flatten(0, 1)
        slots, x, summary = minibatch.slots, told, state.summary
        if slots is None:
            slots = self._slots(tokens, mask, summary)
        if num_latents:
            x = torch.cat([self.latents.to(x.dtype).expand(len(x), -1, -1), x], 1)
        x, found = self._attend(x, slots, before, seen, state)
        if num_latents:
            moved = mask.any(1)[:, None, None]
            summary = x[:, :num_latents].to(summary.dtype).where(moved, summary)
        answers = x[:, num_latents:]
        if self.memory is not None:
            answers = told + fading_share(seen, self.rate).to(told.dtype) * answers
        return answers, RunningMemory(found, summary, memory, last)

    def _slots(self, tokens: Tokens, mask: Tensor, summary: Tensor) -> TransformerMemory:
        """Keys and values of the tokens, which also see the latents' answers."""
        if not self.num_latents:
            return self.encoder.encode(tokens, mask=mask)
        shown = self.embed_summary(summary.to(self.latents.dtype))
        whole = torch.cat([mask, mask.new_ones(shown.shape[:2])], 1)
        slots = self.encoder.encode(torch.cat([tokens, shown], 1), mask=whole)
        keys, values = (tuple(leaf[:, :, : tokens.shape[1]] for leaf in part) for part in slots[:2])
        return TransformerMemory(keys, values, mask)

    def _attend(
        self,
        x: Tokens,
        slots: TransformerMemory,
        before: Tensor,
        seen: Tensor,
        state: RunningMemory,
    ) -> tuple[Tokens, tuple[Found, ...]]:
        """Latents and queries after the last layer, normalised; what each has found by the end."""
        new, num_tasks = [], len(state.seen)
        shape = num_tasks, len(x) // num_tasks if num_tasks else 1
        x = x + self.embed_count(_counts(before, seen).to(x.dtype))[:, None]
        for layer, (block, found) in enumerate(zip(self.encoder.blocks, state.found, strict=True)):
            query, key, value = block.project(x)
            query = query.to(seen.dtype) * query.shape[3] ** -0.5
            if self.sharpness is not None:
                scale = 1 + self.sharpness[layer] * (1 + seen).log()[:, None] / 4  # task head
                query = query * scale[..., None, None]
            found = attend_further(found, query, slots.keys[layer], slots.values[layer], slots.mask)
            x = block.finish(x, with_itself(found, query, key, value).to(x.dtype))
            new.append(Found(*(torch.unflatten(leaf, 0, shape)[:, -1] for leaf in found)))
        return self.encoder.norm(x), tuple(new)


def _counts(before: Float[Tensor, " task"], seen: Float[Tensor, " task"]) -> Tensor:
    """The number of tokens read, and the minibatch's share in it, as numbers in [0, 1]."""
    root = (1 + seen).rsqrt()
    share = (seen - before) / seen.clamp(min=1)
    return torch.stack([root, root.sqrt(), share, share.sqrt()], dim=-1)
