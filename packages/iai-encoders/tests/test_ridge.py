"""`Ridge` is Bayesian ridge regression, and defined where its matrix is singular."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_encoders import Ridge
from iai_encoders.memories.ridge import RidgeMoments
from torch.autograd import gradcheck, gradgradcheck

TASKS, HEADS, KEY = 2, 2, 3


def randn(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def build(key_dim=KEY, log_lambda=(-1.0, 0.5)):
    ridge = Ridge(len(log_lambda), key_dim)
    torch.nn.init.zeros_(ridge.log_lambda).data.add_(torch.tensor(log_lambda))
    return ridge


def store(ridge, keys, values, sizes, mask=None):
    """The means and the number of pairs seen by each task after each minibatch."""
    if mask is None:
        mask = torch.ones(len(keys), keys.shape[2], dtype=torch.bool)
    start = 0
    for size in sizes:
        start += size
        shown = mask[:, :start]
        seen = shown.sum(1).to(ridge.log_lambda.dtype)
        sums = ridge.sums(keys[:, :, :start], values[:, :, :start], shown)
        yield RidgeMoments(*(total / seen.clamp(min=1).view(-1, 1, 1, 1) for total in sums)), seen


@given(seed=st.integers(0, 2**32), sizes=st.lists(st.integers(0, 5), min_size=1, max_size=4))
def test_recalls_the_posterior_mean_of_bayesian_ridge_regression(seed, sizes):
    ridge, n = build().double(), sum(sizes)
    keys, values = randn(seed, 2, TASKS, HEADS, n, KEY)
    queries, mask = randn(seed + 1, TASKS, HEADS, 4, KEY), randn(seed, TASKS, n) < 0.5
    for step, (state, seen) in enumerate(store(ridge, keys, values, sizes, mask)):
        recalled = ridge.recall(state, queries, seen)
        for task in range(TASKS):
            shown = mask[task, : sum(sizes[: step + 1])].nonzero()[:, 0]
            for head in range(HEADS):
                k, v = keys[task, head, shown], values[task, head, shown]
                prior = ridge.log_lambda[head].exp() * torch.eye(KEY, dtype=k.dtype)
                expected = queries[task, head] @ torch.linalg.solve(k.T @ k + prior, k.T @ v)
                torch.testing.assert_close(recalled[task, head], expected, rtol=1e-9, atol=1e-9)


def few(n):
    return randn(0, TASKS, HEADS, n, 8)


SINGULAR = {
    "nothing": few(0),
    "fewer pairs than numbers a key": few(3),
    "one pair, ten times": few(1).expand(-1, -1, 10, -1),
    "one pair, a million times": few(1).expand(-1, -1, 10**6, -1),
    "keys of zero": 0 * few(5),
    "large keys": 1e4 * few(3),
    "small keys": 1e-3 * few(3),
    "keys of one direction": few(500)[..., :1] * randn(1, 8),
}


@pytest.mark.parametrize("name", SINGULAR)
def test_a_singular_matrix_is_solved_for(name):
    ridge, keys = build(8, (-20.0, -20.0)), SINGULAR[name].float()
    keys = keys.clone().requires_grad_(keys.shape[2] < 10**6)
    values, n = keys.detach().roll(1, 3) / (1e4 if name == "large keys" else 1), keys.shape[2]
    *_, (state, seen) = store(ridge, keys, values, [n // 2, n - n // 2])
    recalled = ridge.recall(state, keys[:, :, :10], seen)
    torch.testing.assert_close(recalled, values[:, :, :10], rtol=0, atol=0.01)
    inputs = [ridge.log_lambda, *([keys] if keys.requires_grad else [])]
    gradients = torch.autograd.grad(recalled.square().sum(), inputs, materialize_grads=True)
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_numbers_of_a_key_may_differ_in_scale():
    ridge, x = build(2, (-20.0,)), randn(0, 1, 1, 64, 2).float()
    keys = x * torch.tensor([1e4, 1.0])
    ((state, seen),) = store(ridge, keys, x.sum(3, keepdim=True).expand_as(x), [64])
    recalled = ridge.recall(state, keys, seen)[..., 0]
    torch.testing.assert_close(recalled, x.sum(3), rtol=0, atol=1e-3)


def test_rounding_in_a_long_stream_is_made_up_for():
    """Keys of one direction: the smallest eigenvalue of A falls below zero by 16 times eps."""
    ridge, direction = build(2, (-20.0,) * 200), randn(0, 1, 200, 1, 2).float()
    moments, n = torch.zeros(1, 200, 2, 2), 4_000
    for step, scale in enumerate(randn(1, n, 1, 200, 1, 1).float()):
        key = direction * scale
        moments = moments + (key.mT @ key - moments) / (step + 1)
    scale = moments.diagonal(dim1=2, dim2=3).double().rsqrt()
    correlation = moments.double() * scale[..., None] * scale[..., None, :]
    assert torch.linalg.eigvalsh(correlation).min() < -16 * torch.finfo(torch.float32).eps
    recalled = ridge.recall(RidgeMoments(moments, moments), direction, torch.tensor([float(n)]))
    torch.testing.assert_close(recalled, direction, rtol=1e-3, atol=1e-3)


def test_nan_stays_in_its_task():
    ridge, keys = build(), randn(0, TASKS, HEADS, 5, KEY).float()
    keys[0, 0, 0, 0] = torch.nan
    ((state, seen),) = store(ridge, keys, keys, [5])
    recalled = ridge.recall(state, torch.ones(TASKS, HEADS, 1, KEY), seen)
    assert recalled[0, 0].isnan().all()
    assert recalled[1].isfinite().all()


def test_derivatives_are_those_of_finite_differences():
    ridge = build().double()
    mask = torch.tensor([[True, True, False, True], [False] * 4])

    def recall(keys, values, queries, log_lambda):
        ridge.__dict__["log_lambda"] = log_lambda
        *_, (state, seen) = store(ridge, keys, values, [3, 1], mask)
        return ridge.recall(state, queries, seen)

    inputs = [*randn(0, 3, TASKS, HEADS, 4, KEY), ridge.log_lambda.detach()]
    inputs = [leaf.clone().requires_grad_() for leaf in inputs]
    del ridge._parameters["log_lambda"]
    assert gradcheck(recall, inputs, fast_mode=True)
    assert gradgradcheck(recall, inputs, fast_mode=True)
