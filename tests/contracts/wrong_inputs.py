"""What can be wrong with examples, queries and targets, and changes that must not matter."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy
import torch
from iai_regimes import Categorical, Gaussian
from iai_tasks import LinearClassification, LinearRegression
from torch import Tensor

X_DIM, NUM_CLASSES = 3, 4
NUM_TASKS, NUM_SUPPORT, NUM_QUERY = 2, 6, 3


@dataclass(frozen=True, eq=False)
class Loose:
    """Examples that check nothing; what `iai_tasks.Examples` refuses reaches the other packages."""

    x: Any
    y: Any
    mask: Any

    def __getitem__(self, key: Any) -> "Loose":
        return Loose(self.x[key], None if self.y is None else self.y[key], self.mask[key])


@dataclass(frozen=True, eq=False)
class Tasks:
    support: Any
    query: Any


class Poisson:
    """A likelihood from outside; the output is the logarithm of a mean count."""

    num_outputs = num_features = 1

    def features(self, y):
        return y.log1p()

    def negative_log(self, outputs, y):
        return (outputs.exp() - y * outputs + torch.lgamma(y + 1)).sum(-1)

    def residual(self, outputs, y):
        return outputs.exp() - y

    def check(self, y, mask):
        counts = y is not None and y.shape == (*mask.shape, 1) and y.is_floating_point()
        if not counts or not ((y[mask] >= 0) & y[mask].isfinite()).all():
            raise ValueError("`y` must hold counts, at least 0, of the shape (task, n, 1).")


LIKELIHOODS: dict[str, Callable[[], Any]] = {
    "gaussian": lambda: Gaussian(1, scale=0.5),
    "gaussian-with-scale": lambda: Gaussian(1),
    "categorical": lambda: Categorical(NUM_CLASSES),
    "poisson": Poisson,
}


def good(likelihood: str) -> Tasks:
    """Two tasks, in one of which the last example is padding."""
    real = likelihood != "categorical"
    sampler = LinearRegression(X_DIM) if real else LinearClassification(X_DIM, NUM_CLASSES)
    generator = torch.Generator().manual_seed(0)
    counts = {"num_support": NUM_SUPPORT, "num_query": NUM_QUERY}
    drawn = sampler.sample(NUM_TASKS, **counts, generator=generator)
    support, query = (Loose(part.x, part.y, part.mask) for part in (drawn.support, drawn.query))
    if likelihood == "poisson":
        support, query = (replace(part, y=part.y.abs().round()) for part in (support, query))
    mask = support.mask.clone()
    mask[1, -1] = False
    return Tasks(replace(support, mask=mask), query)


def with_first(values: Tensor, number: float) -> Tensor:
    changed = values.clone()
    changed.view(-1)[0] = number
    return changed


Change = Callable[[Tensor], Any]
TASKS: dict[str, Change] = {
    "a task less": lambda values: values[:-1],
    "a task more": lambda values: torch.cat([values, values[:1]]),
    "no tasks": lambda values: values[:0],
    "one task's": lambda values: values[0],
    "an axis more": lambda values: values[..., None],
    "a number": lambda values: values.flatten()[0],
}
KINDS: dict[str, Change] = TASKS | {
    "numpy": lambda values: values.numpy(),
    "list": lambda values: values.tolist(),
    "missing": lambda values: None,
    "complex": lambda values: values + 0j,
}
WIDTHS: dict[str, Change] = {
    "too wide": lambda values: torch.cat([values, values], -1),
    "of no width": lambda values: values[..., :0],
    "without width": lambda values: values[..., 0],
}
INPUTS: dict[str, Change] = (KINDS | WIDTHS) | {
    "int64": lambda x: x.long(),
    "bool": lambda x: x > 0,
    "too narrow": lambda x: x[..., :2],
    "flat": lambda x: x.flatten(1),
}
LENGTHS: dict[str, Change] = {
    "an example less": lambda values: values[:, :-1],
    "an example more": lambda values: torch.cat([values, values[:, :1]], 1),
    "no examples": lambda values: values[:, :0],
}
SHAPES = TASKS | WIDTHS | LENGTHS
VALUES: dict[str, Change] = {
    "NaN": lambda values: with_first(values, torch.nan),
    "infinite": lambda values: with_first(values, -torch.inf),
}
REAL_TARGETS: dict[str, Change] = (KINDS | WIDTHS | LENGTHS | VALUES) | {
    "classes": lambda y: y[..., 0].long(),
    "int64": lambda y: y.long(),
}
CLASS_TARGETS: dict[str, Change] = (KINDS | LENGTHS) | {
    **{f"class {k}": lambda y, k=k: with_first(y, k) for k in (-1, -100, NUM_CLASSES, 2**40)},
    "int32": lambda y: y.int(),
    "bool": lambda y: y > 0,
    "real": lambda y: y.float(),
    "real of one number": lambda y: y.float()[..., None],
    "one-hot": lambda y: torch.nn.functional.one_hot(y, NUM_CLASSES),
}
MASKS: dict[str, Change] = (KINDS | LENGTHS) | {
    "float": lambda mask: mask.float(),
    "int64": lambda mask: mask.long(),
}


def wrong(likelihood: str) -> dict[tuple[str, str], Change]:
    """Changes of a field that make a set of examples wrong, by the field and what is wrong."""
    targets = CLASS_TARGETS if likelihood == "categorical" else REAL_TARGETS
    if likelihood == "poisson":
        targets = targets | {"negative": lambda y: with_first(y, -1.0)}
    fields = {"x": INPUTS | LENGTHS | VALUES, "y": targets, "mask": MASKS}
    return {
        (field, name): change for field, all_ in fields.items() for name, change in all_.items()
    }


def longer(values: Tensor, filling: float) -> Tensor:
    return torch.cat([values, torch.full_like(values, filling)[:, :2]], 1)


def spoilt(examples: Loose) -> Loose:
    """NaN, and classes that are none, where nothing is observed."""
    hidden, (x, y) = ~examples.mask, (examples.x.clone(), examples.y.clone())
    x[hidden], y[hidden] = torch.nan, torch.nan if y.is_floating_point() else -(10**6)
    return replace(examples, x=x, y=y)


def padded(examples: Loose) -> Loose:
    """Two more examples, which are not observed."""
    filling = torch.inf if examples.y.is_floating_point() else NUM_CLASSES
    x, y = longer(examples.x, torch.nan), longer(examples.y, filling)
    return Loose(x, y, longer(examples.mask, False))


def doubled(examples: Loose) -> Loose:
    """In float64, as NumPy gives them."""
    y = examples.y.double() if examples.y.is_floating_point() else examples.y
    return replace(examples, x=torch.from_numpy(examples.x.numpy().astype(numpy.float64)), y=y)


HARMLESS = {"spoilt": spoilt, "padded": padded, "doubled": doubled}
