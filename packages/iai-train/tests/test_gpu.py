from pathlib import Path

import attrs
import pytest
import torch
from iai_train import FitResult, NonFiniteError, SamplerSource, fit, process_generator
from least_squares import CONFIG, Batch, Descent, Regression

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


class Impatient(SamplerSource[Batch]):
    """Between `next` and `put`, whatever waits for the device is an error."""

    def next(self) -> tuple[Batch, None]:
        drawn = super().next()
        torch.cuda.set_sync_debug_mode("error")
        return drawn

    def put(self, state: object) -> None:
        torch.cuda.set_sync_debug_mode("default")


def train(learner: Descent, precision: str = "fp32", out: Path | None = None) -> FitResult:
    source = Impatient(
        Regression(),
        num_tasks=8,
        num_support=(3, 6),
        num_query=4,
        generator=process_generator(0, "cuda"),
    )
    config = attrs.evolve(CONFIG, precision=precision)
    try:
        return fit(learner, source, config, out=out, device="cuda", progress=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_iteration_does_not_wait_for_the_device(precision: str) -> None:
    result = train(Descent(), precision)
    assert next(result.learner.parameters()).is_cuda
    assert len(result.losses) == CONFIG.iterations


def test_the_guard_works_on_the_device() -> None:
    class Spoiled(Descent):
        def __init__(self, iterations: int) -> None:
            super().__init__()
            self.left = iterations

        def forward(self, *arguments: object) -> object:
            losses, seen, state = super().forward(*arguments)
            self.left -= 1
            return losses / (self.left > 0 or 0.0), seen, state

    learner = Spoiled(1)
    with pytest.raises(NonFiniteError, match="in iteration 1:"):
        train(learner)
    assert torch.equal(learner.start.cpu(), Descent().start)


def test_a_finished_run_comes_back_to_the_device(tmp_path: Path) -> None:
    first, again = train(Descent(), out=tmp_path), train(Descent(), out=tmp_path)
    assert again.losses == first.losses
    for ours, theirs in zip(first.learner.parameters(), again.learner.parameters(), strict=True):
        assert torch.equal(ours, theirs)
