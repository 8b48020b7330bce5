"""Projected classification: fixed tasks, fresh and distinct examples, the right variance."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_tasks import Categorical, LabelledImages, ProjectedClassification, TaskSpec
from iai_tasks.images import projected_classification


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def labelled(num=20, num_classes=4, shape=(5,), seed=0):
    images = torch.randn(num, *shape, generator=generator(seed)) * 3 + 7
    return images, torch.arange(num) % num_classes


def draw(sampler, num_tasks, num_support, num_query=0, seed=0, latent=None):
    counts = {"num_support": num_support, "num_query": num_query}
    return sampler.sample(num_tasks, **counts, generator=generator(seed), latent=latent)


def ordered(examples):
    """The examples of every task, sorted by their first number."""
    order = examples.x[..., 0].argsort(dim=1)
    return examples[torch.arange(len(order))[:, None], order]


def assert_same_up_to_order(one, two):
    """Each example of `one` is the nearest of `two`, and no two have the same nearest."""
    distance = (one.x[:, :, None] - two.x[:, None]).abs().amax(dim=-1)
    nearest = distance.argmin(dim=2)
    matched = two[torch.arange(len(nearest))[:, None], nearest]
    torch.testing.assert_close(matched.x, one.x, rtol=1e-4, atol=1e-5)
    assert torch.equal(matched.y, one.y)
    assert (nearest.sort(dim=1).values == torch.arange(one.num_examples)).all()


SIGNED = torch.tensor([[1.0, -2.0, 3.0], [0.0, 0.0, 0.0], [-1.0, 2.0, -3.0]])
"""v, 0 and -v, of classes 0, 1 and 2: their mean is 0 and their variance 28 / 9."""


def test_a_projection_has_variance_one_over_the_size_of_the_input():
    """The numbers of one normalised image have mean square 1: so have its projections."""
    sampler = ProjectedClassification(torch.rand(1, 7, generator=generator()), torch.tensor([0]))
    x = draw(sampler, 5000, 1).support.x[:, 0].double()
    assert abs(x.mean().item()) < 0.02
    assert abs(x.var().item() - 1) < 0.03
    assert abs(x.pow(4).mean().item() - 3) < 0.15
    assert (torch.corrcoef(x.T) - torch.eye(7)).abs().max() < 0.06  # the rows are independent


def test_a_projection_is_linear_and_its_columns_are_independent():
    sampler = ProjectedClassification(SIGNED, torch.arange(3), projection_dim=2)
    x = ordered(draw(sampler, 4000, 3).support).x
    assert not x[:, 1].any()
    torch.testing.assert_close(x[:, 0], -x[:, 2])
    # Columns that were correlated would give another mean square than |v|^2 / (28 / 9) / 3.
    assert abs(x[:, 2].square().mean().item() - 14 / (28 / 9) / 3) < 0.05


@given(seed=st.integers(0, 2**63 - 1), k=st.integers(2, 4), other=st.integers(0, 99))
def test_a_seed_fixes_the_task_whatever_the_generator_says(seed, k, other):
    sampler = ProjectedClassification(*labelled(), projection_dim=3, num_classes=k)
    latent = torch.tensor([seed, 17])
    # All images of its classes, so that two draws differ in nothing but their order.
    first, again = (draw(sampler, 2, 5 * k, seed=s, latent=latent).support for s in (other, 100))
    assert not torch.equal(first.x, again.x)
    assert_same_up_to_order(first, again)


@given(seed=st.integers(0, 999))
def test_a_task_does_not_depend_on_the_others_of_its_batch(seed):
    sampler = ProjectedClassification(*labelled(), num_classes=3)
    latent = torch.randint(2**40, (4,), generator=generator(seed))
    together = draw(sampler, 4, 15, latent=latent).support
    for task in (slice(i, i + 1) for i in range(4)):
        alone = draw(sampler, 1, 15, latent=latent[task]).support
        assert_same_up_to_order(alone, together[task])


def test_two_seeds_are_two_tasks():
    sampler = ProjectedClassification(*labelled())
    x = ordered(draw(sampler, 2, 20, latent=torch.tensor([0, 1])).support).x
    assert (x[0] - x[1]).abs().max() > 0.1


@given(num_support=st.integers(0, 10), k=st.integers(2, 4), seed=st.integers(0, 999))
def test_support_and_query_are_distinct_images(num_support, k, seed):
    """Asked for all images of the classes at once, a task gets each of them exactly once."""
    sampler = ProjectedClassification(*labelled(), num_classes=k)
    batch = draw(sampler, 3, num_support, 5 * k - num_support, seed=seed)
    x = torch.cat((batch.support.x, batch.query.x), dim=1)
    labels = torch.cat((batch.support.y, batch.query.y), dim=1)
    for task in range(3):
        assert len(x[task].unique(dim=0)) == 5 * k
        assert labels[task].bincount(minlength=k).tolist() == [5] * k


def test_queries_come_from_their_own_images_normalised_like_the_support():
    images, labels = labelled()
    query_images = images.mean() + torch.tensor([[0.0] * 5, [1.0] * 5, [2.0] * 5])
    sampler = ProjectedClassification(
        images, labels, query_images=query_images, query_labels=np.array([3, 3, 3])
    )
    query = ordered(draw(sampler, 50, 20, 3).query)
    ends = query.x[:, [0, 2]]
    middle = ends.mean(dim=1)  # the three lie on a line through the origin
    torch.testing.assert_close(query.x[:, 1], middle, rtol=1e-4, atol=1e-5)
    assert (ends.abs().amax(dim=2).amin(dim=1) < 1e-5).all()
    assert (query.y == query.y[:, :1]).all()


def test_every_image_is_as_likely_at_every_place():
    sampler = ProjectedClassification(*labelled(num=6, num_classes=2), projection_dim=1)
    batch = draw(sampler, 6000, 3, latent=torch.zeros(6000, dtype=torch.int64))
    # Rounded, for the last digit of a projection varies with its place in the batch.
    values, place = (batch.support.x * 1e4).round().unique(return_inverse=True)
    assert len(values) == 6
    for position in range(3):
        counts = place[:, position].flatten().bincount().double()
        assert ((counts - 1000).square() / 1000).sum() < 22  # chi-square, 5 degrees: p = 0.0005


def test_every_choice_of_classes_and_every_numbering_is_as_likely():
    """The zero image marks base class 1: out of the task, its class 0, or its class 1."""
    sampler = ProjectedClassification(SIGNED, torch.arange(3), num_classes=2)
    support = draw(sampler, 6000, 2).support
    marked = (support.x == 0).all(dim=-1)
    number = torch.where(marked.any(dim=1), (support.y * marked).sum(dim=1), 2)
    counts = number.bincount(minlength=3).double()
    assert ((counts - 2000).square() / 2000).sum() < 15  # chi-square, 2 degrees: p = 0.0005
    assert torch.equal(support.y.sort(dim=1).values, torch.tensor([[0, 1]]).expand(6000, 2))


def test_the_numbering_says_nothing_of_the_projection():
    """Class 2 is the largest image, and the size of its projection is that of A."""
    sampler = ProjectedClassification(torch.tensor([[0.0], [0.0], [3.0]]), torch.arange(3))
    support = draw(sampler, 6000, 3).support
    size, marked = support.x[..., 0].abs().max(dim=1)
    number = support.y.gather(1, marked[:, None])[:, 0].double()
    assert torch.corrcoef(torch.stack((size.double(), number)))[0, 1].abs() < 0.05


def test_seen_and_unseen_seeds_are_disjoint():
    seen = ProjectedClassification(*labelled(), num_tasks=4)
    unseen = ProjectedClassification(*labelled(), first_seed=4)
    held_out = ProjectedClassification(*labelled(), num_tasks=2, first_seed=4)
    assert draw(seen, 100, 1).latent.unique().tolist() == [0, 1, 2, 3]
    assert draw(held_out, 100, 1).latent.unique().tolist() == [4, 5]
    latent = draw(unseen, 1000, 1).latent
    assert latent.min() >= 4
    assert len(latent.unique()) == 1000


@pytest.mark.parametrize("pixels", [5, 6])
def test_the_result_does_not_depend_on_the_block(monkeypatch, pixels):
    sampler = ProjectedClassification(*labelled(shape=(pixels,)), projection_dim=7)
    whole = draw(sampler, 3, 8)
    for block in (1, 3 * pixels * 2, 3 * pixels * 3):
        monkeypatch.setattr(projected_classification, "_BLOCK", block)
        torch.testing.assert_close(draw(sampler, 3, 8).support.x, whole.support.x)


def test_arrays_of_any_real_dtype_and_image_shape_are_taken():
    pixels = np.random.default_rng(0).integers(0, 256, (12, 2, 3), dtype=np.uint8)
    labels = np.arange(12, dtype=np.int32) % 3
    raw = ProjectedClassification(pixels, labels)
    flat = ProjectedClassification(
        torch.as_tensor(pixels).double().flatten(1), torch.as_tensor(labels)
    )
    one, two = draw(raw, 2, 12), draw(flat, 2, 12)
    assert one.support.x.dtype == torch.get_default_dtype()
    torch.testing.assert_close(one.support.x, two.support.x)
    assert torch.equal(one.support.y, two.support.y)


def test_the_spec_says_what_a_task_looks_like():
    shape = {"support_x_shape": (5,), "query_x_shape": (5,)}
    whole = TaskSpec(**shape, target=Categorical(4))
    assert ProjectedClassification(*labelled()).spec == whole
    small = ProjectedClassification(*labelled(), projection_dim=2, num_classes=3).spec
    assert small.support_x_shape == small.query_x_shape == (2,)
    assert small.target == Categorical(3)


def test_more_images_than_the_smallest_classes_hold():
    images, labels = labelled(num=9, num_classes=2)  # five of class 0, four of class 1
    query = {"query_images": images[:3], "query_labels": labels[:3]}
    one = ProjectedClassification(images, labels, num_classes=1)
    draw(one, 50, 3, 1)
    text = r"^`num_support` \+ `num_query` must be at most 4, the .* of the 1 smallest .*; got 5\.$"
    with pytest.raises(ValueError, match=text):
        draw(one, 1, 3, 2)
    two = ProjectedClassification(images, labels, **query)
    draw(two, 50, 9, 3)
    with pytest.raises(ValueError, match=r"^`num_support` must be at most 9, the .*; got 10\.$"):
        draw(two, 1, 10, 0)
    with pytest.raises(ValueError, match=r"^`num_query` must be at most 3, the .*; got 4\.$"):
        draw(two, 1, 0, 4)


@given(seed=st.integers(0, 2**40), rows=st.integers(1, 6))
def test_a_rotation_keeps_lengths_and_angles(seed, rows):
    images, labels = labelled(num=12, shape=(6,))
    sampler = ProjectedClassification(images, labels, projection="rotation", projection_dim=rows)
    whole = ProjectedClassification(images, labels, projection="rotation")
    latent = torch.tensor([seed])
    x = draw(sampler, 1, 12, latent=latent).support.x[0]
    full = draw(whole, 1, 12, latent=latent).support.x[0]
    flat = (images - images.mean()) / images.std(correction=0)
    expected = (flat @ flat.T).flatten().sort().values
    torch.testing.assert_close(
        (full @ full.T).flatten().sort().values, expected, rtol=1e-4, atol=1e-4
    )
    assert (x.square().sum(-1) <= full.square().sum(-1) + 1e-4).all()


def test_rotations_are_uniform():
    """The first row is a direction at random: its mean is 0 and its second moment I / N_x."""
    sampler = ProjectedClassification(
        SIGNED, torch.arange(3), projection="rotation", projection_dim=1
    )
    x = ordered(draw(sampler, 6000, 3).support).x[:, 2, 0]  # of the larger of v and -v: |v . a|
    size = 14 / (28 / 9)  # |v|^2, normalised
    assert abs(x.square().mean().item() - size / 3) < 0.05
    assert abs(x.pow(4).mean().item() - 3 * size**2 / 15) < 0.2


@given(seed=st.integers(0, 999), fewest=st.integers(1, 4), most=st.integers(1, 4))
def test_a_range_of_classes_and_labels(seed, fewest, most):
    fewest, most = sorted((fewest, most))
    sampler = ProjectedClassification(*labelled(), num_classes=(fewest, most), num_labels=7)
    assert sampler.spec.target == Categorical(7)
    y = draw(sampler, 40, 5 * fewest, seed=seed).support.y
    counts = [len(task.unique()) for task in y]
    assert max(counts) <= most and int(y.min()) >= 0 and int(y.max()) < 7


def test_numbers_of_classes_and_their_labels_are_all_as_likely():
    images, labels = torch.randn(400, 3, generator=generator()), torch.arange(400) % 4
    sampler = ProjectedClassification(images, labels, num_classes=(2, 4), num_labels=6)
    y = draw(sampler, 3000, 60).support.y  # 60 of 200 images: every class of a task comes up
    used = torch.nn.functional.one_hot(y, 6).any(1)
    sizes = used.sum(1).bincount(minlength=5)[2:].double()
    assert ((sizes - 1000).square() / 1000).sum() < 15  # chi-square, 2 degrees: p = 0.0005
    share = used.double().mean(0)  # 3 of 6 labels in use on average
    assert (share - 0.5).abs().max() < 0.04


def test_without_labels_beyond_its_own_a_task_numbers_its_classes_from_0():
    images, labels = torch.randn(400, 3, generator=generator()), torch.arange(400) % 4
    sampler = ProjectedClassification(images, labels, num_classes=(2, 4))
    assert sampler.spec.target == Categorical(4)
    for task in draw(sampler, 50, 60).support.y:
        found = task.unique().tolist()
        assert found == list(range(len(found)))


def test_held_out_images_are_asked_about():
    (train, train_labels), (test, test_labels) = labelled(), labelled(12, seed=1)
    parts = {"train_images": train, "train_labels": train_labels}
    images = LabelledImages(**parts, test_images=test, test_labels=test_labels)
    options = {"projection_dim": 3, "first_seed": 9}
    by_hand = ProjectedClassification(
        train, train_labels, query_images=test, query_labels=test_labels, **options
    )
    one, two = (
        draw(sampler, 3, 8, 6)
        for sampler in (ProjectedClassification.held_out(images, **options), by_hand)
    )
    assert torch.equal(one.support.x, two.support.x) and torch.equal(one.query.x, two.query.x)
    assert torch.equal(one.query.y, two.query.y)
