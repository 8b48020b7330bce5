"""Few-shot tasks: balanced, distinct images of the classes in the latent, turned exactly."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_tasks import Categorical, FewShotClassification, ImageClasses, TaskSpec, split_classes

SIDE = 3


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def image_classes(counts, seed=0):
    """Random bytes, of classes with these numbers of images, in mixed order."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator(seed))]
    shape = (len(labels), 2, SIDE, SIDE)
    images = torch.randint(256, shape, generator=generator(seed + 1), dtype=torch.uint8)
    return ImageClasses(images=images, labels=labels, class_names=map(str, range(len(counts))))


def draw(sampler, num_tasks, num_support, num_query=0, seed=0, latent=None):
    counts = {"num_support": num_support, "num_query": num_query}
    return sampler.sample(num_tasks, **counts, generator=generator(seed), latent=latent)


def found(images, x, turns):
    """Which of the images each one of x is, once turned back."""
    matches = []
    for one, turn in zip(x, turns.tolist(), strict=True):
        straight = (one * 255).round().to(torch.uint8).rot90(-turn, dims=(1, 2))
        (match,) = (images.images == straight).flatten(1).all(dim=1).nonzero()[:, 0].tolist()
        matches.append(match)
    return matches


@given(
    ways=st.integers(1, 5),
    shots=st.integers(0, 3),
    queries=st.integers(0, 3),
    spare=st.integers(0, 4),
    rotations=st.booleans(),
    seed=st.integers(0, 2**40),
)
def test_a_task_is_what_its_latent_says(ways, shots, queries, spare, rotations, seed):
    counts = [shots + queries + 1 + i % (spare + 1) for i in range(8)]
    images = image_classes(counts, seed % 1000)
    classes = [7, 1, 3, 4, 6]
    sampler = FewShotClassification(images, classes, ways=ways, rotations=rotations)
    batch = draw(sampler, 3, ways * shots, ways * queries, seed)
    again = draw(sampler, 3, ways * shots, ways * queries, seed)
    assert torch.equal(batch.support.x, again.support.x)
    assert torch.equal(batch.query.y, again.query.y)
    for task in range(3):
        own = batch.latent[task] % 8
        assert len(set(own.tolist())) == ways
        assert set(own.tolist()) <= set(classes)
        used = []
        for examples, num in ((batch.support, shots), (batch.query, queries)):
            y = examples.y[task]
            assert y.bincount(minlength=ways).tolist() == [num] * ways
            index = found(images, examples.x[task], batch.latent[task][y] // 8)
            assert torch.equal(images.labels[index], own[y])
            used += index
        assert len(set(used)) == len(used)
    if not rotations:
        assert (batch.latent < 8).all()


@given(num_support=st.integers(0, 14), num_query=st.integers(0, 14), seed=st.integers(0, 2**40))
def test_numbers_that_ways_does_not_divide_are_as_balanced_as_can_be(num_support, num_query, seed):
    sampler = FewShotClassification(image_classes([10] * 5), range(5), ways=3, rotations=True)
    batch = draw(sampler, 4, num_support, num_query, seed)
    for examples, num in ((batch.support, num_support), (batch.query, num_query)):
        assert examples.x.shape == (4, num, 2, SIDE, SIDE)
        counts = torch.stack([y.bincount(minlength=3) for y in examples.y])
        assert ((counts == num // 3) | (counts == -(-num // 3))).all()


def test_the_same_classes_again_show_other_images():
    images = image_classes([50] * 6)
    sampler = FewShotClassification(images, range(6), ways=4, rotations=True)
    first = draw(sampler, 20, 8, 4)
    second = draw(sampler, 20, 8, 4, seed=1, latent=first.latent)
    assert torch.equal(first.latent, second.latent)
    assert not torch.equal(first.support.x, second.support.x)
    turns = second.latent.gather(1, second.support.y) // 6
    index = found(images, second.support.x.flatten(0, 1), turns.flatten())
    own = (second.latent % 6).gather(1, second.support.y)
    assert torch.equal(images.labels[index], own.flatten())


def test_classes_turns_images_and_orders_are_uniform():
    """Each frequency within five standard deviations of its expectation, over 4,000 tasks."""
    images = image_classes([4] * 5)
    sampler = FewShotClassification(images, range(5), ways=2, rotations=True)
    batch = draw(sampler, 4000, 2, 1)
    number = images.images.flatten(1).double().sum(dim=1)  # a turn does not change it
    assert len(number.unique()) == len(number)
    shown = (batch.support.x.flatten(2) * 255).round().double().sum(dim=2).flatten()
    events = {
        "classes": ((batch.latent % 5).flatten().bincount(minlength=5), 2 / 5),
        "turns of one place": ((batch.latent[:, 0] // 5).bincount(minlength=4), 1 / 4),
        "class of the first example": (batch.support.y[:, 0].bincount(minlength=2), 1 / 2),
        "class with a query": (batch.query.y[:, 0].bincount(minlength=2), 1 / 2),
        "images": (torch.stack([(shown == one).sum() for one in number]), 2 / 20),
    }
    for name, (counts, probability) in events.items():
        deviation = (4000 * probability * (1 - probability)) ** 0.5
        assert (counts - 4000 * probability).abs().max() < 5 * deviation, name


def test_a_turned_training_class_is_never_a_test_class():
    images = image_classes([3] * 12)
    split = split_classes(images.groups, (6, 0, 6))
    for part in (split.train, split.test):
        sampler = FewShotClassification(images, part, ways=3, rotations=True)
        classes = draw(sampler, 200, 3).latent % 12
        assert set(classes.flatten().tolist()) == set(part)


def test_bytes_become_numbers_from_0_to_1_and_other_numbers_stay():
    images = image_classes([5] * 3)
    x = draw(FewShotClassification(images, range(3), ways=3), 4, 6).support.x
    assert x.dtype == torch.get_default_dtype()
    assert x.min() >= 0
    assert x.max() <= 1
    real = ImageClasses(
        images=images.images.double() - 300, labels=images.labels, class_names="abc"
    )
    assert draw(FewShotClassification(real, range(3), ways=3), 4, 6).support.x.max() <= -45
    sampler = FewShotClassification(real, range(3), ways=2)
    assert draw(sampler, 1, 2).support.x.dtype == torch.float64
    shape = (2, SIDE, SIDE)
    assert sampler.spec == TaskSpec(
        support_x_shape=shape, query_x_shape=shape, target=Categorical(2)
    )


@pytest.mark.parametrize(
    ("classes", "options", "text"),
    [
        ([0, 1], {"ways": 3}, "`ways` must be from 1 to 2, the number of `classes`; got 3."),
        ([], {"ways": 1}, "`ways` must be from 1 to 0, the number of `classes`; got 1."),
        ([0, 1], {"ways": 0}, "`ways` must be from 1 to 2, the number of `classes`; got 0."),
        ([0, 1, 0], {"ways": 2}, "`classes` must have each class once; got [0, 1, 0]."),
        ([0, 4], {"ways": 2}, "`classes` must be from 0 to 3, those of `images`; got 4."),
        ([-1, 2], {"ways": 2}, "`classes` must be from 0 to 3, those of `images`; got -1."),
    ],
)
def test_samplers_that_cannot_be(classes, options, text):
    with pytest.raises(ValueError, match="must") as caught:
        FewShotClassification(image_classes([2] * 4), classes, **options)
    assert str(caught.value) == text


def test_only_square_images_are_turned():
    images = ImageClasses(
        images=torch.zeros(2, 1, 4, 5), labels=torch.arange(2), class_names=("a", "b")
    )
    FewShotClassification(images, range(2), ways=2)
    with pytest.raises(ValueError, match="to be rotated must be square; got 4 x 5"):
        FewShotClassification(images, range(2), ways=2, rotations=True)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (
            {"num_support": 10, "num_query": 6},
            ValueError,
            "`num_support` + `num_query` take 5 + 3 images of a class; class '2' has 6.",
        ),
        (
            {"latent": torch.zeros(2, 2)},
            TypeError,
            "`latent` must hold classes (int64); got torch.float32.",
        ),
        ({"latent": torch.tensor([[0, 2]])}, ValueError, "`latent` must have shape (2, 2)"),
        (
            {"latent": torch.tensor([[0, 2], [1, 0]])},
            ValueError,
            "`latent` must hold classes of this sampler; 1 is none of them.",
        ),
        (
            {"latent": torch.tensor([[0, 2], [2, 4]])},
            ValueError,
            "`latent` must hold classes of this sampler; 4 is none of them.",
        ),
        ({"num_tasks": 0}, ValueError, "`num_tasks` must be at least 1; got 0."),
    ],
)
def test_calls_that_do_not_fit(options, error, text):
    sampler = FewShotClassification(image_classes([9, 9, 6, 9]), [0, 2, 3], ways=2)
    call = {"num_tasks": 2, "num_support": 2, "num_query": 2, "generator": generator(), **options}
    with pytest.raises(error) as caught:
        sampler.sample(**call)
    assert text in str(caught.value)
