"""A rule as a `torch.optim.Optimizer`: what was meta-trained on tasks trains any module."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, ParamsT
from torch.utils._pytree import tree_leaves, tree_structure, tree_unflatten

from iai_regimes.interfaces import Rule

_MOST_NUMBERS = 2**16  # side by side: beyond, a step of the rule costs memory and gains no time


@runtime_checkable
class _Resizable(Protocol):
    def resized(self, sizes: Sequence[int]) -> Rule:
        """The same rule for a theta of other tensors."""


class LearnedOptimizer(Optimizer):
    """Trains any module by a rule that reads the gradient alone: a learned one, or a plain one.

    Each tensor of parameters is a theta of its own, with its own carry; small ones of one size move
    side by side, as tasks do. The rule is handed a linear loss whose gradient is `.grad`; it is
    told of one example, of which it knows nothing, and that none was seen before. A rule that has
    `resized` is given each tensor's size. The rule's own weights stay as they are.

    What `torch.optim` promises holds: groups, closures, tensors without `.grad` skipped,
    `state_dict` without pickled objects, schedulers. The rule computes in the dtype of its own
    numbers, where it has any, and keeps its carry in it; the parameters keep theirs. A gradient
    that is not finite passes into its tensor and that tensor's carry, as in torch's own optimizers;
    other tensors are left alone.

    Args:
        params: Parameters, or groups of them, as every optimizer takes them.
        rule: Moves theta: `RecurrentRule`, `MLPRule`, `GradientDescent`, `Adam`, or yours. A module
            is on the device of the parameters.
        lr: What each step is multiplied by: an option of a group, and what a scheduler changes. 1
            is the rule's own step.

    Raises:
        ValueError: If the rule needs more than one gradient a step (data, curvature, a line search,
            repetition) or fits one size of theta only, or if `lr` is below 0.
        TypeError: If `rule` has not the methods of a rule.

    >>> from iai_regimes import GradientDescent
    >>> weight = nn.Parameter(torch.tensor([4.0]))
    >>> optimizer = LearnedOptimizer([weight], GradientDescent(0.25))
    >>> (0.5 * weight.square()).sum().backward()
    >>> optimizer.step()
    >>> weight.item()  # as far as torch.optim.SGD would go
    3.0
    """

    def __init__(self, params: ParamsT, rule: Rule, *, lr: float = 1.0) -> None:
        if not isinstance(rule, Rule):
            raise TypeError(
                "`rule` must have the methods `start`, `encode` and `step`; "
                f"{type(rule).__name__} has not."
            )
        self.rule = rule
        own = self._number(torch.zeros(()))
        try:
            for size in (1, 2):  # no rule is done where a gradient is as large as can be
                theta = torch.zeros(1, size, dtype=own.dtype, device=own.device)
                self._moved(theta, None, torch.full_like(theta, torch.finfo(own.dtype).max))
        except ValueError as error:
            raise ValueError(
                f"`rule` must move any theta by its gradient alone; {type(rule).__name__} says: "
                f"{error}"
            ) from error
        super().__init__(params, {"lr": lr})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; its option `lr` is the optimizer's own unless given.

        Raises:
            ValueError: If `lr` is below 0, or a tensor was given before.
        """
        lr = param_group.get("lr", self.defaults["lr"])
        if not lr >= 0:
            raise ValueError(f"`lr` must be at least 0; got {lr}.")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Moves every parameter that has a gradient and at least one number.

        Args:
            closure: Computes the loss and the gradients anew, once.

        Returns:
            What the closure returned.

        Raises:
            ValueError: If a gradient is sparse or complex; no parameter has moved.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moving = [
            _Moving(parameter, parameter.grad, group["lr"])
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None and parameter.numel()
        ]
        for one in moving:
            if one.gradient.is_sparse or one.parameter.is_complex():
                kind = "sparse" if one.gradient.is_sparse else "complex"
                raise ValueError(f"A gradient must be dense and real; got a {kind} one.")
        for batch in self._side_by_side(moving):
            theta = torch.cat([self._flat(one.parameter) for one in batch])
            gradient = torch.cat([self._flat(one.gradient) for one in batch])
            carries = [self.state[one.parameter].get("carry") for one in batch]
            begun = None not in carries
            leaves = [torch.cat(rows) for rows in zip(*carries, strict=True)] if begun else None
            moved, carry = self._moved(theta, leaves, gradient)
            change, leaves = moved - theta, tree_leaves(carry)
            for row, (parameter, _, lr) in enumerate(batch):
                parameter.add_((lr * change[row]).reshape(parameter.shape))
                self.state[parameter]["carry"] = [leaf[row : row + 1].clone() for leaf in leaves]
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on exactly where `state_dict` was taken, with a rule of the same weights.

        Raises:
            ValueError: If it was taken with another kind of rule or other parameters; nothing is
                loaded.
        """
        names = [name for group in state_dict["param_groups"] for name in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        carries = {}
        for name, parameter in zip(names, parameters, strict=False):  # lengths are torch's to check
            if name in state_dict["state"]:
                carries[parameter] = state_dict["state"][name].get("carry", [])
                expected = tree_leaves(self._of(parameter.numel()).start(self._flat(parameter)))
                found = [tuple(leaf.shape) for leaf in carries[parameter]]
                if found != [tuple(leaf.shape) for leaf in expected]:
                    raise ValueError(
                        f"`state_dict` must be that of {type(self.rule).__name__} on these "
                        f"parameters; it carries {found} for one of {tuple(parameter.shape)}."
                    )
        super().load_state_dict(state_dict)
        for parameter, carry in carries.items():  # torch has cast it to the parameter's dtype
            self.state[parameter] = {"carry": [leaf.to(parameter.device) for leaf in carry]}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "rule": self.rule}

    def _number(self, default: Tensor) -> Tensor:
        """A floating tensor of the rule's own, or `default` where it has none."""
        if not isinstance(self.rule, nn.Module):
            return default
        own = chain(self.rule.parameters(), self.rule.buffers())
        return next((tensor for tensor in own if tensor.is_floating_point()), default)

    def _flat(self, tensor: Tensor) -> Float[Tensor, "1 p"]:
        """A copy, in the dtype that the rule computes in."""
        return tensor.detach().reshape(1, -1).to(self._number(tensor).dtype, copy=True)

    def _side_by_side(self, moving: Sequence["_Moving"]) -> Iterator[Sequence["_Moving"]]:
        """Tensors that are tasks of one step: alike, with a carry or without, and not too many."""
        alike: dict[Any, list[_Moving]] = {}
        for one in moving:
            parameter, begun = one.parameter, "carry" in self.state[one.parameter]
            kind = parameter.numel(), parameter.dtype, parameter.device, begun
            alike.setdefault(kind, []).append(one)
        for (size, *_), tensors in alike.items():
            most = max(1, _MOST_NUMBERS // size)
            for first in range(0, len(tensors), most):
                yield tensors[first : first + most]

    def _of(self, size: int) -> Rule:
        return self.rule.resized([size]) if isinstance(self.rule, _Resizable) else self.rule

    def _moved(
        self, theta: Tensor, leaves: list[Tensor] | None, gradient: Tensor
    ) -> tuple[Tensor, Any]:
        rule = self._of(theta.shape[1])
        carry = rule.start(theta)
        if leaves is not None:
            carry = tree_unflatten(leaves, tree_structure(carry))
        mask = theta.new_ones(len(theta), 1, dtype=torch.bool)
        example = _Example(theta.new_zeros(len(theta), 1, 0), None, mask)
        evidence, seen = rule.encode(example), theta.new_zeros(len(theta))
        return rule.step(theta, carry, evidence, _Linear(gradient), seen, True)


class _Moving(NamedTuple):
    parameter: Tensor
    gradient: Tensor
    lr: float


class _Example(NamedTuple):
    """One example a task, of which nothing is known."""

    x: Tensor
    y: Tensor | None
    mask: Tensor


class _Linear:
    """The linear loss with a given gradient, which can be asked for once."""

    def __init__(self, gradient: Float[Tensor, "task p"]) -> None:
        self._gradient, self._asked = gradient, False

    @property
    def shared(self) -> bool:
        return False

    def loss(self, theta: Float[Tensor, "task p"]) -> Float[Tensor, " task"]:
        if self._asked:
            raise ValueError("the loss is known at one point a step; it was asked for again.")
        self._asked = True
        return (self._gradient * theta).sum(-1)

    def residual(self, theta: Float[Tensor, "task p"]) -> Float[Tensor, "task n num_outputs"]:
        raise ValueError("the residuals of a minibatch are not known.")
