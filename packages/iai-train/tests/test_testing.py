"""The contract suites find what they are there to find: each part here breaks one promise."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from iai_train import accuracy, mean_squared_error
from iai_train.testing import check_learner, check_logger, check_metric
from iai_train.training.log import Log
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


class Counting(Descent):
    calls = 0

    def forward(self, tasks: Batch, state: Weights | None = None) -> tuple[Tensor, Tensor, Weights]:
        losses, seen, state = super().forward(tasks, state)
        self.calls += 1
        return losses / self.calls, seen, state


class Drawing(Descent):
    """Leaves the loss alone, and some of its gradient out, by draws of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, tasks: Batch, state: Weights | None = None) -> tuple[Tensor, Tensor, Weights]:
        losses, seen, state = super().forward(tasks, state)
        kept = torch.rand(len(losses), 1, generator=self.generator)
        return kept * losses + (1 - kept) * losses.detach(), seen, state


def test_a_learner_may_draw_from_the_global_generators_and_count_in_a_buffer() -> None:
    class Counted(Descent):
        def __init__(self) -> None:
            super().__init__(dropout=0.5)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, tasks: Batch, state: Weights | None = None) -> object:
            losses, seen, state = super().forward(tasks, state)
            self.calls += 1
            return losses * self.calls, seen, state

    check_learner(Counted(), sampler_source().next()[0])


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Counting, "The same weights, buffers and global generators lead to the same losses"),
        (Drawing, "a generator of the learner's own, or a count, is in no checkpoint"),
        (Attached, "A state is detached"),
        (Idle, "These weights got no gradient: unused"),
        (Averaged, r"Seen is `step task`; got \(3, 8\)"),
    ],
)
def test_the_contract_catches(broken: type[Descent], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_learner(broken(), sampler_source().next()[0])


def numbers() -> tuple[Tensor, SimpleNamespace, SimpleNamespace]:
    generator = torch.Generator().manual_seed(0)
    outputs, y = (torch.randn(3, 5, 4, generator=generator) for _ in range(2))
    classes = torch.randint(4, (3, 5), generator=generator)
    mask = torch.ones(3, 5, dtype=torch.bool)
    return outputs, *(SimpleNamespace(x=y[..., :1], y=each, mask=mask) for each in (y, classes))


def test_our_metrics_keep_the_contract() -> None:
    outputs, real, classes = numbers()
    check_metric(mean_squared_error, outputs, real)
    check_metric(accuracy, outputs, classes)


def test_an_answer_that_is_nan_is_not_right() -> None:
    outputs = torch.tensor([[[torch.nan, torch.nan], [2.0, 1.0]], [[2.0, 1.0], [1.0, 2.0]]])
    mask = torch.ones(2, 2, dtype=torch.bool)
    query = SimpleNamespace(x=None, y=torch.tensor([[0, 0], [0, 0]]), mask=mask)
    assert accuracy(outputs, query).tolist()[1] == 0.5 and accuracy(outputs, query)[0].isnan()
    query.mask = torch.tensor([[False, True], [True, True]])
    assert accuracy(outputs, query).tolist() == [1.0, 0.5]


def errors(outputs: Tensor, query: SimpleNamespace) -> Tensor:
    wrong = (outputs - query.y).square().mean(-1)
    return torch.where(query.mask, wrong, 0)


def of_all(outputs: Tensor, query: SimpleNamespace) -> Tensor:
    return mean_squared_error(outputs, query).mean()


def ignores_the_mask(outputs: Tensor, query: SimpleNamespace) -> Tensor:
    return (outputs - query.y).square().nanmean((1, 2))


def counts_padding(outputs: Tensor, query: SimpleNamespace) -> Tensor:
    return errors(outputs, query).mean(1)


def zero_for_nothing(outputs: Tensor, query: SimpleNamespace) -> Tensor:
    return errors(outputs, query).sum(1) / query.mask.sum(1).clamp(min=1)


def first_query(outputs: Tensor, query: SimpleNamespace) -> Tensor:
    return errors(outputs, query)[:, 0]


def standardised(outputs: Tensor, query: SimpleNamespace) -> Tensor:
    values = mean_squared_error(outputs, query)
    return values / values.nanmean()


def right_where_nan(outputs: Tensor, query: SimpleNamespace) -> Tensor:
    return mean_squared_error(outputs.nan_to_num(), query)


def in_place(outputs: Tensor, query: SimpleNamespace) -> Tensor:
    return mean_squared_error(outputs.mul_(2), query)


def whole_numbers(outputs: Tensor, query: SimpleNamespace) -> Tensor:
    return (errors(outputs, query) < 1).sum(1)


def in_logarithms(outputs: Tensor, query: SimpleNamespace) -> Tensor:
    return (0 * mean_squared_error(outputs, query)).log()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (of_all, "A metric gives a real number a task"),
        (whole_numbers, "A metric gives a real number a task"),
        (in_place, "A metric leaves outputs and queries as they were"),
        (in_logarithms, "A metric of finite outputs is finite"),
        (first_query, "The order of the queries changes no number"),
        (ignores_the_mask, "The other tasks and masked queries, NaN included, change no number"),
        (counts_padding, "The other tasks and masked queries, NaN included, change no number"),
        (standardised, "The other tasks and masked queries, NaN included, change no number"),
        (zero_for_nothing, "A task without an observed query has no number, NaN; got 0.0."),
        (right_where_nan, "A task whose outputs are NaN has no score"),
    ],
)
def test_a_broken_metric_is_found(broken: object, message: str) -> None:
    outputs, real, _ = numbers()
    with pytest.raises(AssertionError, match=message):
        check_metric(broken, outputs, real)


def test_our_log_keeps_the_contract(tmp_path: Path) -> None:
    check_logger(Log(tmp_path, tensorboard=False, on_log=None).write)


def adds(record: dict[str, float]) -> None:
    record["seen"] = 1


def draws(record: dict[str, float]) -> None:
    torch.rand(())


def stops_gradients(record: dict[str, float]) -> None:
    torch.set_grad_enabled(False)


def knows_its_columns(record: dict[str, float]) -> None:
    if set(record) != {"iteration", "loss", "gradient_norm", "learning_rate", "wall_seconds"}:
        raise KeyError("another")


class Forward:
    last = 0

    def __call__(self, record: dict[str, float]) -> None:
        if record["iteration"] <= self.last:
            raise ValueError("Iterations go forward.")
        self.last = record["iteration"]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (adds, "A logger leaves its record as it was"),
        (draws, "A logger leaves torch's global generator and gradients as they were"),
        (stops_gradients, "A logger leaves torch's global generator and gradients as they were"),
        (knows_its_columns, r"A logger takes the record .*'another': 3}; got KeyError"),
        (Forward(), "A logger takes the record .*'iteration': 20.*; got ValueError"),
    ],
)
def test_a_broken_logger_is_found(broken: object, message: str) -> None:
    with torch.enable_grad(), pytest.raises(AssertionError, match=message):
        check_logger(broken)
