"""The contract of a sampler, for whoever writes one: `check_sampler(sampler)` in a test."""

from typing import Protocol, runtime_checkable

import attrs
import torch
from torch import Tensor

from iai_tasks.examples import Examples, TaskBatch
from iai_tasks.interfaces import Sampler
from iai_tasks.spec import Real, TaskSpec, check_task_batch


@runtime_checkable
class _OracleSampler(Sampler, Protocol):
    def oracle(self, batch: TaskBatch) -> Tensor: ...


def check_sampler(sampler: Sampler, *, device: torch.device | str = "cpu") -> None:
    """Holds a sampler to the contract that learners and training loops rely on.

    Batches match the `spec`, on the generator's device; the generator alone fixes a batch; tasks of
    a batch differ; an empty support is allowed; the `latent` of a batch gives new examples of the
    same tasks. An `oracle`, where there is one, answers every query, ignores what the mask hides
    and the order of the support, and knows a task again by its latent.

    Args:
        sampler: What to check. It must be able to draw 64 support and 8 query examples a task.
        device: Where to draw.

    Raises:
        AssertionError: If the contract does not hold; the text says how.

    >>> from iai_tasks import LinearRegression
    >>> check_sampler(LinearRegression(dim=2))
    """
    assert isinstance(sampler, Sampler), f"{sampler!r} has not got `spec` and `sample`."
    for seed, sizes in enumerate([(1, 0, 1), (1, 1, 1), (2, 5, 3), (5, 64, 8)]):
        _check_batch(sampler, device, seed, *sizes)
    _check_generator(sampler, device)
    _check_latent(sampler, device)
    if isinstance(sampler, _OracleSampler):
        _check_oracle(sampler, device)


def _draw(
    sampler: Sampler,
    device: torch.device | str,
    seed: int,
    num_tasks: int = 5,
    num_support: int = 8,
    num_query: int = 8,
    latent: Tensor | None = None,
) -> TaskBatch:
    return sampler.sample(
        num_tasks,
        num_support=num_support,
        num_query=num_query,
        generator=torch.Generator(device).manual_seed(seed),
        latent=latent,
    )


def _check_batch(
    sampler: Sampler,
    device: torch.device | str,
    seed: int,
    num_tasks: int,
    num_support: int,
    num_query: int,
) -> None:
    batch = _draw(sampler, device, seed, num_tasks, num_support, num_query)
    check_task_batch(batch, sampler.spec)
    assert batch.num_tasks == num_tasks, f"asked for {num_tasks} tasks, got {batch.num_tasks}."
    for role, examples, num in (
        ("support", batch.support, num_support),
        ("query", batch.query, num_query),
    ):
        got = examples.num_examples
        assert got == num, f"asked for {num} {role} examples, got {got}."
        where = examples.x.device.type
        assert where == torch.device(device).type, f"{role} is on {where}, not on {device}."


def _check_generator(sampler: Sampler, device: torch.device | str) -> None:
    global_state = torch.get_rng_state()
    first, again, other = (_draw(sampler, device, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), global_state), (
        "sample drew from torch's global generator."
    )
    assert _equal(first, again), "the same generator gave two different batches."
    assert not torch.equal(first.support.x, other.support.x), "two generators gave the same batch."
    rows = first.support.x
    assert (rows != rows[:1]).any(), "all tasks of a batch have the same support."


def _check_latent(sampler: Sampler, device: torch.device | str) -> None:
    batch = _draw(sampler, device, 0)
    assert batch.latent is not None, "sample returned no latent."
    rows = torch.tensor([3, 1], device=device)
    latent = batch.latent[rows]
    redrawn, again = (_draw(sampler, device, 1, 2, latent=latent) for _ in range(2))
    check_task_batch(redrawn, sampler.spec)
    kept = redrawn.latent is not None and torch.equal(redrawn.latent, latent)
    assert kept, "sample did not return the latent that it was given."
    assert _equal(redrawn, again), "the same generator and latent gave two different batches."
    for old, new in ((batch.support, redrawn.support), (batch.query, redrawn.query)):
        assert not torch.equal(old.x[rows], new.x), "a redraw gave the same examples again."


def _check_oracle(sampler: _OracleSampler, device: torch.device | str) -> None:
    batch = _draw(sampler, device, 0, num_support=0)
    prior = sampler.oracle(batch)
    fits = prior.ndim == 3 and prior.shape[:2] == batch.query.mask.shape
    assert fits, f"oracle must return shape (task, query, num_outputs); got {tuple(prior.shape)}."
    assert torch.isfinite(prior).all(), "oracle is not finite for an empty support."

    batch = _draw(sampler, device, 0)
    padded = attrs.evolve(batch, support=_padded_and_reversed(batch.support))
    assert torch.allclose(sampler.oracle(padded), sampler.oracle(batch), rtol=1e-4, atol=1e-4), (
        "oracle depends on masked examples or on the order of the support."
    )

    batch = _draw(sampler, device, 0, num_tasks=32, num_support=64)
    redrawn = _draw(sampler, device, 1, num_tasks=32, num_support=64, latent=batch.latent)
    others = redrawn[torch.arange(-1, 31, device=device)]
    own_error, other_error = (
        _error(sampler.oracle(attrs.evolve(tasks, query=batch.query)), batch.query, sampler.spec)
        for tasks in (redrawn, others)
    )
    assert own_error < other_error, (
        "a support redrawn from a latent says no more of its task than another task's support."
    )


def _equal(a: TaskBatch, b: TaskBatch) -> bool:
    pairs = [(a.latent, b.latent)]
    for one, other in ((a.support, b.support), (a.query, b.query)):
        pairs += [(one.x, other.x), (one.y, other.y), (one.mask, other.mask)]
    return all(
        one is other if one is None or other is None else torch.equal(one, other)
        for one, other in pairs
    )


def _padded_and_reversed(examples: Examples) -> Examples:
    """The same examples from last to first, behind one that is masked and NaN."""
    first = examples[:, :1]
    padded = Examples(
        x=torch.cat((examples.x, torch.full_like(first.x, torch.nan)), dim=1),
        y=None if examples.y is None or first.y is None else torch.cat((examples.y, first.y), 1),
        mask=torch.cat((examples.mask, torch.zeros_like(first.mask)), dim=1),
    )
    order = torch.arange(padded.num_examples, device=padded.x.device).flip(0)
    return padded[:, order]


def _error(outputs: Tensor, query: Examples, spec: TaskSpec) -> float:
    """Mean squared error of real targets, error rate of classes."""
    assert query.y is not None, "an oracle has no use without query targets."
    if isinstance(spec.target, Real):
        return float((outputs - query.y).square().mean())
    return float((outputs.argmax(dim=-1) != query.y).float().mean())
