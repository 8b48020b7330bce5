"""Examples and TaskBatch: one key for every field, and each mistake with its sentence."""

import subprocess
import sys

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_tasks import Examples, TaskBatch


def real(num_tasks=3, n=5, x_shape=(2,), y_dim=1):
    number = torch.arange(float(num_tasks * n)).reshape(num_tasks, n)
    x = number.reshape(num_tasks, n, *(1 for _ in x_shape)).expand(num_tasks, n, *x_shape)
    y = 10 * number[..., None].expand(num_tasks, n, y_dim)
    mask = torch.arange(n) < torch.arange(1, num_tasks + 1)[:, None]
    return Examples(x=x, y=y, mask=mask)


def classes(num_tasks=3, n=5):
    return Examples(x=torch.zeros(num_tasks, n, 2), y=torch.arange(n).repeat(num_tasks, 1))


@given(
    num_tasks=st.integers(1, 4),
    n=st.integers(0, 6),
    x_shape=st.lists(st.integers(1, 3), max_size=3),
    start=st.integers(-7, 7),
    stop=st.integers(-7, 7),
    seed=st.integers(0, 99),
)
def test_every_field_follows_the_key(num_tasks, n, x_shape, start, stop, seed):
    examples = real(num_tasks, n, tuple(x_shape))
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(num_tasks, (2,), generator=generator)
    order = torch.rand(num_tasks, n, generator=generator).argsort(dim=1)
    keys = [
        (slice(None), slice(start, stop)),
        (slice(None), torch.randperm(n, generator=generator)),
        (rows,),
        (rows, slice(start, stop)),
        (torch.arange(num_tasks)[:, None], order),
    ]
    for key in keys:
        taken = examples[key]
        assert torch.equal(taken.x, examples.x[key])
        assert torch.equal(taken.y, examples.y[key])
        assert torch.equal(taken.mask, examples.mask[key])
        assert taken.x.shape[2:] == examples.x.shape[2:]


def test_a_key_without_tuple_selects_tasks():
    examples = real()
    assert torch.equal(examples[1:].x, examples.x[1:])
    chosen = examples[torch.tensor([True, False, True])]
    assert chosen.num_tasks == 2
    assert torch.equal(chosen.mask, examples.mask[[0, 2]])


def test_everything_is_observed_unless_said():
    examples = classes()
    assert examples.mask.shape == (3, 5)
    assert examples.mask.all()


def test_examples_without_targets_stay_so():
    samples = Examples(x=torch.zeros(2, 4, 3))
    assert samples.y is None
    assert samples[:, :2].y is None
    assert samples.to(dtype=torch.float64).y is None


def test_to_casts_real_numbers_only():
    moved = TaskBatch(support=real(), query=classes(), latent=torch.arange(3)).to(
        dtype=torch.float64
    )
    assert moved.support.x.dtype == moved.support.y.dtype == torch.float64
    assert moved.query.y.dtype == moved.latent.dtype == torch.int64
    assert moved.support.mask.dtype == torch.bool


def test_to_moves_everything():
    batch = TaskBatch(support=real(), query=classes(), latent=torch.zeros(3)).to(device="meta")
    parts = batch.support, batch.query
    assert all(t.is_meta for part in parts for t in (part.x, part.y, part.mask))
    assert batch.latent.is_meta


def test_a_batch_selects_tasks_in_all_its_parts():
    batch = TaskBatch(support=real(n=4), query=real(n=2), latent=torch.arange(3))
    chosen = batch[torch.tensor([2, 0])]
    assert torch.equal(chosen.support.x, batch.support.x[[2, 0]])
    assert torch.equal(chosen.query.mask, batch.query.mask[[2, 0]])
    assert chosen.latent.tolist() == [2, 0]
    assert chosen.num_tasks == 2


def test_a_latent_may_be_a_pytree():
    latent = {"graph": torch.arange(3), "rates": (torch.zeros(3, 2), None)}
    batch = TaskBatch(support=real(), query=real(), latent=latent)
    chosen = batch[torch.tensor([2, 0])].to(dtype=torch.float64)
    assert chosen.latent["graph"].tolist() == [2, 0]
    rates, nothing = chosen.latent["rates"]
    assert rates.shape == (2, 2) and rates.dtype == torch.float64 and nothing is None


def test_gradients_flow_through_a_selection():
    x = torch.zeros(2, 3, 1, requires_grad=True)
    Examples(x=x)[:, 1:].x.sum().backward()
    assert x.grad[..., 0].tolist() == [[0, 1, 1], [0, 1, 1]]


def test_a_record_does_not_change():
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        real().x = torch.zeros(3, 5, 2)


