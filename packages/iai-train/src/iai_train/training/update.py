"""One update of the weights, which a number that is not finite does not pass."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from iai_train.config import FitConfig
from iai_train.training.buffers import Buffers
from iai_train.training.weights import check_memory, first_not_finite

Moments = Mapping[str, Mapping[str, Tensor]]
"""AdamW's `exp_avg`, `exp_avg_sq` and `step` of each trained parameter, by its name; and `average`,
its mean over the iterations, where the learner is to end with that."""


class Taken(NamedTuple):
    """An iteration, of which nothing was read yet: its tensors are on the device."""

    finite: Tensor  # whether everything was
    loss: Tensor
    losses: list[Tensor]  # `step task`, one for each chunk of tasks
    norm: Tensor
    norms: Tensor  # of the gradient of each parameter that has one
    names: list[str]  # of those parameters
    extents: Tensor | None  # largest number of each real buffer that was written
    written: list[str]  # names of those buffers


class Updater:
    """AdamW with clipping, a schedule, and a guard against numbers that are not finite.

    After the first loss, gradient norm or buffer that is not finite, updates leave weights and
    buffers as they are: the fused AdamW skips its work where `found_inf`, a number on the device,
    is 1, as it does for a gradient scaler. So a GPU is waited for only when someone looks at what
    `read` returns; the weights are then still those from before, and `blame` undoes the buffers.

    Args:
        learner: What is trained.
        config: The settings.

    Raises:
        ValueError: No parameter requires a gradient, or one cannot be written as it is.
    """

    def __init__(self, learner: nn.Module, config: FitConfig) -> None:
        named = learner.named_parameters()
        self.parameters = {name: weight for name, weight in named if weight.requires_grad}
        if not self.parameters:
            raise ValueError("`learner` has no parameter that requires a gradient.")
        check_memory(learner)
        self._config = config
        self._optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            fused=True,
        )
        # As AdamW would make them at the first gradient: so each parameter has them from the start.
        # The fused kernels count in float32, whatever torch's default dtype.
        for weight in self.parameters.values():
            self._optimizer.state[weight] = {
                "step": torch.zeros((), dtype=torch.float32, device=weight.device),
                "exp_avg": torch.zeros_like(weight, requires_grad=False),
                "exp_avg_sq": torch.zeros_like(weight, requires_grad=False),
            }
            if config.average:  # AdamW leaves it alone
                self._optimizer.state[weight]["average"] = weight.detach().clone()
        device = next(iter(self.parameters.values())).device
        self._stopped = torch.zeros((), dtype=torch.float32, device=device)
        self.buffers = Buffers(learner)
        self._taken: list[Taken] = []

    @property
    def moments(self) -> Moments:
        """The optimizer's own tensors, by the name of the parameter."""
        state = self._optimizer.state
        return {name: state[weight] for name, weight in self.parameters.items()}

    def load(self, moments: Moments) -> None:
        """Goes on from moments of the same names, shapes and dtypes, in whatever layout."""
        for name, own in self.moments.items():
            for key, tensor in own.items():
                tensor.copy_(moments[name][key])
        self.buffers.keep()  # the learner's weights were loaded too

    def step(self, loss: Tensor, losses: list[Tensor], iteration: int) -> None:
        """Updates the weights with the gradients that they hold, and drops the gradients."""
        gradients = {name: w.grad for name, w in self.parameters.items() if w.grad is not None}
        # As in `clip_grad_norm_`, which does not tell the norm of each.
        norms = torch.stack(torch._foreach_norm(list(gradients.values())))
        norm = torch.linalg.vector_norm(norms)
        if (clip_norm := self._config.clip_norm) is not None:
            nn.utils.clip_grads_with_norm_(self.parameters.values(), clip_norm, norm)
        written, extents = self.buffers.written(), None
        finite = torch.isfinite(loss.detach() + norm)
        if guarded := self.buffers.guarded(written):
            extents = self.buffers.extents(guarded)
            finite = finite & extents.isfinite().all()
        self._stopped = torch.maximum(self._stopped, (~finite).to(self._stopped.dtype))
        self.buffers.settle(written, self._stopped)
        self._optimizer.found_inf = self._stopped  # type: ignore[attr-defined]
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self._config, iteration)
        self._optimizer.step()
        self._optimizer.zero_grad()
        if self._config.average:
            decay = min(self._config.average, (1 + iteration) / (10 + iteration))
            with torch.no_grad():
                torch._foreach_lerp_(self._averages(), list(self.parameters.values()), 1 - decay)
        self._taken.append(
            Taken(finite, loss.detach(), losses, norm, norms, list(gradients), extents, guarded)
        )

    @torch.no_grad()
    def finish(self) -> None:
        """Leaves the average of the weights in the learner, where one is taken."""
        if self._config.average:
            torch._foreach_copy_(list(self.parameters.values()), self._averages())

    def _averages(self) -> list[Tensor]:
        return [self._optimizer.state[weight]["average"] for weight in self.parameters.values()]

    def read(self) -> list[Taken]:
        """The iterations since the last call."""
        taken, self._taken = self._taken, []
        return taken

    def blame(self, taken: Taken) -> tuple[int, str]:
        """Undoes an iteration that was not finite, and tells the first tensor that was not.

        Returns:
            When it is computed in an iteration, from 0: the smaller, the earlier. And its name.
        """
        self.buffers.restore()
        if name := first_not_finite(self.parameters):
            return 0, f"weight `{name}`"
        if len(bad := (~torch.cat(taken.losses, 1).isfinite()).nonzero()):
            step, task = bad[0].tolist()
            return 1, f"loss of task {task} after step {step + 1} (`losses[{step}, {task}]`)"
        if not taken.loss.isfinite():
            return 2, "weighted loss"
        if name := _first(taken.written, taken.extents):
            return 3, f"buffer `{name}`"
        if name := _first(taken.names, taken.norms):
            return 4, f"gradient of `{name}`"
        return 5, "gradient"


def _first(names: list[str], numbers: Tensor | None) -> str | None:
    """Name of the first number that is not finite."""
    found = [] if numbers is None else (~numbers.isfinite()).nonzero().flatten().tolist()
    return names[found[0]] if found else None


def learning_rate(config: FitConfig, iteration: int) -> float:
    """The learning rate of an iteration: a linear warm-up, then half a cosine.

    With i the iteration, w the warm-up and n the iterations in all, the highest rate is multiplied
    by (i + 1) / w while i < w, and then by final + (1 - final) (1 + cos(pi (i - w) / (n - w))) / 2.
    It is a function of the iteration alone, so a run that goes on has no scheduler to restore.

    Args:
        config: The settings.
        iteration: Number of iterations already taken.

    Source:
        Loshchilov and Hutter 2017, equation 5, one period; the warm-up is Goyal et al. 2017.

    >>> config = FitConfig(iterations=6, warmup=2, learning_rate=1.0)
    >>> [learning_rate(config, i) for i in range(4)]
    [0.5, 1.0, 1.0, 0.8535533905932737]
    """
    warmup, final = config.warmup, config.final
    factor = (iteration + 1) / max(warmup, 1)
    if iteration >= warmup:
        progress = (iteration - warmup) / max(config.iterations - warmup, 1)
        factor = final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.learning_rate * factor
