"""The contract of a sampler, for whoever writes one: call `check_sampler(sampler)` in a test."""

from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils._pytree import tree_flatten

from iai_tasks.examples import Examples, TaskBatch
from iai_tasks.interfaces import Sampler
from iai_tasks.spec import Real, TaskSpec, check_examples

Draw = Callable[..., TaskBatch]
Oracle = Callable[[TaskBatch], Tensor]

_TASKS, _DRAWS = 64, 64  # for questions of statistics: tasks of a draw, and draws


def check_sampler(sampler: Sampler, *, device: torch.device | str = "cpu") -> None:
    """Checks what learners and training loops rely on.

    Batches match the `spec`, are on the generator's device and have inputs of torch's default
    dtype; the generator alone determines a batch; the tasks of a batch differ; a support may be
    empty; the `latent` of a batch gives new examples of the same tasks, and another latent gives
    others. Query targets differ, and queries are not taken from their support: an input occurs in
    both no more often than in two draws of the task.

    An `oracle`, if there is one, answers every query, ignores masked examples and the order of the
    support, and is better with the support of its task than with the support of another. It gives
    the posterior mean m of a real target y, or the logits of a class, up to a constant: y - m has
    mean 0 and is not correlated with m, as the one-hot class minus its probabilities is not
    correlated with the logits. An oracle that is a tenth too small fails this.

    Where a mean over tasks must be 0, it is refused if it lies more than 6 standard errors from 0,
    which by chance happens less often than once in a million, and is above a hundredth of its
    scale, which rounding is not.

    Args:
        sampler: What to check. It must be able to draw 64 support and 8 query examples for a task.
        device: Where to draw.

    Raises:
        AssertionError: If the contract does not hold; the text says how.
        TypeError: If targets are not of the kind that `spec` says.
        ValueError: If shapes or values do not match `spec`.

    >>> from iai_tasks import LinearRegression
    >>> check_sampler(LinearRegression(dim=2))
    """
    assert isinstance(sampler, Sampler), f"{sampler!r} has not got `spec` and `sample`."

    def draw(seed: int, num_tasks: int = 5, **options: Any) -> TaskBatch:
        generator = torch.Generator(device).manual_seed(seed)
        options = {"num_support": 8, "num_query": 8, **options}
        return sampler.sample(num_tasks, generator=generator, **options)

    for seed, sizes in enumerate([(1, 0, 1), (1, 1, 1), (2, 5, 3), (5, 64, 8)]):
        batch = draw(seed, sizes[0], num_support=sizes[1], num_query=sizes[2])
        _check_batch(batch, sizes, sampler.spec, torch.device(device))
    _check_generator(draw)
    _check_latent(draw, sampler.spec)
    _check_queries(draw)
    oracle: Oracle | None = getattr(sampler, "oracle", None)
    if oracle is not None:
        _check_oracle(oracle, draw, sampler.spec)


def _check_batch(
    batch: TaskBatch, sizes: tuple[int, int, int], spec: TaskSpec, device: torch.device
) -> None:
    num_tasks, num_support, num_query = sizes
    _check_values(batch, spec)
    assert batch.num_tasks == num_tasks, f"asked for {num_tasks} tasks, got {batch.num_tasks}."
    for role, examples, num in (
        ("support", batch.support, num_support),
        ("query", batch.query, num_query),
    ):
        got = examples.num_examples
        assert got == num, f"asked for {num} {role} examples, got {got}."
        dtype, usual = examples.x.dtype, torch.get_default_dtype()
        assert dtype == usual, f"{role} `x` must be {usual}, as the weights of models; got {dtype}."
        found = examples.x.device.type
        assert found == device.type, f"{role} is on {found}, not on {device.type}."


def _check_values(batch: TaskBatch, spec: TaskSpec) -> None:
    check_examples(batch.support, spec, role="support")
    check_examples(batch.query, spec, role="query")


def _check_generator(draw: Draw) -> None:
    global_state = torch.get_rng_state()
    first, again, other = (draw(seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), global_state), (
        "sample drew from torch's global generator."
    )
    assert _equal(first, again), "the same generator gave two different batches."
    assert not torch.equal(first.support.x, other.support.x), "two generators gave the same batch."
    x = first.support.x
    assert (x != x[:1]).any(), "all tasks of a batch have the same support."


def _check_latent(draw: Draw, spec: TaskSpec) -> None:
    batch = draw(0)
    assert batch.latent is not None, "sample returned no latent."
    tasks = torch.tensor([3, 1], device=batch.support.x.device)
    latent = batch[tasks].latent
    redrawn, again = (draw(1, 2, latent=latent) for _ in range(2))
    _check_values(redrawn, spec)
    assert _alike(redrawn.latent, latent), "sample did not return the latent that it was given."
    assert _equal(redrawn, again), "the same generator and latent gave two different batches."
    for old, new in ((batch.support, redrawn.support), (batch.query, redrawn.query)):
        assert not torch.equal(old.x[tasks], new.x), "a redraw gave the same examples again."
    flipped = batch[tasks.flip(0)].latent
    other = draw(1, 2, latent=flipped)
    if not _alike(flipped, latent):  # in some samplers all tasks are the same
        alike = _equal(attrs.evolve(redrawn, latent=None), attrs.evolve(other, latent=None))
        assert not alike, "the examples do not depend on the latent."


def _check_queries(draw: Draw) -> None:
    batch = draw(0, num_tasks=_TASKS)
    y = batch.query.y
    assert y is None or (y != y[:1, :1]).any(), "all query targets are the same."
    support, query = batch.support.x, batch.query.x
    if support.shape[2:] == query.shape[2:]:
        redrawn = draw(1, num_tasks=_TASKS, latent=batch.latent).support.x
        more = _share_found(query, support) - _share_found(query, redrawn)
        assert not (more.mean() > 0 and _differs(more)), (
            "queries are taken from the support: they must be other examples of the task."
        )