X = torch.zeros(2, 3, 4)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"x": [[1.0]]}, TypeError, "`x` must be a tensor; got list."),
        ({"x": X.long()}, TypeError, "`x` must be floating point; got torch.int64."),
        ({"x": X[0, 0]}, ValueError, "`x` must have shape (task, n, *x_shape); got (4,)."),
        ({"x": X, "y": 1.0}, TypeError, "`y` must be a tensor; got float."),
        (
            {"x": X, "y": torch.zeros(2, 3, dtype=torch.int32)},
            TypeError,
            "`y` must be floating point (real targets) or int64 (classes); got torch.int32.",
        ),
        (
            {"x": X, "y": torch.zeros(2, 3)},
            ValueError,
            "`y` of dtype torch.float32 must have shape (task, n, y_dim) with the task and n of "
            "`x`, (2, 3); got (2, 3).",
        ),
        (
            {"x": X, "y": torch.zeros(2, 4, dtype=torch.int64)},
            ValueError,
            "`y` of dtype torch.int64 must have shape (task, n) with the task and n of `x`, "
            "(2, 3); got (2, 4).",
        ),
        (
            {"x": X, "y": torch.zeros(2, 3, 1, device="meta")},
            ValueError,
            "`y` must be on the device of `x`, cpu; got meta.",
        ),
        ({"x": X, "mask": [True]}, TypeError, "`mask` must be a tensor; got list."),
        (
            {"x": X, "mask": torch.ones(2, 3)},
            TypeError,
            "`mask` must be bool, True where observed; got torch.float32.",
        ),
        (
            {"x": X, "mask": torch.ones(3, 2, dtype=torch.bool)},
            ValueError,
            "`mask` of dtype torch.bool must have shape (task, n) with the task and n of `x`, "
            "(2, 3); got (3, 2).",
        ),
        (
            {"x": X, "mask": torch.ones(2, 3, dtype=torch.bool, device="meta")},
            ValueError,
            "`mask` must be on the device of `x`, cpu; got meta.",
        ),
    ],
)
def test_fields_that_do_not_fit(fields, error, text):
    with pytest.raises(error) as caught:
        Examples(**fields)
    assert str(caught.value) == text


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("key", "error", "text"),
    [
        (
            0,
            TypeError,
            "Examples and tasks are indexed by slices and tensors, never unpacked; got int.",
        ),
        (
            (slice(None), 1),
            TypeError,
            "Examples and tasks are indexed by slices and tensors, never unpacked; got slice, int.",
        ),
        ((slice(None),) * 3, IndexError, "too many indices for tensor of dimension 2"),
        (
            torch.tensor(1),
            IndexError,
            "A selection of examples must keep both axes, task and n; this key leaves shape (5,).",
        ),
        (
            real().mask,
            IndexError,
            "A selection of examples must keep both axes, task and n; this key leaves shape (6,).",
        ),
    ],
)
def test_keys_that_do_not_fit(key, error, text):
    with pytest.raises(error) as caught:
        real()[key]
    assert str(caught.value) == text


@pytest.mark.usefixtures("untyped")
def test_batches_that_do_not_fit():
    with pytest.raises(ValueError, match=r"`query` must have the 3 tasks of `support`; got 2\."):
        TaskBatch(support=real(3), query=real(2))
    with pytest.raises(
        ValueError,
        match=r"`latent` must have the 3 tasks of `support` as its first axis; got shape \(2, 1\)",
    ):
        TaskBatch(support=real(3), query=real(3), latent=torch.zeros(2, 1))
    with pytest.raises(TypeError, match=r"`latent` must be a tensor; got int\."):
        TaskBatch(support=real(3), query=real(3), latent=3)
    with pytest.raises(ValueError, match=r"`latent\['a'\]` must have the 3 tasks of `support`"):
        TaskBatch(support=real(3), query=real(3), latent={"a": torch.zeros(2, 1)})
    with pytest.raises(TypeError, match=r"`latent\[1\]` must be a tensor; got float\."):
        TaskBatch(support=real(3), query=real(3), latent=(torch.zeros(3), 0.5))
    with pytest.raises(TypeError, match="'support' must be <class 'iai_tasks"):
        TaskBatch(support=X, query=real(3))


COMPILED = """
import torch
from iai_tasks import Examples, TaskBatch

def cut(batch):
    part = batch[1:].support[:, 1:3]
    return part.x + part.y, part.mask

examples = Examples(x=torch.ones(3, 4, 1), y=torch.ones(3, 4, 1))
compiled = torch.compile(cut, fullgraph=True, backend="eager")
sums, mask = compiled(TaskBatch(support=examples, query=examples, latent={"a": torch.zeros(3)}))
assert sums.tolist() == [[[2.0]] * 2] * 2 and mask.all()
"""


def test_a_selection_compiles_whole():
    # In a process of its own, as what checks shapes in tests does not compile.
    subprocess.run([sys.executable, "-c", COMPILED], check=True)
