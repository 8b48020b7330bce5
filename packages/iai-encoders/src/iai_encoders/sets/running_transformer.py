"""A set Transformer whose queries go on attending, minibatch after minibatch."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from iai_encoders.interfaces import ScanningMemory
from iai_encoders.memory import TransformerMemory
from iai_encoders.products import Products
from iai_encoders.running_mean import count_tokens
from iai_encoders.sets.set_transformer import SetTransformer
from iai_encoders.validation import as_weights, check_queries, check_tokens

Tokens = Float[Tensor, "task n dim"]

_NUM_COUNTS = 4
_NOTHING = -1e30  # the log-normaliser of attention to nothing: finite, and its exponential is 0


class Found(NamedTuple):
    """What attention has found so far, in float32 at least.

    Attributes:
        log_normaliser: For each layer, ``task head query``: the logarithm of the softmax's sum over
            all tokens read.
        value: For each layer, ``task head query key``: the softmax's weighted mean of all values.
    """

    log_normaliser: tuple[Tensor, ...]
    value: tuple[Tensor, ...]


class RunningMemory(NamedTuple):
    """The state of a `RunningTransformer`, of one size however many tokens it has read.

    Attributes:
        queries: What each query has found.
        latents: What each latent has found.
        summary: ``task latent dim``, the answers of the latents, which the next tokens see.
        memory: Of the memory beneath; an empty tuple where there is none.
        seen: ``task``, the number of tokens read, in float32 at least.
    """

    queries: Found
    latents: Found
    summary: Tensor
    memory: Any
    seen: Tensor


class Minibatch(NamedTuple):
    """A minibatch, for queries to read.

    Attributes:
        slots: Each layer's keys and values of the tokens; None where these depend on what was read
            before, and so are computed when the minibatch is read.
        tokens: The tokens where `slots` is None.
        questions: Their questions, if they were given, where `slots` is None.
        mask: ``task n`` bool, True where a token is observed.
    """

    slots: TransformerMemory | None
    tokens: Tensor | None
    questions: Tensor | None
    mask: Tensor


class RunningTransformer(nn.Module):
    """Softmax attention over everything that was read, in flat memory.

    For each query, layer and head the state keeps the log-normaliser s and the value v of attention
    to all tokens read so far. A minibatch, with s_B and v_B of its own, adds

        s' = log(e^s + e^s_B),    v' = e^(s - s') v + e^(s_B - s') v_B.

    A query attends to all of them and to itself, never to another query. With one layer this is
    attention over the whole set, for any cut into minibatches (while `temperature` and
    `embed_count` are 0, as at the start). In deeper layers a token's key is that of its minibatch,
    and a query's depends on what it had found by then.

    Tokens and queries get `Products` of their own numbers before the first layer, and queries are
    told how many tokens were read. Tokens of a minibatch attend to one another where the encoder
    has self-attention. With latents they also see what was read before: latents are learned
    queries, and their answers join the tokens of the next minibatch. With a `memory`, tokens and
    queries first read it, and what attention finds is added to its answer:

        answer = memory answer + (1 + n)^-r norm(x).

    Scores are multiplied by ``1 + a log(1 + n) / 4`` with a learned a for each head, `temperature`:
    attention over 10,000 tokens has to be sharper than over 100.

    Args:
        encoder: The layers.
        num_latents: Learned queries whose answers the next minibatch sees.
        memory: What lies beneath, a `MemoryTransformer` for one, of the same `dim`.

    Raises:
        ValueError: If `num_latents` is below 0.

    Source:
        Ours. The sums are those of attention computed in blocks (Milakov and Gimelshein, 2018,
        arXiv 1805.02867), kept from one minibatch to the next; a temperature in log n is the
        scalable softmax of Nakanishi (2025), arXiv 2501.19399.

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
        memory: ScanningMemory[Any] | None = None,
    ) -> None:
        super().__init__()
        if num_latents < 0:
            raise ValueError(f"`num_latents` must be at least 0; got {num_latents}.")
        self.encoder, self.memory = encoder, memory
        self.dim, num_layers = encoder.dim, len(encoder.blocks)
        self.temperature = nn.Parameter(torch.zeros(num_layers, encoder.num_heads))
        self.latents = nn.Parameter(torch.randn(num_latents, self.dim) * 0.5)
        if num_latents:
            self.embed_summary = nn.Linear(self.dim, self.dim)
        self.embed_count = nn.Linear(_NUM_COUNTS, self.dim, bias=False)
        nn.init.zeros_(self.embed_count.weight)
        self.products = Products(self.dim) if memory is None else None
        if memory is not None:
            self.rate = nn.Parameter(torch.tensor(-3.0))  # r = softplus(rate), 0.05 at the start

    def start(self, num_tasks: int, num_queries: int) -> RunningMemory:
        """Nothing read yet, on the device of the parameters."""
        like = self.temperature
        like = like.new_empty(0, dtype=torch.promote_types(like.dtype, torch.float32))
        memory = () if self.memory is None else self.memory.empty(num_tasks)
        num_latents = len(self.latents)
        return RunningMemory(
            self._nothing(like, num_tasks, num_queries),
            self._nothing(like, num_tasks, num_latents),
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
            questions: Each token's input without its target, for the memory beneath.
            mask: True where a token is observed; None where all are.

        Returns:
            The minibatch for `read`; gradients flow to `tokens` and `questions`.

        Raises:
            ValueError: If `tokens`, `questions` or `mask` has the wrong shape, or `mask` is not
                bool.
        """
        check_tokens(tokens, mask, self.dim)
        if mask is None:
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        if self.products is None:
            return Minibatch(None, tokens, questions, mask)
        tokens = as_weights(tokens, self.temperature).masked_fill(~mask[..., None], 0.0)
        tokens = self.products(tokens)
        if len(self.latents):
            return Minibatch(None, tokens, None, mask)
        return Minibatch(self.encoder.encode(tokens, mask=mask), None, None, mask)

    def read(
        self,
        queries: Float[Tensor, "task m dim"],
        minibatch: Minibatch,
        state: RunningMemory,
    ) -> tuple[Float[Tensor, "task m dim"], RunningMemory]:
        """Answers each query from all that was read so far and this minibatch.

        Args:
            queries: The queries that the state was started for, in their order.
            minibatch: What `encode` returned for these tasks.
            state: What `start`, or the read before, returned. It is not changed.

        Returns:
            One answer a query, and the state after the minibatch, whose tasks without an observed
            token stay as they were. Gradients flow to `queries` and through the minibatch and the
            state.

        Raises:
            ValueError: If `queries` are not as many as the state has, or of another size.
        """
        check_queries(queries, state.seen, self.dim)
        if queries.shape[1] != state.queries.value[0].shape[2]:
            raise ValueError(
                f"`queries` must be the {state.queries.value[0].shape[2]} of the state; got "
                f"{queries.shape[1]}."
            )
        seen = state.seen + count_tokens(minibatch.mask, state.seen)
        told, memory, slots = queries, state.memory, minibatch.slots
        if slots is None:
            slots, memory = self._slots(minibatch, state)
        if self.memory is not None:
            told = self.memory.read(queries, memory)
        elif self.products is not None:
            told = self.products(as_weights(queries, self.temperature))
        latents = self.latents.to(told.dtype).expand(len(told), -1, -1)
        x, found = self._attend(torch.cat([latents, told], 1), slots, seen, state)
        num_latents = latents.shape[1]
        answers, summary = x[:, num_latents:], x[:, :num_latents]
        if self.memory is not None:
            share = (1 + seen)[:, None, None] ** -F.softplus(self.rate).to(seen.dtype)
            answers = told + share.to(told.dtype) * answers
        of_latents, of_queries = (
            _part(found, part) for part in (slice(num_latents), slice(num_latents, None))
        )
        summary = summary.to(state.summary.dtype)
        return answers, RunningMemory(of_queries, of_latents, summary, memory, seen)

    def _slots(self, minibatch: Minibatch, state: RunningMemory) -> tuple[TransformerMemory, Any]:
        """Keys and values of the tokens, which see the memory beneath and the latents' answers."""
        tokens, mask, memory = minibatch.tokens, minibatch.mask, state.memory
        num_tokens = tokens.shape[1]
        if self.memory is not None:
            tokens, memory = self.memory.scan(
                memory, tokens, questions=minibatch.questions, mask=mask
            )
        if len(self.latents):
            summary = self.embed_summary(state.summary.to(self.latents.dtype))
            tokens = torch.cat([tokens, summary], 1)
            mask = torch.cat([mask, mask.new_ones(summary.shape[:2])], 1)
        slots = self.encoder.encode(tokens, mask=mask)
        keys, values = (tuple(leaf[:, :, :num_tokens] for leaf in part) for part in slots[:2])
        return TransformerMemory(keys, values, minibatch.mask), memory

    def _attend(
        self, x: Tokens, slots: TransformerMemory, seen: Tensor, state: RunningMemory
    ) -> tuple[Tokens, Found]:
        """Latents and queries after the last layer, normalised, and what each has found."""
        normalisers, values = [], []
        sharpness = (1 + seen).log()[:, None] / 4  # task 1
        x = x + self.embed_count(_counts(state.seen, seen).to(x.dtype))[:, None]
        for layer, block in enumerate(self.encoder.blocks):
            query, key, value = block.project(x)
            scale = 1 + self.temperature[layer] * sharpness
            query = query.to(seen.dtype) * (scale * query.shape[3] ** -0.5)[..., None, None]
            old = _together(state, layer)
            normaliser, mean = _add(query, slots.keys[layer], slots.values[layer], slots.mask, *old)
            own = (query * key).sum(3)
            total = torch.logaddexp(normaliser, own)
            share = (normaliser - total).exp()[..., None]
            attended = share * mean + (own - total).exp()[..., None] * value
            x = block.finish(x, attended.to(x.dtype))
            normalisers.append(normaliser)
            values.append(mean)
        return self.encoder.norm(x), Found(tuple(normalisers), tuple(values))

    def _nothing(self, like: Tensor, num_tasks: int, num_queries: int) -> Found:
        shape = num_tasks, self.encoder.num_heads, num_queries
        layers = range(len(self.temperature))
        return Found(
            tuple(like.new_full(shape, _NOTHING) for _ in layers),
            tuple(like.new_zeros(*shape, self.dim // self.encoder.num_heads) for _ in layers),
        )


def _counts(before: Float[Tensor, " task"], seen: Float[Tensor, " task"]) -> Tensor:
    """The number of tokens read, and the minibatch's share in it, as numbers in [0, 1]."""
    root = (1 + seen).rsqrt()
    share = (seen - before) / seen.clamp(min=1)
    return torch.stack([root, root.sqrt(), share, share.sqrt()], dim=-1)


def _add(
    query: Float[Tensor, "task head m key"],
    keys: Float[Tensor, "task head n key"],
    values: Float[Tensor, "task head n key"],
    mask: Bool[Tensor, "task n"],
    normaliser: Float[Tensor, "task head m"],
    mean: Float[Tensor, "task head m key"],
) -> tuple[Float[Tensor, "task head m"], Float[Tensor, "task head m key"]]:
    """The log-normaliser and the mean, with the observed tokens of a minibatch added."""
    if not mask.shape[1]:
        return normaliser, mean
    scores = query @ keys.to(query.dtype).transpose(2, 3)
    scores = scores.masked_fill(~mask[:, None, None], _NOTHING)
    new = scores.logsumexp(3)
    total = torch.logaddexp(normaliser, new)
    weights = (scores - total[..., None]).exp()
    moved = mean * (normaliser - total).exp()[..., None] + weights @ values.to(query.dtype)
    informed = mask.any(1)[:, None, None]
    return total.where(informed, normaliser), moved.where(informed[..., None], mean)


def _together(state: RunningMemory, layer: int) -> tuple[Tensor, Tensor]:
    """What latents and queries have found in a layer, one after the other."""
    parts = state.latents, state.queries
    return (
        torch.cat([part.log_normaliser[layer] for part in parts], 2),
        torch.cat([part.value[layer] for part in parts], 2),
    )


def _part(found: Found, part: slice) -> Found:
    return Found(
        tuple(leaf[:, :, part] for leaf in found.log_normaliser),
        tuple(leaf[:, :, part] for leaf in found.value),
    )
