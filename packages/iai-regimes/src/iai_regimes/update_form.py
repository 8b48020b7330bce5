"""How a proposal of a network moves a state: residual, gated or annealed."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from iai_regimes.evidence import spread

UpdateForm = Literal["residual", "gated", "annealed"]
UPDATE_FORMS: tuple[UpdateForm, ...] = ("residual", "gated", "annealed")


def num_proposals(form: UpdateForm) -> int:
    """Numbers that a network must propose for each number of the state.

    Raises:
        ValueError: If `form` is not one of residual, gated, annealed.

    >>> num_proposals("gated")
    2
    """
    if form not in UPDATE_FORMS:
        raise ValueError(f"`update` must be one of {', '.join(UPDATE_FORMS)}; got {form!r}.")
    return 2 if form == "gated" else 1


def move(
    form: UpdateForm,
    state: Float[Tensor, "task *shape"],
    proposal: tuple[Tensor, ...],
    gain: Float[Tensor, " task"],
) -> Float[Tensor, "task *shape"]:
    """The state after one minibatch; a task with a gain of 0, an empty minibatch, keeps its state.

    residual: state + delta. annealed: state + gain * delta. gated: s * sg(state) + (1 - s) * value,
    with s = sigmoid(gate + 2) and sg the stopped gradient.

    Args:
        form: One of the three.
        state: The state before the minibatch.
        proposal: (delta,) for residual and annealed, (value, gate) for gated, each shaped as the
            state.
        gain: Share of this minibatch in all the evidence, b / (n + b).

    Returns:
        The new state. Gradients flow to the proposal and, except for gated, to the state.

    Source:
        Residual: Mittal et al. (2025), arXiv 2510.11471; gated: Marino et al. (2018), arXiv
        1807.09356, with a bias that keeps most of the state at first; annealed: ours.

    >>> move("annealed", torch.tensor([[1.0]]), (torch.tensor([[4.0]]),), torch.tensor([0.25]))
    tensor([[2.]])
    """
    gain = spread(gain, state)
    if form == "annealed":
        moved = state + gain * proposal[0]
    elif form == "residual":
        moved = state + proposal[0]
    else:
        value, gate = proposal
        keep = torch.sigmoid(gate + 2.0)
        moved = keep * state.detach() + (1 - keep) * value
    return torch.where(gain > 0, moved.to(state.dtype), state)
