"""One update of the weights, which a number that is not finite does not pass."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from iai_train.config import FitConfig


class Updater:
    """AdamW with clipping, a schedule, and a guard against numbers that are not finite.

    After the first loss or gradient norm that is not finite, updates leave the weights as they are:
    the fused AdamW skips its work where `found_inf`, a number on the device, is 1, as it does for a
    gradient scaler. So a GPU is waited for only when `read` is called, and the weights are then
    still those from before.

    Args:
        parameters: What is trained.
        config: The settings.

    Raises:
        ValueError: No parameter requires a gradient.
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
        """Updates the weights with the gradients that they hold, and drops the gradients."""
        norm = nn.utils.clip_grad_norm_(self._parameters, self._config.clip_norm or math.inf)
        finite = torch.isfinite(loss.detach() + norm)
        self._stopped = torch.maximum(self._stopped, (~finite).to(self._stopped.dtype))
        self.optimizer.found_inf = self._stopped  # type: ignore[attr-defined]
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self._config, iteration)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._losses.append(loss.detach())
        self._norms.append(norm.detach())

    def read(self) -> Tensor:
        """The losses and gradient norms, `2 iteration`, since the last call."""
        rows = torch.stack([torch.stack(self._losses), torch.stack(self._norms)])
        self._losses.clear()
        self._norms.clear()
        return rows


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
