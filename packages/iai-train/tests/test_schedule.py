import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_train import learning_rate_factor


@given(st.integers(1, 50), st.integers(0, 20), st.floats(0, 1))
def test_after_the_warmup_it_is_torchs_cosine(cosine: int, warmup: int, final: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    torchs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, cosine, eta_min=final)
    for i in range(cosine):
        ours = learning_rate_factor(
            warmup + i, iterations=warmup + cosine, warmup=warmup, final=final
        )
        assert ours == pytest.approx(torchs.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        torchs.step()


@given(st.integers(1, 50))
def test_the_warmup_rises_to_one_in_equal_parts(warmup: int) -> None:
    factors = [learning_rate_factor(i, iterations=100, warmup=warmup) for i in range(warmup)]
    assert factors[-1] == 1
    steps = torch.tensor([0.0, *factors], dtype=torch.float64).diff()
    assert steps.tolist() == pytest.approx([1 / warmup] * warmup)


def test_a_run_of_warmup_alone_is_defined() -> None:
    assert [learning_rate_factor(i, iterations=2, warmup=2) for i in range(2)] == [0.5, 1.0]
