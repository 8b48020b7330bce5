"""One meta-gradient of MAML and its variants in each library, written as in its examples.

A maker takes a module and an adaptation, and returns `backward(tasks)`, which adds the gradient of
the mean query loss over the tasks to the `.grad` of the module's parameters.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from iai_iterate import Iterated, first_order, unrolled
from iai_regimes import Categorical, GradientDescent, Parametric, Predictor
from iai_tasks import TaskBatch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

Backward = Callable[[TaskBatch], None]
Pairs = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


class Adaptation(NamedTuple):
    """Settings of the inner loop."""

    ways: int
    steps: int = 5
    rate: float = 0.1
    first_order: bool = False
    child: str | None = None  # the submodule that alone is adapted, such as the head for ANIL

    def adapted(self, module: nn.Module) -> nn.Module:
        return module if self.child is None else module.get_submodule(self.child)


def each(tasks: TaskBatch) -> Iterator[Pairs]:
    """The images and classes of support and query, one task at a time."""
    support, query = tasks.support, tasks.query
    assert support.y is not None and query.y is not None
    yield from zip(
        zip(support.x, support.y, strict=True), zip(query.x, query.y, strict=True), strict=True
    )


def ours(module: nn.Module, how: Adaptation, *, chunk: int | None = None) -> Backward:
    """Ours, in batches of `chunk` tasks; None: all tasks in one batch."""
    predictor = Predictor(module, None if how.child is None else [how.child])
    learner = Iterated(
        Parametric(predictor, Categorical(how.ways), GradientDescent(how.rate)),
        steps=how.steps,
        gradient=first_order if how.first_order else unrolled,
        loss="last",
    )

    def backward(tasks: TaskBatch) -> None:
        size = chunk or tasks.num_tasks
        for start in range(0, tasks.num_tasks, size):
            losses = learner(tasks[start : start + size]).losses
            (losses.sum() / tasks.num_tasks).backward()

    return backward


def plain(module: nn.Module, how: Adaptation) -> Backward:
    """No library: `autograd.grad` and `functional_call`."""
    prefix = "" if how.child is None else f"{how.child}."
    names = [prefix + name for name, _ in how.adapted(module).named_parameters()]

    def backward(tasks: TaskBatch) -> None:
        for (x, y), (query_x, query_y) in each(tasks):
            adapted = {name: module.get_parameter(name) for name in names}
            for _ in range(how.steps):
                loss = cross_entropy(functional_call(module, adapted, (x,)), y)
                gradients = torch.autograd.grad(
                    loss, list(adapted.values()), create_graph=not how.first_order
                )
                moved = zip(adapted.items(), gradients, strict=True)
                adapted = {name: old - how.rate * gradient for (name, old), gradient in moved}
            loss = cross_entropy(functional_call(module, adapted, (query_x,)), query_y)
            (loss / tasks.num_tasks).backward()

    return backward


def by_higher(module: nn.Module, how: Adaptation) -> Backward:
    """higher: a patched copy of the module and a differentiable copy of the optimizer."""
    import higher

    optimizer = torch.optim.SGD(how.adapted(module).parameters(), lr=how.rate)

    def constants(gradients: list[Tensor | None]) -> list[Tensor | None]:
        return [None if gradient is None else gradient.detach() for gradient in gradients]

    def backward(tasks: TaskBatch) -> None:
        for (x, y), (query_x, query_y) in each(tasks):
            with higher.innerloop_ctx(module, optimizer, copy_initial_weights=False) as (
                fast,
                inner,
            ):
                for _ in range(how.steps):
                    callback = constants if how.first_order else None
                    inner.step(cross_entropy(fast(x), y), grad_callback=callback)
                (cross_entropy(fast(query_x), query_y) / tasks.num_tasks).backward()

    return backward


def by_torchopt(module: nn.Module, how: Adaptation) -> Backward:
    """torchopt: a meta-optimizer that replaces the tensors in the module."""
    import torchopt

    adapted = how.adapted(module)

    def no_state(parameters: object) -> tuple[()]:
        return ()

    def constants(
        gradients: tuple[Tensor, ...], state: tuple[()], *, params: object, inplace: bool
    ) -> tuple[tuple[Tensor, ...], tuple[()]]:
        return tuple(gradient.detach() for gradient in gradients), state

    if how.first_order:
        stop = torchopt.base.GradientTransformation(no_state, constants)
        rule = torchopt.chain(stop, torchopt.sgd(how.rate, moment_requires_grad=True))
        inner = torchopt.MetaOptimizer(adapted, rule)
    else:
        inner = torchopt.MetaSGD(adapted, lr=how.rate)

    def backward(tasks: TaskBatch) -> None:
        weights = torchopt.extract_state_dict(module, by="reference")
        state = torchopt.extract_state_dict(inner, by="reference")
        for (x, y), (query_x, query_y) in each(tasks):
            for _ in range(how.steps):
                inner.step(cross_entropy(module(x), y))
            (cross_entropy(module(query_x), query_y) / tasks.num_tasks).backward()
            torchopt.recover_state_dict(module, weights)
            torchopt.recover_state_dict(inner, state)

    return backward


def by_learn2learn(module: nn.Module, how: Adaptation) -> Backward:
    """learn2learn: a clone of the adapted part whose parameters are replaced."""
    from learn2learn.algorithms.maml import MAML

    learner = MAML(how.adapted(module), lr=how.rate, first_order=how.first_order)
    body = nn.Sequential(*list(module.children())[:-1])

    def backward(tasks: TaskBatch) -> None:
        for (x, y), (query_x, query_y) in each(tasks):
            if how.child is not None:
                x, query_x = body(x), body(query_x)
            fast = learner.clone()
            for _ in range(how.steps):
                fast.adapt(cross_entropy(fast(x), y))
            (cross_entropy(fast(query_x), query_y) / tasks.num_tasks).backward()

    return backward


PEERS: dict[str, Callable[[nn.Module, Adaptation], Backward]] = {
    "higher": by_higher,
    "torchopt": by_torchopt,
    "learn2learn": by_learn2learn,
}
