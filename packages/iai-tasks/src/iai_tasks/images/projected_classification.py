"""Tasks made of one labelled set: each has its own projection and its own permutation of labels."""

import math
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from iai_tasks import counter_random
from iai_tasks._validators import check_at_least
from iai_tasks.counter_random import stream
from iai_tasks.examples import Examples
from iai_tasks.images._image_pool import Array, image_pool
from iai_tasks.images.labelled_images import LabelledImages
from iai_tasks.sampler import AbstractSampler
from iai_tasks.spec import Categorical, TaskSpec

Seeds = Int64[Tensor, " task"]
_PROJECTION, _PERMUTATION, _COUNT, _LABELS = range(4)  # the streams of a task's seed
_END = 2**63 - 1  # one past the largest seed
_BLOCK = 1 << 20  # entries of projections held at once; the result does not depend on it


class ProjectedClassification(AbstractSampler):
    """Tasks (A x, rho(y)) over labelled images: a random projection A and a label permutation rho.

    The latent of a task is one int64 seed. A has independent N(0, 1 / N_x) entries, with N_x the
    numbers of an image, or is a random rotation. A, rho and the classes of a task are functions of
    its seed through a counter-based hash: a task takes 8 bytes, and is the same on every device, up
    to rounding. Each `sample` draws new examples, without replacement. Images are standardised by
    one mean and one standard deviation, over all numbers of `images`.

    Seeds are uniform on `first_seed`, ..., `first_seed + num_tasks - 1`. Tasks that were not seen
    in training with `num_tasks=n` are those of `first_seed=n`.

    Only the images that are drawn are copied, converted to torch's default dtype and projected. A
    Gaussian A is formed a block of rows at a time, so beside the images memory holds about 5 bytes
    for each pair of an image and a task, and the batch. A rotation is formed whole, for all tasks
    at once, which takes several times its size: if that is too much, keep fewer principal
    components of the images first. Images that are on another device than the generator are copied
    to it as they are drawn.

    Args:
        images: Any real array or tensor, `image *image_shape`; flattened, not copied.
        labels: Their classes, `image`, integers from 0; every class up to the largest occurs.
        query_images: Images for queries. By default `images`; then a task's queries and support are
            distinct images.
        query_labels: Classes of `query_images`, numbered as in `labels`.
        projection_dim: Rows of A; by default N_x, as in the paper.
        projection: "gaussian", or "rotation": rows of A are orthonormal, uniformly distributed, and
            N_x of them keep every distance. Meant for inputs such as whitened embeddings, of which
            a Gaussian A would lose a part.
        num_classes: Classes of a task, chosen by its seed, or the fewest and the most; then the
            seed chooses the number too. By default all.
        num_labels: Names for classes, the numbers from 0. A task names its classes by a random
            choice of them, so a learner that is trained on such tasks can tell apart up to so many
            classes. By default a task numbers its classes from 0 without a gap.
        num_tasks: Number of tasks; by default there is one for every seed from `first_seed` on.
        first_seed: The smallest seed.

    Raises:
        TypeError: If labels are not integers.
        ValueError: If arrays disagree, hold NaN or infinity or labels out of range, or if a number
            is out of range.

    Source:
        Kirsch, Harrison, Sohl-Dickstein, Metz, 2022, "General-Purpose In-Context Learning by
        Meta-Learning Transformers", arXiv 2212.04458. `projection_dim`, `projection`, `num_classes`
        and `num_labels` are ours.

    >>> images, labels = torch.arange(12.0).reshape(6, 2), torch.tensor([0, 1, 2, 0, 1, 2])
    >>> sampler = ProjectedClassification(images, labels, projection_dim=3, num_classes=2)
    >>> generator = torch.Generator().manual_seed(0)
    >>> batch = sampler.sample(5, num_support=3, num_query=1, generator=generator)
    >>> batch.support.x.shape, batch.latent.shape
    (torch.Size([5, 3, 3]), torch.Size([5]))
    >>> ((batch.support.y >= 0) & (batch.support.y < 2)).all().item()
    True
    """

    latent_shape, latent_holds = (), "seeds"

    def __init__(
        self,
        images: Array,
        labels: Array,
        *,
        query_images: Array | None = None,
        query_labels: Array | None = None,
        projection_dim: int | None = None,
        projection: Literal["gaussian", "rotation"] = "gaussian",
        num_classes: int | tuple[int, int] | None = None,
        num_labels: int | None = None,
        num_tasks: int | None = None,
        first_seed: int = 0,
    ) -> None:
        pool = image_pool(images, labels)
        if pool.deviation == 0:
            raise ValueError(f"`images` must differ somewhere; every number is {pool.mean}.")
        query_pool = None
        if (query_images is None) != (query_labels is None):
            raise ValueError("`query_images` and `query_labels` must be given together.")
        if query_images is not None and query_labels is not None:
            query_pool = image_pool(
                query_images, query_labels, prefix="query_", num_classes=pool.num_classes
            )
            if query_pool.num_pixels != pool.num_pixels:
                raise ValueError(
                    f"`query_images` must have the {pool.num_pixels} numbers an image of "
                    f"`images`; got {query_pool.num_pixels}."
                )
        num_classes = pool.num_classes if num_classes is None else num_classes
        fewest, most = (num_classes,) * 2 if isinstance(num_classes, int) else num_classes
        if not 1 <= fewest <= most <= pool.num_classes:
            raise ValueError(
                f"`num_classes` must be from 1 to {pool.num_classes}, the classes of `labels`, or "
                f"two such numbers, the smaller one first; got {num_classes}."
            )
        if num_labels is not None and num_labels < most:
            raise ValueError(
                f"`num_labels` must be at least {most}, the most classes of a task; "
                f"got {num_labels}."
            )
        projection_dim = pool.num_pixels if projection_dim is None else projection_dim
        check_at_least(0, first_seed=first_seed)
        end = _END if num_tasks is None else first_seed + num_tasks
        check_at_least(1, projection_dim=projection_dim, num_tasks=end - first_seed)
        if projection not in ("gaussian", "rotation"):
            raise ValueError(f"`projection` must be gaussian or rotation; got {projection!r}.")
        if projection == "rotation" and projection_dim > pool.num_pixels:
            raise ValueError(
                f"`projection_dim` of a rotation must be at most {pool.num_pixels}, the numbers of "
                f"an image; got {projection_dim}."
            )
        self._pool, self._query_pool = pool, query_pool
        self._fewest, self._most, self._num_labels = fewest, most, num_labels
        self._projection, self._projection_dim = projection, projection_dim
        self._seeds = first_seed, end

    @classmethod
    def training(cls, images: LabelledImages, **options: Any) -> "ProjectedClassification":
        """Tasks whose support and queries are drawn from training images.

        Args:
            images: Training and test images.
            options: The other arguments.
        """
        return cls(images.train_images, images.train_labels, **options)

    @classmethod
    def held_out(cls, images: LabelledImages, **options: Any) -> "ProjectedClassification":
        """Tasks whose support is drawn from training images, and whose queries from test images.

        Args:
            images: Training and test images.
            options: The other arguments.
        """
        return cls(
            images.train_images,
            images.train_labels,
            query_images=images.test_images,
            query_labels=images.test_labels,
            **options,
        )

    @property
    def spec(self) -> TaskSpec:
        """Inputs of `projection_dim` numbers, a target of one class of `num_labels`."""
        x_shape, target = (self._projection_dim,), Categorical(self._num_labels or self._most)
        return TaskSpec(support_x_shape=x_shape, query_x_shape=x_shape, target=target)

    def draw_latent(self, num_tasks: int, generator: torch.Generator) -> Seeds:
        """Draws seeds, uniform from `first_seed` on."""
        shape, device = (num_tasks,), generator.device
        return torch.randint(*self._seeds, shape, generator=generator, device=device)

    def draw_examples(
        self, latent: Seeds, num_support: int, num_query: int, generator: torch.Generator
    ) -> tuple[Examples, Examples]:
        """Draws distinct images, projects them, and names their classes, as each seed says.

        Raises:
            ValueError: If the smallest classes have too few distinct images.
        """
        demands = [("num_support` + `num_query", num_support + num_query, self._pool)]
        if self._query_pool is not None:
            queries = ("num_query", num_query, self._query_pool)
            demands = [("num_support", num_support, self._pool), queries]
        for name, demand, pool in demands:
            supply = pool.fewest(self._fewest)
            if demand > supply:
                raise ValueError(
                    f"`{name}` must be at most {supply}, the distinct images of the "
                    f"{self._fewest} smallest classes; got {demand}."
                )
        names = self._class_names(latent)
        drawn = [pool.draw(names, demand, generator) for _, demand, pool in demands]
        x, y = (torch.cat(parts, dim=1) for parts in zip(*drawn, strict=True))
        x = (x.to(torch.get_default_dtype()) - self._pool.mean) / self._pool.deviation
        examples = Examples(x=self._project(x, latent), y=y)
        return examples[:, :num_support], examples[:, num_support:]

    def _class_names(self, seeds: Seeds) -> Int64[Tensor, "task base_class"]:
        """What each task calls each class of the images; -1 for a class that it has not got."""
        rank = counter_random.permutation(stream(seeds, _PERMUTATION), self._pool.num_classes)
        count = self._fewest + stream(seeds, _COUNT).remainder(self._most - self._fewest + 1)
        names = rank  # the classes of a task are those of the lowest ranks
        if self._num_labels is not None:
            labels = counter_random.permutation(stream(seeds, _LABELS), self._num_labels)
            names = labels.gather(1, rank.clamp(max=self._num_labels - 1))
        return names.where(rank < count[:, None], -1)

    def _project(
        self, x: Float[Tensor, "task n pixel"], seeds: Seeds
    ) -> Float[Tensor, "task n projection"]:
        num_tasks, _, num_pixels = x.shape
        if self._projection == "rotation":
            columns = _gaussian_rows(seeds, 0, self._projection_dim, num_pixels).mT
            orthonormal, triangle = torch.linalg.qr(columns)
            # QR fixes columns up to their signs; with these signs they are uniformly distributed.
            rotation: Tensor = orthonormal * triangle.diagonal(dim1=1, dim2=2).sign()[:, None]
            return x @ rotation.to(x.dtype)
        num_rows = max(1, _BLOCK // (num_tasks * num_pixels))
        blocks = []
        for start in range(0, self._projection_dim, num_rows):
            stop = min(start + num_rows, self._projection_dim)
            blocks.append(x @ _gaussian_rows(seeds, start, stop, num_pixels).to(x.dtype).mT)
        return torch.cat(blocks, dim=-1) / math.sqrt(num_pixels)


def _gaussian_rows(
    seeds: Seeds, start: int, stop: int, num_pixels: int
) -> Float[Tensor, "task row pixel"]:
    pairs = -(-num_pixels // 2)  # a counter gives two numbers; each row has its own counters
    counter = torch.arange(start * pairs, stop * pairs, device=seeds.device)
    entries = counter_random.normal(stream(seeds, _PROJECTION), counter)
    return entries.reshape(len(seeds), stop - start, -1)[..., :num_pixels]
