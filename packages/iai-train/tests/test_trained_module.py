"""Modules that a torch optimizer trains, measured as learners are."""

import torch
from iai_train import TrainedModule, TrainingRun, evaluate, mean_squared_error
from iai_train.testing import check_traceable
from least_squares import Examples
from torch import nn

X = torch.randn(1, 6, 2, generator=torch.Generator().manual_seed(0))
QUERY = Examples(X, X.sum(-1, keepdim=True), torch.ones(1, 6, dtype=torch.bool))


def draw(generator):
    x = torch.randn(3, 2, generator=generator)
    return x, x.sum(1, keepdim=True)


def trained(rate=0.1, module=lambda: nn.Linear(2, 1)):
    return TrainedModule(
        module, lambda p: torch.optim.SGD(p, lr=rate), draw, nn.functional.mse_loss
    )


def answers(learner, seed, steps=4):
    return [stage.predict(X) for stage in learner.trace(seed, X, steps=steps)]


def test_it_is_trained_as_one_does() -> None:
    torch.manual_seed(5)
    module = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(5)
    expected = [module(X)]
    for _ in range(4):
        x, y = draw(generator)
        optimizer.zero_grad()
        nn.functional.mse_loss(module(x), y).backward()
        optimizer.step()
        expected.append(module(X))
    for found, each in zip(answers(trained(), seed=5), expected, strict=True):
        assert torch.equal(found, each)


def test_the_seed_decides_the_start_whatever_the_optimizer_and_touches_no_other_draw() -> None:
    state = torch.get_rng_state()
    start, other = answers(trained(0.1), seed=1), answers(trained(0.5), seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(start[0], other[0]) and not torch.equal(start[1], other[1])
    assert not torch.equal(start[0], answers(trained(), seed=2)[0])


def test_it_answers_in_evaluation_mode_and_trains_in_training_mode() -> None:
    modes = []

    class Noted(nn.Linear):
        def forward(self, x):
            modes.append(self.training)
            return super().forward(x)

    answers(trained(module=lambda: Noted(2, 1)), seed=0, steps=2)
    assert modes == [False, True, False, True, False]


def test_it_is_traceable() -> None:
    check_traceable(trained(), TrainingRun(0, QUERY))


def test_runs_are_measured_as_tasks_are() -> None:
    rows = evaluate(
        trained(),
        [TrainingRun(seed, QUERY) for seed in (3, 4, 5)],
        steps=[0, 20],
        metrics={"error": mean_squared_error},
        method="sgd",
        split="in",
        seed=0,
    )
    assert [(row.step, row.examples) for row in rows] == [(0, 0), (20, 60)]
    assert rows[1].value < 0.2 * rows[0].value
    errors = [(answers(trained(), seed)[0] - QUERY.y).square().mean() for seed in (3, 4, 5)]
    assert torch.tensor(rows[0].value).allclose(torch.stack(errors).mean())
