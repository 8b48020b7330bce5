import pytest
import torch
from iai_train.testing import check_learner
from least_squares import Batch, Descent, Weights, sampler_source
from torch import Tensor, nn


class Attached(Descent):
    def forward(self, tasks: Batch, state: Weights | None = None) -> tuple[Tensor, Tensor, Weights]:
        losses, seen, state = super().forward(tasks, state)
        return losses, seen, state._replace(theta=state.theta * self.log_rate)


class Idle(Descent):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))


class Averaged(Descent):
    def forward(self, tasks: Batch, state: Weights | None = None) -> tuple[Tensor, Tensor, Weights]:
        losses, seen, state = super().forward(tasks, state)
        return losses.mean(0, keepdim=True), seen, state


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Attached, "A state is detached"),
        (Idle, "These weights got no gradient: unused"),
        (Averaged, r"Seen is `step task`; got \(3, 8\)"),
    ],
)
def test_the_contract_catches(broken: type[Descent], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_learner(broken(), sampler_source().next()[0])
