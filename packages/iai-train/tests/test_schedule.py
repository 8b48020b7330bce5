import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_train import FitConfig
from iai_train.training.update import learning_rate


@given(st.integers(1, 50), st.integers(0, 20), st.floats(0, 1))
def test_after_the_warmup_it_is_torchs_cosine(cosine: int, warmup: int, final: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    torchs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, cosine, eta_min=final)
    config = FitConfig(iterations=warmup + cosine, learning_rate=1.0, warmup=warmup, final=final)
    for i in range(cosine):
        ours = learning_rate(config, warmup + i)
        assert ours == pytest.approx(torchs.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        torchs.step()


@given(st.integers(1, 50), st.floats(1e-4, 10))
def test_the_warmup_rises_to_the_highest_rate_in_equal_parts(warmup: int, highest: float) -> None:
    config = FitConfig(iterations=100, learning_rate=highest, warmup=warmup)
    rates = [learning_rate(config, i) for i in range(warmup)]
    assert rates[-1] == highest
    steps = torch.tensor([0.0, *rates], dtype=torch.float64).diff()
    assert steps.tolist() == pytest.approx([highest / warmup] * warmup)


def test_a_run_of_warmup_alone_is_defined() -> None:
    config = FitConfig(iterations=2, learning_rate=1.0, warmup=2)
    assert [learning_rate(config, i) for i in range(2)] == [0.5, 1.0]
