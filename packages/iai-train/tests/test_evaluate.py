from collections.abc import Iterator

import pytest
import torch
from iai_train import Row, evaluate, mean_squared_error
from iai_train.interfaces import Traceable
from iai_train.testing import check_traceable
from least_squares import Batch, Descent, Regression, Stage


def batch(num_tasks: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Regression().sample(num_tasks, num_support=5, num_query=7, generator=generator)


def rows(learner: Traceable, batches: list[Batch], steps: tuple[int, ...] = (0, 2, 5)) -> list[Row]:
    return evaluate(
        learner,
        batches,
        steps=steps,
        metrics={"error": mean_squared_error, "double": lambda *a: 2 * mean_squared_error(*a)},
        method="descent",
        split="in",
        seed=3,
    )


def test_the_toy_is_traceable() -> None:
    check_traceable(Descent(), batch(3))


def test_rows_are_what_a_loop_by_hand_gives() -> None:
    learner, tasks = Descent(), batch(6)
    got = {(row.step, row.metric): row for row in rows(learner, [tasks])}
    assert list(got) == [(s, m) for s in (0, 2, 5) for m in ("error", "double")]
    theta = learner.start.detach().expand(6, -1, -1)
    for step in range(6):
        if step in (0, 2, 5):
            errors = (tasks.query.x @ theta - tasks.query.y).square().mean((1, 2)).double()
            row = got[step, "error"]
            assert row.value == pytest.approx(errors.mean().item(), rel=1e-5)
            assert row.stderr == pytest.approx(errors.std().item() / 6**0.5, rel=1e-5)
            assert got[step, "double"].value == pytest.approx(2 * row.value)
            assert row.examples == (5 if step else 0)
            assert (row.method, row.split, row.seed) == ("descent", "in", 3)
        slope = tasks.support.x.mT @ (tasks.support.x @ theta - tasks.support.y) / 5
        theta = theta - learner.log_rate.detach().exp() * slope


def test_all_tasks_count_alike_whatever_their_batch() -> None:
    first, second = batch(1, seed=1), batch(9, seed=2)
    both = Batch(*(join(getattr(first, p), getattr(second, p)) for p in ("support", "query")))
    for split, whole in zip(rows(Descent(), [first, second]), rows(Descent(), [both]), strict=True):
        assert split.value == pytest.approx(whole.value)
        assert split.stderr == pytest.approx(whole.stderr)


def join(a: object, b: object) -> object:
    return type(a)(
        *(torch.cat([getattr(a, name), getattr(b, name)]) for name in ("x", "y", "mask"))
    )


def test_it_looks_in_evaluation_mode_without_gradients_and_leaves_the_mode() -> None:
    looked = []

    class Watched(Descent):
        def trace(self, *args: object, **kwargs: object) -> Iterator[Stage]:
            looked.append((self.training, torch.is_grad_enabled()))
            return super().trace(*args, **kwargs)

    learner = Watched().train()
    rows(learner, [batch(2)])
    assert looked == [(False, False)]
    assert learner.training


class Early(Descent):
    """Stops a step early."""

    def trace(self, *args: object, steps: int, **kwargs: object) -> Iterator[Stage]:
        return super().trace(*args, steps=steps - 1, **kwargs)


def test_what_cannot_be_measured_is_said() -> None:
    with pytest.raises(ValueError, match=r"`steps` must be at least one number, .* got \[\]"):
        rows(Descent(), [batch(2)], steps=())
    with pytest.raises(ValueError, match=r"none below 0; got \[-1, 2\]"):
        rows(Descent(), [batch(2)], steps=(-1, 2))
    with pytest.raises(ValueError, match="`batches` must hold at least one batch; got none"):
        rows(Descent(), [])
    with pytest.raises(ValueError, match=r"must show the steps \[0, 5\]; it showed \[0\]"):
        rows(Early(), [batch(2)], steps=(0, 5))


@pytest.mark.parametrize(
    ("metric", "got"),
    [
        (lambda outputs, query: outputs[..., 0], r"shape \(2, 7\)"),
        (lambda outputs, query: outputs.mean(), r"shape \(\)"),
        (lambda outputs, query: outputs.mean().item(), "float"),
    ],
)
def test_a_metric_of_another_shape_is_refused(metric: object, got: str) -> None:
    named = {"steps": [1], "method": "descent", "split": "in", "seed": 0}
    with pytest.raises(ValueError, match=rf"'error' must give .* shape \(2,\); got {got}\."):
        evaluate(Descent(), [batch(2)], metrics={"error": metric}, **named)


def test_the_contracts_catch() -> None:
    with pytest.raises(AssertionError, match=r"Steps 0 to 2 are shown; got \[0, 1\]"):
        check_traceable(Early(), batch(3))
