"""Few-shot classification: a few images each of a few classes, which only this task numbers so."""

from collections.abc import Iterable

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from iai_tasks.examples import Examples
from iai_tasks.image_classes import ImageClasses
from iai_tasks.sampler import AbstractSampler
from iai_tasks.spec import Categorical, TaskSpec

Classes = Int64[Tensor, "task ways"]


class FewShotClassification(AbstractSampler):
    """Tasks that tell `ways` classes of images apart, from a few labelled images of each.

    A task is `ways` distinct classes in random order: what it numbers 0, 1, ... Support and query
    are balanced: with `num_support=ways * shots` every class shows exactly `shots` images. Any
    other number is allowed, and then some classes, drawn at random, have one image more than the
    rest. No image occurs twice in a task, and examples come in random order.

    The latent of a task is its classes, `task ways`, numbered as in `images`. Turned by k quarters
    of a circle, class c is number c + k * `images.num_classes`.

    Images are indexed where they lie and drawn ones are moved to the generator's device:
    `images.to(device)` first, and nothing is copied between devices.

    Args:
        images: All images, of any split.
        classes: The classes that tasks are made of, such as `split.train`.
        ways: Classes of a task.
        rotations: Whether every class of a task is turned by 0, 90, 180 or 270 degrees, drawn for
            each class: four times as many classes. All four belong to the split of their class, so
            that no test class is a training class turned. One task never has a class twice, under
            two angles: some look the same from both.

    Raises:
        ValueError: If `ways` is below 1 or above the number of classes, a class does not exist or
            is given twice, or the images to be turned are not square.

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
        if ways < 1:
            raise ValueError(f"`ways` must be at least 1; got {ways}.")
        if len(numbers) < ways:
            raise ValueError(f"`classes` must be at least {ways}, the `ways`; got {len(numbers)}.")
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"`classes` must have each class once; got {numbers}.")
        if min(numbers) < 0 or max(numbers) >= images.num_classes:
            wrong = min(numbers) if min(numbers) < 0 else max(numbers)
            raise ValueError(
                f"`classes` must be from 0 to {images.num_classes - 1}, those of `images`; "
                f"got {wrong}."
            )
        height, width = images.image_shape[1:]
        if rotations and height != width:
            raise ValueError(f"`images` to be turned must be square; got {height} x {width}.")
        self._images = images
        device = images.images.device
        self._ways, self._rotations = ways, rotations
        self._classes = torch.tensor(numbers, device=device)
        self._counts = images.counts.to(device)
        self._order = images.labels.to(device).argsort(stable=True)  # images, class after class
        self._start = self._counts.cumsum(0) - self._counts  # where each class begins in there
        counts = images.counts[numbers]
        self._fewest = int(counts.min())
        self._smallest = images.class_names[numbers[int(counts.argmin())]]
        self._most = int(counts.max())
        pixels = torch.arange(height * width, device=device).reshape(height, width)
        self._turned = torch.stack(
            [pixels.rot90(k).flatten() for k in range(4 if rotations else 1)]
        )

    @property
    def ways(self) -> int:
        """Classes of a task."""
        return self._ways

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
        """Draws distinct classes, each with its turn."""
        device = generator.device
        keys = torch.rand(num_tasks, len(self._classes), generator=generator, device=device)
        classes = self._classes.to(device)[keys.topk(self._ways, dim=1).indices]
        if not self._rotations:
            return classes
        turns = torch.randint(4, classes.shape, generator=generator, device=device)
        return classes + turns * self._images.num_classes

    def draw_examples(
        self, latent: Classes, num_support: int, num_query: int, generator: torch.Generator
    ) -> tuple[Examples, Examples]:
        """Draws images of the classes, and numbers each class by its index in the latent.

        Images of uint8 become numbers from 0 to 1 in torch's default dtype.

        Raises:
            ValueError: If the smallest class has too few images.
        """
        shots, queries = -(-num_support // self._ways), -(-num_query // self._ways)
        if shots + queries > self._fewest:
            raise ValueError(
                f"`num_support` + `num_query` take {shots} + {queries} images of a class; "
                f"class {self._smallest!r} has {self._fewest}."
            )
        image = self._draw_images(latent, shots + queries, generator)
        support = self._examples(latent, image[:, :, :shots], num_support, generator)
        return support, self._examples(latent, image[:, :, shots:], num_query, generator)

    def check_latent(self, latent: Classes) -> None:
        """Raises a ValueError if the latent holds a class that the sampler has not got."""
        turns = 4 if self._rotations else 1
        known = torch.isin(latent % self._images.num_classes, self._classes.to(latent.device))
        known &= (latent >= 0) & (latent < turns * self._images.num_classes)
        if not known.all():
            raise ValueError(
                "`latent` must hold classes of this sampler; "
                f"{int(latent[~known][0])} is none of them."
            )

    def _draw_images(
        self, latent: Classes, num: int, generator: torch.Generator
    ) -> Int64[Tensor, "task ways shot"]:
        """Distinct images of each class, in random order."""
        device = latent.device
        classes = latent % self._images.num_classes
        # Ordering by random keys is one operation for all tasks; what a class has not got is last.
        keys = torch.rand((*classes.shape, self._most), generator=generator, device=device)
        missing = (
            torch.arange(self._most, device=device) >= (self._counts.to(device)[classes][..., None])
        )
        within = keys.masked_fill_(missing, -1.0).topk(num, dim=2).indices
        return self._order.to(device)[self._start.to(device)[classes][..., None] + within]

    def _examples(
        self,
        latent: Classes,
        image: Int64[Tensor, "task ways shot"],
        num: int,
        generator: torch.Generator,
    ) -> Examples:
        num_tasks, ways, _ = image.shape
        device = latent.device
        # Shot after shot, the classes of each in one random order, cut at `num`, and shuffled.
        classes = torch.rand(num_tasks, ways, generator=generator, device=device).argsort(dim=1)
        place = torch.rand(num_tasks, num, generator=generator, device=device).argsort(dim=1)
        y = classes.gather(1, place % ways)
        picked = image.flatten(1).gather(1, y * image.shape[2] + place // ways)
        x = self._images.images[picked.to(self._images.images.device)].to(device)
        if self._rotations:
            x = self._turn(x, latent.gather(1, y) // self._images.num_classes)
        if not x.is_floating_point():
            x = x.to(torch.get_default_dtype()) / 255
        return Examples(x=x, y=y)

    def _turn(
        self,
        x: Shaped[Tensor, "task n channel height width"],
        turns: Int64[Tensor, "task n"],
    ) -> Shaped[Tensor, "task n channel height width"]:
        """Turns each image by its own number of quarters, as `torch.rot90` does."""
        pixel = self._turned.to(x.device)[turns][:, :, None].expand(x.flatten(3).shape)
        return x.flatten(3).gather(3, pixel).reshape(x.shape)
