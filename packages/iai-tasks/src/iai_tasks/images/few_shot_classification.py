"""Few-shot classification: a few images of each of a few classes, numbered anew in every task."""

from collections.abc import Iterable

import torch
from jaxtyping import Int64
from torch import Tensor

from iai_tasks.examples import Examples
from iai_tasks.image_classes import ImageClasses
from iai_tasks.sampler import AbstractSampler
from iai_tasks.spec import Categorical, TaskSpec

Classes = Int64[Tensor, "task ways"]


class FewShotClassification(AbstractSampler):
    """Tasks that tell `ways` classes of images apart, from a few labelled images of each.

    A task is `ways` distinct classes in random order, which it numbers from 0. Support and query
    are balanced: with `num_support=ways * shots` every class has exactly `shots` images. With any
    other number some classes, drawn at random, have one image more than the rest. No image occurs
    twice in a task, and examples come in random order.

    The latent of a task is its classes, `task ways`, numbered as in `images`. Rotated by k quarters
    of a circle, class c has number c + k * `images.num_classes`.

    Images stay on their device; those that are drawn are copied to the generator's device. Call
    `images.to(device)` first to avoid the copy. Images of uint8 become numbers from 0 to 1 in
    torch's default dtype.

    Args:
        images: All images, of any split.
        classes: The classes that tasks are made of, such as `split.train`.
        ways: Classes of a task.
        rotations: Whether every class of a task is rotated by 0, 90, 180 or 270 degrees, drawn for
            each class: four times as many classes. All four belong to the split of their class, so
            no test class is a rotated training class. A task never has a class twice, at two
            angles, because some letters look the same at both.

    Raises:
        ValueError: If `ways` is below 1 or above the number of classes, a class does not exist or
            is given twice, or the images to be rotated are not square.

    Source:
        Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra, 2016, "Matching Networks for One Shot
        Learning", arXiv 1606.04080, section 4.1; Finn, Abbeel, Levine, 2017, "Model-Agnostic
        Meta-Learning", arXiv 1703.03400, section 5.2, whose rotations these are.

    >>> letters = ImageClasses(
    ...     images=torch.arange(60).reshape(60, 1, 1, 1).to(torch.uint8),
    ...     labels=torch.arange(60) % 6,
    ...     class_names=tuple("abcdef"),
    ... )
    >>> sampler = FewShotClassification(letters, [0, 2, 4, 5], ways=3)
    >>> generator = torch.Generator().manual_seed(0)
    >>> tasks = sampler.sample(2, num_support=3 * 2, num_query=3, generator=generator)
    >>> tasks.support.x.shape, tasks.support.y.sort().values[0].tolist()
    (torch.Size([2, 6, 1, 1, 1]), [0, 0, 1, 1, 2, 2])
    """

    latent_holds = "classes"

    def __init__(
        self, images: ImageClasses, classes: Iterable[int], *, ways: int, rotations: bool = False
    ) -> None:
        numbers = [int(one) for one in classes]
        if not 1 <= ways <= len(numbers):
            raise ValueError(
                f"`ways` must be from 1 to {len(numbers)}, the number of `classes`; got {ways}."
            )
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"`classes` must have each class once; got {numbers}.")
        wrong = [number for number in numbers if not 0 <= number < images.num_classes]
        if wrong:
            raise ValueError(
                f"`classes` must be from 0 to {images.num_classes - 1}, those of `images`; "
                f"got {wrong[0]}."
            )
        height, width = images.image_shape[1:]
        if rotations and height != width:
            raise ValueError(f"`images` to be rotated must be square; got {height} x {width}.")
        self._images, self._ways, self._num_turns = images, ways, 4 if rotations else 1
        counts = images.counts.tolist()
        self._smallest = min(numbers, key=lambda number: counts[number])
        self._largest_count = max(counts[number] for number in numbers)
        device = images.images.device
        self._classes = torch.tensor(numbers, device=device)
        self._counts = images.counts.to(device)
        self._order = images.labels.to(device).argsort(stable=True)  # images, class after class
        self._begin = self._counts.cumsum(0) - self._counts  # of each class in that order

    @property
    def spec(self) -> TaskSpec:
        """Images, and one of `ways` classes."""
        shape = self._images.image_shape
        return TaskSpec(support_x_shape=shape, query_x_shape=shape, target=Categorical(self._ways))

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """`ways` classes."""
        return (self._ways,)

    def draw_latent(self, num_tasks: int, generator: torch.Generator) -> Classes:
        """Draws distinct classes, and the rotation of each."""
        device = generator.device
        keys = torch.rand(num_tasks, len(self._classes), generator=generator, device=device)
        classes = self._classes.to(device)[keys.topk(self._ways, dim=1).indices]
        if self._num_turns == 1:
            return classes
        turns = torch.randint(self._num_turns, classes.shape, generator=generator, device=device)
        return classes + turns * self._images.num_classes

    def check_latent(self, latent: Classes) -> None:
        """Raises a ValueError if the latent holds a class that the sampler has not got."""
        num_classes = self._images.num_classes
        known = torch.isin(latent % num_classes, self._classes.to(latent.device))
        known &= (latent >= 0) & (latent < self._num_turns * num_classes)
        if not known.all():
            raise ValueError(
                "`latent` must hold classes of this sampler; "
                f"{int(latent[~known][0])} is none of them."
            )

    def draw_examples(
        self, latent: Classes, num_support: int, num_query: int, generator: torch.Generator
    ) -> tuple[Examples, Examples]:
        """Draws images of the classes, and numbers each class by its index in the latent.

        Raises:
            ValueError: If the smallest class has too few images.
        """
        shots, queries = -(-num_support // self._ways), -(-num_query // self._ways)
        available = int(self._images.counts[self._smallest])
        if shots + queries > available:
            raise ValueError(
                f"`num_support` + `num_query` take {shots} + {queries} images of a class; "
                f"class {self._images.class_names[self._smallest]!r} has {available}."
            )
        image = self._draw_images(latent, shots + queries, generator)
        support = self._examples(latent, image[:, :, :shots], num_support, generator)
        return support, self._examples(latent, image[:, :, shots:], num_query, generator)

    def _draw_images(
        self, latent: Classes, num: int, generator: torch.Generator
    ) -> Int64[Tensor, "task ways shot"]:
        """Distinct images of each class, in random order."""
        device = latent.device
        classes = latent % self._images.num_classes
        # Sorting random keys draws for all tasks at once; images that a class has not got are last.
        shape = (*classes.shape, self._largest_count)
        keys = torch.rand(shape, generator=generator, device=device)
        index = torch.arange(self._largest_count, device=device)
        keys.masked_fill_(index >= self._counts.to(device)[classes][..., None], -1.0)
        within = keys.topk(num, dim=2).indices
        return self._order.to(device)[self._begin.to(device)[classes][..., None] + within]

    def _examples(
        self,
        latent: Classes,
        image: Int64[Tensor, "task ways shot"],
        num: int,
        generator: torch.Generator,
    ) -> Examples:
        num_tasks, ways, shots = image.shape
        device = latent.device
        # A list of all classes, again and again in one random order, is cut at `num` and shuffled.
        classes = torch.rand(num_tasks, ways, generator=generator, device=device).argsort(dim=1)
        index = torch.rand(num_tasks, num, generator=generator, device=device).argsort(dim=1)
        y = classes.gather(1, index % ways)
        picked = image.flatten(1).gather(1, y * shots + index // ways)
        x = upright = self._images.images[picked.to(self._images.images.device)].to(device)
        turn = (latent.gather(1, y) // self._images.num_classes)[..., None, None, None]
        for quarters in range(1, self._num_turns):
            x = torch.where(turn == quarters, upright.rot90(quarters, dims=(3, 4)), x)
        if not x.is_floating_point():
            x = x.to(torch.get_default_dtype()) / 255
        return Examples(x=x, y=y)