def _share_found(query: Tensor, support: Tensor) -> Tensor:
    """The share of a task's queries that are among its support, `task 1`."""
    found = [(query == one[:, None]).flatten(2).all(-1) for one in support.unbind(1)]
    return torch.stack(found).any(0).double().mean(1, keepdim=True)


def _differs(values: Tensor, scale: Tensor | float = 1.0) -> bool:
    """Whether the mean over tasks of any column, `task k`, is not 0: see `check_sampler`."""
    mean, error = values.mean(0).abs(), values.std(0) / len(values) ** 0.5
    return bool(((mean > 6 * error) & (mean > 0.01 * scale)).any())


def _check_oracle(oracle: Oracle, draw: Draw, spec: TaskSpec) -> None:
    batch = draw(0, num_support=0)
    prior = oracle(batch)
    size = spec.target.dim if isinstance(spec.target, Real) else spec.target.num_classes
    wanted, got = (*batch.query.mask.shape, size), tuple(prior.shape)
    sentence = "oracle must return shape (task, query, num_outputs)"
    assert got == wanted, f"{sentence}, {wanted}; got {got}."
    assert torch.isfinite(prior).all(), "oracle is not finite for an empty support."

    batch = draw(0)
    padded = attrs.evolve(batch, support=_padded_and_reversed(batch.support))
    assert torch.allclose(oracle(padded), oracle(batch), rtol=1e-4, atol=1e-4), (
        "oracle depends on masked examples or on the order of the support."
    )

    batch = draw(0, num_tasks=32, num_support=64)
    redrawn = draw(1, num_tasks=32, num_support=64, latent=batch.latent)
    others = redrawn[torch.arange(-1, 31, device=batch.support.x.device)]
    same_error, other_error = (
        _error(oracle(attrs.evolve(tasks, query=batch.query)), batch.query, spec)
        for tasks in (redrawn, others)
    )
    assert same_error < other_error, (
        "oracle is no better with the support of a task than with another task's."
    )
    for num_support in (4, 64):
        _check_calibration(oracle, partial(draw, num_support=num_support), spec)


def _check_calibration(oracle: Oracle, draw: Draw, spec: TaskSpec) -> None:
    """The error of a posterior mean has mean 0, and is not correlated with the answer."""
    real = isinstance(spec.target, Real)
    sums: list[Tensor] = []
    for seed in range(_DRAWS):
        batch = draw(seed, num_tasks=_TASKS)
        assert batch.query.y is not None, "an oracle has no use without query targets."
        part = _moments(oracle(batch).double(), batch.query.y, real=real)
        sums.append(torch.where(batch.query.mask[..., None], part, 0).mean(1))
    values = torch.cat(sums)
    along, curvature = values[:, :1], values[:, 1:2]
    error, size = values[:, 2:].chunk(2, dim=1)
    kind = "the posterior mean" if real else "logits of the posterior probabilities"
    assert not _differs(error, size.mean(0).sqrt()), (
        f"oracle is not {kind}: the mean of its error is not 0."
    )
    assert not _differs(along, curvature.mean()), (
        f"oracle is not {kind}: its answers are too {'small' if along.mean() > 0 else 'large'}."
    )


def _moments(outputs: Tensor, y: Tensor, *, real: bool) -> Tensor:
    """For each query: error times answer, its scale, the errors, and the squares of the targets."""
    if real:
        target, mean, answer, weight = y.to(outputs), outputs, outputs, torch.ones_like(outputs)
    else:
        mean = weight = outputs.softmax(-1)
        answer = outputs.log_softmax(-1).clamp(min=-30)
        answer = answer - (mean * answer).sum(-1, keepdim=True)  # a constant says nothing
        target = one_hot(y.clamp(0, outputs.shape[-1] - 1), outputs.shape[-1]).to(outputs)
    error = target - mean
    along, curvature = error * answer, weight * answer.square()
    sums = [part.sum(-1, keepdim=True) for part in (along, curvature)]
    return torch.cat([*sums, error, target.square()], dim=-1)


def _equal(a: TaskBatch, b: TaskBatch) -> bool:
    pairs = []
    for one, other in ((a.support, b.support), (a.query, b.query)):
        pairs += [(one.x, other.x), (one.y, other.y), (one.mask, other.mask)]
    return _alike(a.latent, b.latent) and _alike(*zip(*pairs, strict=True))


def _alike(one: Any, other: Any) -> bool:
    """Whether two pytrees of tensors and None are equal."""
    leaves, structure = tree_flatten(one)
    others, same = tree_flatten(other)
    return structure == same and all(
        a is b if a is None or b is None else torch.equal(a, b)
        for a, b in zip(leaves, others, strict=True)
    )


def _padded_and_reversed(examples: Examples) -> Examples:
    """The same examples from last to first, after one that is masked and NaN."""
    first = examples[:, :1]
    padded = Examples(
        x=torch.cat((examples.x, torch.full_like(first.x, torch.nan)), dim=1),
        y=None if examples.y is None or first.y is None else torch.cat((examples.y, first.y), 1),
        mask=torch.cat((examples.mask, torch.zeros_like(first.mask)), dim=1),
    )
    return padded[:, torch.arange(padded.num_examples, device=padded.x.device).flip(0)]


def _error(outputs: Tensor, query: Examples, spec: TaskSpec) -> float:
    """Mean squared error of real targets, error rate of classes."""
    assert query.y is not None, "an oracle has no use without query targets."
    if isinstance(spec.target, Real):
        return float((outputs - query.y).square().mean())
    return float((outputs.argmax(dim=-1) != query.y).float().mean())
