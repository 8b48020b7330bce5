"""One update of the weights, which a number that is not finite does not pass."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from iai_train.config import FitConfig
from iai_train.schedule import learning_rate_factor


class Updater:
    """AdamW with clipping, a schedule and a guard, none of which makes a GPU wait.

    From the first loss or gradient norm that is not finite on, updates leave the weights as they
    are: the fused AdamW skips its work where `found_inf`, a number on the device, is 1 (as for a
    gradient scaler). So the numbers need to be looked at only now and then, by `read`, and the
    weights are still those from before.

    Args:
        parameters: What is trained.
        config: The settings.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], config: FitConfig) -> None:
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        if not self._parameters:
            raise ValueError("`learner` has no parameter that requires a gradient.")
        self._config = config
        self.optimizer = torch.optim.AdamW(
            self._parameters,
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self._stopped = torch.zeros((), device=self._parameters[0].device)
        self._losses: list[Tensor] = []
        self._norms: list[Tensor] = []

    def step(self, loss: Tensor, iteration: int) -> None:
        """Update the weights with the gradients that they hold, and drop those."""
        norm = nn.utils.clip_grad_norm_(self._parameters, self._config.clip_norm or math.inf)
        finite = torch.isfinite(loss.detach() + norm)
        self._stopped = torch.maximum(self._stopped, (~finite).to(self._stopped.dtype))
        self.optimizer.found_inf = self._stopped  # type: ignore[attr-defined]
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(iteration)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._losses.append(loss.detach())
        self._norms.append(norm.detach())

    def learning_rate(self, iteration: int) -> float:
        """Return the learning rate of an iteration."""
        config = self._config
        return config.learning_rate * learning_rate_factor(
            iteration, iterations=config.iterations, warmup=config.warmup, final=config.final
        )

    def read(self) -> Tensor:
        """Return the losses and gradient norms, `2 iteration`, since the last call."""
        rows = torch.stack([torch.stack(self._losses), torch.stack(self._norms)])
        self._losses.clear()
        self._norms.clear()
        return rows
