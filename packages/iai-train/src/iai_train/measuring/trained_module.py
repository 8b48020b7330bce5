"""Ordinary training of a module by an optimizer, measured step by step as a learner is."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import attrs
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.optim import Optimizer

from iai_train.interfaces import Query


class TrainingRun(NamedTuple):
    """A run of an optimizer, in the role of a labelled task."""

    support: int  # seed of the module's first weights and of the minibatches
    query: Query  # what the module is measured on: one task, of any number of examples


@attrs.frozen(eq=False)
class _Trained:
    """A module after some steps. The next step changes it."""

    module: nn.Module
    step: int
    seen: Float[Tensor, " task"]

    def predict(self, query_x: Shaped[Tensor, "1 n *x_shape"], /) -> Shaped[Tensor, "1 n _"]:
        outputs: Tensor = self.module.eval()(query_x[0])
        self.module.train()
        return outputs[None]


@attrs.frozen(eq=False)
class TrainedModule:
    """A new module for each run, trained by a `torch.optim.Optimizer`: how optimizers are compared.

    `evaluate` and `Experiment.measure` take it as a learner; each of their batches is a
    `TrainingRun`. Runs of one seed have the same first weights and minibatches, whatever the
    optimizer.

    Args:
        module: Makes a module with new weights, drawn from torch's global generator on the CPU.
        optimizer: Makes the optimizer of given parameters.
        draw: Draws a minibatch from a generator: inputs and targets.
        loss: The loss of the module's outputs and the targets.

    >>> from types import SimpleNamespace
    >>> data = torch.tensor([[1.0]]), torch.tensor([[3.0]])
    >>> learner = TrainedModule(
    ...     lambda: nn.Linear(1, 1, bias=False),
    ...     lambda parameters: torch.optim.SGD(parameters, lr=0.5),
    ...     lambda generator: data,
    ...     nn.functional.mse_loss,
    ... )
    >>> [stage.predict(torch.ones(1, 1, 1)).item() for stage in learner.trace(
    ...     0, torch.ones(1, 1, 1), steps=1)][1]
    3.0
    """

    module: Callable[[], nn.Module]
    optimizer: Callable[[Iterator[nn.Parameter]], Optimizer]
    draw: Callable[[torch.Generator], tuple[Tensor, Tensor]]
    loss: Callable[[Tensor, Tensor], Tensor]

    def trace(
        self,
        support: int,
        query_x: Shaped[Tensor, "1 n *x_shape"],
        /,
        *,
        steps: int,
    ) -> Iterator[_Trained]:
        """Yields the module after 0, 1, ..., `steps` steps, on the device of the queries.

        Args:
            support: The seed of the run.
            query_x: The queries.
            steps: Number of steps.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(support)
            module = self.module().to(query_x.device)
        optimizer = self.optimizer(module.parameters())
        generator = torch.Generator(query_x.device).manual_seed(support)
        seen = torch.zeros(1, device=query_x.device)
        yield _Trained(module, 0, seen)
        for step in range(1, steps + 1):
            x, y = self.draw(generator)
            with torch.enable_grad():
                loss = self.loss(module(x), y)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            seen = seen + len(x)
            yield _Trained(module, step, seen)
