"""Examples of a batch of tasks, and the support and query sets made of them."""

from typing import Any, TypeVar

import attrs
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.utils._pytree import keystr, tree_leaves_with_path, tree_map

from iai_tasks._arrays import as_fields

RecordT = TypeVar("RecordT")

Key = slice | Tensor
"""An index of an axis that keeps the axis; an integer would drop it."""


def _check_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"`{name}` must be a tensor; got {type(value).__name__}.")


def _checked_x(x: Tensor) -> Tensor:
    _check_tensor("x", x)
    if not x.is_floating_point():
        raise TypeError(f"`x` must be floating point; got {x.dtype}.")
    if x.ndim < 2:
        raise ValueError(f"`x` must have shape (task, n, *x_shape); got {tuple(x.shape)}.")
    return x


@attrs.frozen(eq=False, kw_only=True)
class Examples:
    """The examples of a batch of tasks, padded to one length.

    Shapes, dtypes and devices are checked here, which never waits for a device; `check_examples`
    checks values.

    Attributes:
        x: Inputs, `task n *x_shape`, floating point.
        y: Targets: real, `task n y_dim`, or classes, `task n` (int64). None for examples without
            targets, such as samples of a distribution.
        mask: `task n`, True where the example was observed, False where it is padding. By default
            all True.

    Raises:
        TypeError: If a field has the wrong type or dtype.
        ValueError: If the shapes or the devices disagree.

    >>> examples = Examples(x=torch.zeros(2, 5, 3), y=torch.ones(2, 5, dtype=torch.int64))
    >>> examples.num_tasks, examples.num_examples, examples.mask.all().item()
    (2, 5, True)
    """

    x: Float[Tensor, "task n *x_shape"] = attrs.field(converter=_checked_x)
    y: Float[Tensor, "task n y_dim"] | Int64[Tensor, "task n"] | None = attrs.field(default=None)
    mask: Bool[Tensor, "task n"] = attrs.field()

    @classmethod
    def of(cls, x: Any, y: Any = None, *, dtype: torch.dtype | None = None) -> "Examples":
        """Examples of arrays, tensors or lists of numbers: of one task, or of a batch of tasks.

        Args:
            x: Inputs of one task, `n *x_shape` or `n` numbers, or of a batch, `task n *x_shape`.
            y: Targets. Integers are classes: `n` of one task, `task n` of a batch. Floating-point
                numbers are real targets: `n` or `n y_dim` of one task, `task n y_dim` of a batch.
                Counts are real targets, so give them as floating point. None: x is of one task, and
                has none.
            dtype: That of x and of a real y; torch's default dtype if None.

        Returns:
            Examples, all observed; a copy of what is no tensor. Gradients flow from tensors.

        Raises:
            TypeError: If `x` or `y` do not hold real numbers.
            ValueError: If they are ragged, differ in the number of examples, may be either one task
                or a batch, or y is a column of classes, `n 1`.

        >>> Examples.of([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], [0, 1, 1]).x.shape
        torch.Size([1, 3, 2])
        """
        inputs, targets = as_fields(x, y, dtype)
        return cls(x=inputs, y=targets)

    @mask.default
    def _all_observed(self) -> Tensor:
        return torch.ones(self.x.shape[:2], dtype=torch.bool, device=self.x.device)

    @y.validator
    def _y_is_valid(self, _: object, y: Tensor | None) -> None:
        if y is None:
            return
        _check_tensor("y", y)
        if not (y.is_floating_point() or y.dtype == torch.int64):
            raise TypeError(
                f"`y` must be floating point (real targets) or int64 (classes); got {y.dtype}."
            )
        self._check_fits("y", y, "(task, n, y_dim)" if y.is_floating_point() else "(task, n)")

    @mask.validator
    def _mask_is_valid(self, _: object, mask: Tensor) -> None:
        _check_tensor("mask", mask)
        if mask.dtype != torch.bool:
            raise TypeError(f"`mask` must be bool, True where observed; got {mask.dtype}.")
        self._check_fits("mask", mask, "(task, n)")

    def _check_fits(self, name: str, value: Tensor, shape: str) -> None:
        """Raises unless a tensor has the tasks, examples and device of x."""
        sizes = tuple(self.x.shape[:2])
        if value.ndim != shape.count(",") + 1 or value.shape[:2] != sizes:
            raise ValueError(
                f"`{name}` of dtype {value.dtype} must have shape {shape} with the task and n of "
                f"`x`, {sizes}; got {tuple(value.shape)}."
            )
        if value.device != self.x.device:
            raise ValueError(
                f"`{name}` must be on the device of `x`, {self.x.device}; got {value.device}."
            )

    @property
    def num_tasks(self) -> int:
        """Number of tasks."""
        return self.x.shape[0]

    @property
    def num_examples(self) -> int:
        """Number of examples of each task, padding included."""
        return self.x.shape[1]

    def __getitem__(self, key: Key | tuple[Key, ...]) -> "Examples":
        """Selects tasks, or tasks and examples; the same key indexes x, y and mask.

        Args:
            key: A key for the axis of tasks, or a pair of keys for tasks and examples. Two index
                tensors broadcast against each other: `examples[rows[:, None], index]` with `index`
                of shape `task n` picks different examples in every task.

        Returns:
            The selected examples; a view for slices, a copy for index tensors. Gradients flow.

        Raises:
            TypeError: If a key is neither a slice nor a tensor.
            IndexError: If the selection has not both axes, tasks and examples.

        >>> examples = Examples(x=torch.arange(6.0).reshape(1, 6, 1))
        >>> examples[:, 2:4].x.flatten().tolist()
        [2.0, 3.0]
        >>> examples[:, torch.tensor([5, 0])].x.flatten().tolist()
        [5.0, 0.0]
        """
        keys = key if isinstance(key, tuple) else (key,)
        if not all(isinstance(part, slice | Tensor) for part in keys):
            kinds = ", ".join(type(part).__name__ for part in keys)
            raise TypeError(
                "Examples and tasks are indexed by slices and tensors, never unpacked; "
                f"got {kinds}."
            )
        mask = self.mask[keys]  # raises IndexError for more than two keys
        if mask.ndim != 2:
            raise IndexError(
                "A selection of examples must keep both axes, task and n; "
                f"this key leaves shape {tuple(mask.shape)}."
            )
        y = None if self.y is None else self.y[keys]
        return _unchecked(Examples, x=self.x[keys], y=y, mask=mask)

    def to(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Examples":
        """Moves every tensor to `device`, and casts x and real y to `dtype`.

        >>> Examples(x=torch.zeros(1, 2, 3)).to(dtype=torch.float64).x.dtype
        torch.float64
        """
        return Examples(
            x=self.x.to(device=device, dtype=dtype),
            y=_moved(self.y, device, dtype),
            mask=self.mask.to(device=device),
        )


@attrs.frozen(eq=False, kw_only=True)
class TaskBatch:
    """A batch of tasks: what each shows, what each asks, and what fixes it.

    Attributes:
        support: The examples that a learner reads.
        query: The examples that it is judged on.
        latent: What fixes each task, `task ...`: true weights, or a seed; a tensor, or a pytree of
            tensors, such as a dict. A sampler that is given it draws new examples of the same
            tasks. None if it is not known.

    Raises:
        TypeError: If a field has the wrong type.
        ValueError: If the fields disagree about the number of tasks.

    >>> x = torch.zeros(4, 5, 3)
    >>> TaskBatch(support=Examples(x=x), query=Examples(x=x))[1:3].num_tasks
    2
    """

    support: Examples = attrs.field(validator=attrs.validators.instance_of(Examples))
    query: Examples = attrs.field(validator=attrs.validators.instance_of(Examples))
    latent: Any = attrs.field(default=None)

    @query.validator
    def _query_is_valid(self, _: object, query: Examples) -> None:
        if query.num_tasks != self.support.num_tasks:
            raise ValueError(
                f"`query` must have the {self.support.num_tasks} tasks of `support`; "
                f"got {query.num_tasks}."
            )

    @latent.validator
    def _latent_is_valid(self, _: object, latent: Any) -> None:
        for path, leaf in tree_leaves_with_path(latent):
            if leaf is None:
                continue
            name = f"latent{keystr(path)}"
            _check_tensor(name, leaf)
            if leaf.ndim < 1 or leaf.shape[0] != self.support.num_tasks:
                raise ValueError(
                    f"`{name}` must have the {self.support.num_tasks} tasks of `support` as its "
                    f"first axis; got shape {tuple(leaf.shape)}."
                )

    @property
    def num_tasks(self) -> int:
        """Number of tasks."""
        return self.support.num_tasks

    def __getitem__(self, rows: Key) -> "TaskBatch":
        """Selects tasks by a slice or an index tensor."""
        latent = tree_map(lambda leaf: None if leaf is None else leaf[rows], self.latent)
        parts = {"support": self.support[rows], "query": self.query[rows], "latent": latent}
        return _unchecked(TaskBatch, **parts)

    def to(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "TaskBatch":
        """Moves every tensor to `device`, and casts the floating-point ones to `dtype`."""
        return TaskBatch(
            support=self.support.to(device=device, dtype=dtype),
            query=self.query.to(device=device, dtype=dtype),
            latent=tree_map(lambda leaf: _moved(leaf, device, dtype), self.latent),
        )


def _unchecked(kind: type[RecordT], **fields: Any) -> RecordT:
    """A record made of parts of one that was checked.

    Nothing is checked again, and torch.compile can trace it, unlike what attrs does.
    """
    record = object.__new__(kind)
    for name, value in fields.items():
        object.__setattr__(record, name, value)
    return record


def _moved(
    value: Tensor | None, device: torch.device | str | None, dtype: torch.dtype | None
) -> Tensor | None:
    """The tensor on the device, and cast unless it counts or names classes."""
    if value is None:
        return None
    return value.to(device=device, dtype=dtype if value.is_floating_point() else None)
