"""Tasks made of one labelled set: each sees it through its own projection and label permutation."""

import math
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from iai_tasks import counter_random
from iai_tasks._draw import check_draw
from iai_tasks.examples import Examples, TaskBatch
from iai_tasks.images._image_pool import Array, image_pool
from iai_tasks.images.labelled_images import LabelledImages
from iai_tasks.spec import Categorical, TaskSpec

_PROJECTION, _PERMUTATION, _COUNT, _LABELS = range(4)  # the streams of a task's seed
_END = 2**63 - 1  # one past the largest seed
_BLOCK = 1 << 20  # entries of projections held at once; the result does not depend on it


class ProjectedClassification:
    """Tasks (A x, rho(y)) over labelled images: a random projection A and a label permutation rho.

    A task is one int64 seed, which is its latent. A has independent N(0, 1 / N_x) entries, N_x the
    numbers of one image, or is a random rotation; A, rho and a task's classes are functions of the
    seed through a counter-based hash: a task costs 8 bytes, and it is the same task on every
    device, up to rounding. Examples are drawn anew, without replacement, at every `sample`. Images
    are normalised by one scalar mean and standard deviation, those of `images`.

    Seeds are drawn uniformly from `first_seed`, ..., `first_seed + num_tasks - 1`. So tasks that
    were never seen in training with `num_tasks=n` are those with `first_seed=n`.

    Only drawn images are copied, converted to torch's default dtype and projected, and a Gaussian A
    is formed a block of rows at a time: memory beyond the images is about 5 bytes for every image
    and task, plus the batch. A rotation is formed whole, for all tasks at once, and takes several
    times its own size: where that is too much, keep fewer principal components first. Images may
    lie on another device than the generator's, at the price of a copy.

    Args:
        images: Any real array or tensor, `image *image_shape`; flattened. Kept by reference.
        labels: Their classes, `image`, integers from 0, every class up to the largest in use.
        query_images: What queries are drawn from; by default `images`, and then a task's queries
            and support are distinct images.
        query_labels: Their classes, in the numbering of `labels`.
        projection_dim: Rows of A; by default N_x, as in the paper.
        projection: "gaussian", or "rotation": the rows of A are orthonormal and uniformly
            distributed, so that N_x of them keep every distance. For inputs such as white
            embeddings, of which a Gaussian A would lose a part.
        num_classes: Classes of one task, chosen by its seed; by default all. Of a pair, fewest and
            most, the seed chooses the number as well.
        num_labels: Numbers from 0 that name classes, of which a task's own are a random choice. A
            learner trained so holds any number of classes up to this one. By default a task numbers
            its classes from 0, without a gap.
        num_tasks: How many tasks there are; by default all seeds from `first_seed` on.
        first_seed: The smallest seed.

    Raises:
        TypeError: If labels are not integers.
        ValueError: If arrays disagree, hold NaN or infinity or labels out of range, or if a number
            is out of range.

    Source:
        Kirsch, Harrison, Sohl-Dickstein, Metz, 2022, "General-Purpose In-Context Learning by
        Meta-Learning Transformers", arXiv 2212.04458. Ours are `projection_dim`, `projection`,
        `num_classes` and `num_labels`.

    >>> images, labels = torch.arange(12.0).reshape(6, 2), torch.tensor([0, 1, 2, 0, 1, 2])
    >>> sampler = ProjectedClassification(images, labels, projection_dim=3, num_classes=2)
    >>> generator = torch.Generator().manual_seed(0)
    >>> batch = sampler.sample(5, num_support=3, num_query=1, generator=generator)
    >>> batch.support.x.shape, batch.latent.shape
    (torch.Size([5, 3, 3]), torch.Size([5]))
    >>> ((batch.support.y >= 0) & (batch.support.y < 2)).all().item()
    True
    """

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
        mean, deviation = pool.moments()
        _check_finite("images", mean)
        if deviation == 0:
            raise ValueError(f"`images` must differ somewhere; every number is {mean}.")
        num_base_classes = len(pool.counts)

        query_pool = None
        if query_images is not None and query_labels is not None:
            query_pool = image_pool(
                query_images, query_labels, prefix="query_", num_classes=num_base_classes
            )
            _check_finite("query_images", query_pool.moments()[0])
            if query_pool.images.shape[1] != pool.images.shape[1]:
                raise ValueError(
                    f"`query_images` must have the {pool.images.shape[1]} numbers an image of "
                    f"`images`; got {query_pool.images.shape[1]}."
                )
        elif query_images is not None or query_labels is not None:
            raise ValueError("`query_images` and `query_labels` must be given together.")

        if num_classes is None:
            num_classes = num_base_classes
        fewest, most = (num_classes,) * 2 if isinstance(num_classes, int) else num_classes
        if not 1 <= fewest <= most <= num_base_classes:
            raise ValueError(
                f"`num_classes` must be from 1 to {num_base_classes}, the classes of `labels`, or "
                f"two such numbers, the smaller one first; got {num_classes}."
            )
        if num_labels is not None and num_labels < most:
            raise ValueError(
                f"`num_labels` must be at least {most}, the most classes of a task; "
                f"got {num_labels}."
            )
        num_pixels = pool.images.shape[1]
        projection_dim = num_pixels if projection_dim is None else projection_dim
        if projection_dim < 1:
            raise ValueError(f"`projection_dim` must be at least 1; got {projection_dim}.")
        if projection not in ("gaussian", "rotation"):
            raise ValueError(f"`projection` must be gaussian or rotation; got {projection!r}.")
        if projection == "rotation" and projection_dim > num_pixels:
            raise ValueError(
                f"`projection_dim` of a rotation must be at most {num_pixels}, the numbers of an "
                f"image; got {projection_dim}."
            )
        if num_tasks is not None and num_tasks < 1:
            raise ValueError(f"`num_tasks` must be at least 1; got {num_tasks}.")
        if first_seed < 0:
            raise ValueError(f"`first_seed` must be at least 0; got {first_seed}.")

        self._pool, self._query_pool = pool, query_pool
        self._mean, self._deviation = mean, deviation
        self._fewest, self._most, self._num_labels = fewest, most, num_labels
        self._projection, self._projection_dim = projection, projection_dim
        self._first_seed = first_seed
        self._end_seed = _END if num_tasks is None else first_seed + num_tasks

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
        shape = (self._projection_dim,)
        target = Categorical(self._num_labels or self._most)
        return TaskSpec(support_x_shape=shape, query_x_shape=shape, target=target)

    def sample(
        self,
        num_tasks: int,
        *,
        num_support: int,
        num_query: int,
        generator: torch.Generator,
        latent: Int64[Tensor, " task"] | None = None,
    ) -> TaskBatch:
        """Draws tasks, or new examples of given tasks.

        Args:
            num_tasks: Number of tasks.
            num_support: Support examples a task; may be 0.
            num_query: Query examples a task; may be 0.
            generator: Source of every random number; the batch lies on its device.
            latent: The seeds of the tasks. Drawn if None.

        Returns:
            The batch, everything observed, with the seeds as `latent`.

        Raises:
            TypeError: If the generator or the latent has the wrong type.
            ValueError: If a count is negative, or larger than the distinct images that the smallest
                classes hold, or the latent does not fit.
        """
        check_draw(
            num_tasks,
            num_support,
            num_query,
            generator,
            latent,
            latent_shape=(),
            latent_holds="seeds",
        )
        self._check_supply(num_support, num_query)
        if latent is None:
            bounds = self._first_seed, self._end_seed
            latent = torch.randint(
                *bounds, (num_tasks,), generator=generator, device=generator.device
            )
        number = self._class_numbers(latent)
        if self._query_pool is None:
            x, y = self._pool.draw(number, num_support + num_query, generator)
        else:
            drawn = (
                self._pool.draw(number, num_support, generator),
                self._query_pool.draw(number, num_query, generator),
            )
            x, y = (torch.cat(parts, dim=1) for parts in zip(*drawn, strict=True))
        x = (x.to(torch.get_default_dtype()) - self._mean) / self._deviation
        examples = Examples(x=self._project(x, latent), y=y)
        return TaskBatch(
            support=examples[:, :num_support], query=examples[:, num_support:], latent=latent
        )

    def _check_supply(self, num_support: int, num_query: int) -> None:
        if self._query_pool is None:
            demands = [("num_support` + `num_query", num_support + num_query, self._pool)]
        else:
            demands = [
                ("num_support", num_support, self._pool),
                ("num_query", num_query, self._query_pool),
            ]
        for name, demand, pool in demands:
            supply = pool.fewest(self._fewest)
            if demand > supply:
                raise ValueError(
                    f"`{name}` must be at most {supply}, the distinct images of the "
                    f"{self._fewest} smallest classes; got {demand}."
                )

    def _class_numbers(self, seeds: Tensor) -> Int64[Tensor, "task base_class"]:
        """What each task calls each base class: its place in a random order, or -1 if not in."""
        key = counter_random.bits(seeds, torch.tensor(_PERMUTATION))
        place = counter_random.permutation(key, len(self._pool.counts))
        count = counter_random.bits(seeds, torch.tensor(_COUNT))
        count = self._fewest + count.remainder(self._most - self._fewest + 1)
        number = place
        if self._num_labels is not None:
            key = counter_random.bits(seeds, torch.tensor(_LABELS))
            labels = counter_random.permutation(key, self._num_labels)
            number = labels.gather(1, place.clamp(max=self._num_labels - 1))
        return number.where(place < count[:, None], -1)

    def _project(
        self, x: Float[Tensor, "task n pixel"], seeds: Int64[Tensor, " task"]
    ) -> Float[Tensor, "task n projection"]:
        if self._projection == "rotation":
            return x @ self._rotation(seeds, x.shape[2]).to(x.dtype)
        num_tasks, _, num_pixels = x.shape
        num_rows = max(1, _BLOCK // (num_tasks * num_pixels))
        blocks = []
        for start in range(0, self._projection_dim, num_rows):
            stop = min(start + num_rows, self._projection_dim)
            blocks.append(x @ _gaussian_rows(seeds, start, stop, num_pixels).to(x.dtype).mT)
        return torch.cat(blocks, dim=-1) / math.sqrt(num_pixels)

    def _rotation(
        self, seeds: Int64[Tensor, " task"], num_pixels: int
    ) -> Float[Tensor, "task pixel projection"]:
        """Orthonormal columns, uniformly distributed: of QR, whose signs are made unique."""
        columns = _gaussian_rows(seeds, 0, self._projection_dim, num_pixels).mT
        orthonormal: Tensor
        orthonormal, triangle = torch.linalg.qr(columns)
        signs: Tensor = triangle.diagonal(dim1=1, dim2=2).sign()[:, None]
        return orthonormal * signs


def _gaussian_rows(
    seeds: Int64[Tensor, " task"], start: int, stop: int, num_pixels: int
) -> Float[Tensor, "task row pixel"]:
    key = counter_random.bits(seeds, torch.tensor(_PROJECTION))
    pairs = -(-num_pixels // 2)  # a counter gives two numbers; each row has its own counters
    counter = torch.arange(start * pairs, stop * pairs, device=seeds.device)
    entries = counter_random.normal(key, counter).reshape(len(seeds), stop - start, -1)
    return entries[..., :num_pixels]


def _check_finite(name: str, mean: float) -> None:
    if not math.isfinite(mean):
        raise ValueError(f"`{name}` must be finite; NaN or infinity is among the numbers.")
