"""A rule as a `torch.optim.Optimizer`: what was meta-trained on tasks trains any module."""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT
from torch.utils._pytree import tree_leaves, tree_structure, tree_unflatten

from iai_regimes.evidence import Evidence
from iai_regimes.gradient_rule import GradientRule
from iai_regimes.interfaces import Theta
from iai_regimes.ravel import task_zeros

_NAME = "parameter"  # in the theta that the rule is given
_MOST_NUMBERS = 2**16  # that one step of the rule moves: more take memory and save no time


class _Moving(NamedTuple):
    parameter: Tensor
    gradient: Tensor
    lr: float


class LearnedOptimizer(Optimizer):
    """Trains any module by a rule that reads one gradient: a learned one, or a plain one.

    Each parameter tensor is a theta by itself, with its own carry. Tensors of one shape are moved
    together, as tasks of one step. The rule's weights do not change.

    What `torch.optim` promises holds: groups, closures, tensors without `.grad` skipped,
    `state_dict` without pickled objects, schedulers. The rule is given theta in the dtype of its
    own weights, where it has any, in float32 at least, and keeps its carry in it; the parameters
    keep theirs. A gradient that is not finite reaches its own tensor and that tensor's carry alone.

    Args:
        params: Parameters, or groups of them, as every optimizer takes them.
        rule: Moves theta: `RecurrentRule`, `MLPRule`, `Adam`, or yours. It is on the device of the
            parameters. The evidence of each step is one example, none seen before.
        lr: What each step is multiplied by: an option of a group, and what a scheduler changes. 1
            is the rule's own step.

    Raises:
        ValueError: If `lr` is below 0.
        TypeError: If `rule` is not a `GradientRule`.

    >>> from iai_regimes import Adam
    >>> weight = torch.nn.Parameter(torch.tensor([4.0]))
    >>> optimizer = LearnedOptimizer([weight], Adam(0.25))
    >>> (0.5 * weight.square()).sum().backward()
    >>> optimizer.step()
    >>> weight.item()  # as far as torch.optim.Adam would go
    3.75000...
    """

    def __init__(self, params: ParamsT, rule: GradientRule, *, lr: float = 1.0) -> None:
        if not isinstance(rule, GradientRule):
            raise TypeError(
                "`rule` must be a `GradientRule`, which moves theta by its gradient alone; "
                f"got {type(rule).__name__}."
            )
        self.rule = rule
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
        for parameter, gradient, _ in moving:
            if gradient.is_sparse or parameter.is_complex():
                kind = "sparse" if gradient.is_sparse else "complex"
                raise ValueError(f"A gradient must be dense and real; got a {kind} one.")
        for batch in self._batches(moving):
            self._move(batch)
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
                expected = tree_leaves(self.rule.start(self._theta([parameter])))
                shapes = [tuple(leaf.shape) for leaf in carries[parameter]]
                if shapes != [tuple(leaf.shape) for leaf in expected]:
                    raise ValueError(
                        f"`state_dict` must be that of {type(self.rule).__name__} on these "
                        f"parameters; it carries {shapes} for one of {tuple(parameter.shape)}."
                    )
        super().load_state_dict(state_dict)
        for parameter, carry in carries.items():  # torch has cast it to the parameter's dtype
            self.state[parameter] = {"carry": [leaf.to(parameter.device) for leaf in carry]}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "rule": self.rule}

    def _batches(self, moving: list[_Moving]) -> Iterator[list[_Moving]]:
        """Tensors that are tasks of one step: alike, all with a carry or none, and not too many."""
        alike: dict[Any, list[_Moving]] = {}
        for tensor in moving:
            parameter = tensor.parameter
            kind = parameter.shape, parameter.dtype, parameter.device, bool(self.state[parameter])
            alike.setdefault(kind, []).append(tensor)
        for tensors in alike.values():
            size = max(1, _MOST_NUMBERS // tensors[0].parameter.numel())
            yield from (tensors[i : i + size] for i in range(0, len(tensors), size))

    def _move(self, batch: list[_Moving]) -> None:
        """One step of the rule on tensors of one shape, each a task."""
        states = [self.state[moving.parameter] for moving in batch]
        theta = self._theta([moving.parameter for moving in batch])
        gradient = self._theta([moving.gradient for moving in batch])
        carry = self.rule.start(theta)
        if states[0]:
            columns = zip(*(state["carry"] for state in states), strict=True)
            carry = tree_unflatten([torch.cat(column) for column in columns], tree_structure(carry))
        zeros = task_zeros(theta)
        evidence = Evidence((), zeros + 1, zeros, True)
        moved, carry = self.rule.move(theta, carry, gradient, evidence)
        change, leaves = moved[_NAME] - theta[_NAME], tree_leaves(carry)
        for i, (moving, state) in enumerate(zip(batch, states, strict=True)):
            moving.parameter.add_(moving.lr * change[i])
            state["carry"] = [leaf[i : i + 1].clone() for leaf in leaves]

    def _theta(self, tensors: list[Tensor]) -> Theta:
        """Tensors of one shape as tasks, in the dtype that the rule computes in."""
        own = chain(self.rule.parameters(), self.rule.buffers())
        dtype = next((t.dtype for t in own if t.is_floating_point()), tensors[0].dtype)
        dtype = torch.promote_types(dtype, torch.float32)
        return {_NAME: torch.stack([tensor.detach().to(dtype) for tensor in tensors])}
