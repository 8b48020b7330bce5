import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_regimes import Categorical, Gaussian, ImplicitColumns, Unlabelled
from iai_regimes.regimes.implicit_columns import beside_the_others
from regime_parts import DIM, Examples
from torch import nn

COLUMNS = 5


class MeanOfCells(nn.Module):
    """A table encoder: each column's mean, beside the mean of all."""

    def __init__(self, dim=DIM):
        super().__init__()
        self.dim = dim
        self.cell, self.column = nn.Linear(dim, dim), nn.Linear(2 * dim, dim)

    def encode(self, cells, *, mask):
        hidden = self.cell(cells.masked_fill(~mask[..., None, None], 0.0)).tanh()
        hidden = hidden.masked_fill(~mask[..., None, None], 0.0)
        mean = hidden.sum(1) / mask.sum(1).clamp(min=1)[:, None, None]
        return self.column(torch.cat([mean, mean.mean(1, keepdim=True).expand_as(mean)], dim=-1))


def build(seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        regime = ImplicitColumns(MeanOfCells(), Unlabelled(Categorical(2)), **options).double()
        for parameter in regime.parameters():
            nn.init.normal_(parameter, std=0.3)
    return regime


def draw(seed=0, rows=6, columns=COLUMNS):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, rows, columns, generator=generator, dtype=torch.float64)
    place = torch.arange(columns, dtype=torch.float64)[None, :, None].expand(3, -1, -1)
    y = torch.arange(columns).remainder(2).expand(3, -1)
    support = Examples(x, None, torch.ones(3, rows, dtype=torch.bool))
    return support, Examples(place, y, torch.ones(3, columns, dtype=torch.bool))


def read(regime, support, query_x):
    state = regime.init(support.x.shape[0], query_x)
    for part in (slice(0, 2), slice(2, None)):
        batch = Examples(*(None if field is None else field[:, part] for field in support))
        state = regime.update(state, regime.encode(batch), query_x)
    return regime.predict(state, query_x)


@given(seed=st.integers(0, 2**32), columns=st.integers(2, 7))
def test_answers_follow_their_columns(seed, columns):
    regime, (support, query) = build(), draw(seed, columns=columns)
    order = torch.randperm(columns, generator=torch.Generator().manual_seed(seed))
    permuted = read(regime, support._replace(x=support.x[..., order]), query.x)
    torch.testing.assert_close(permuted, read(regime, support, query.x)[:, order])


@given(seed=st.integers(0, 2**32), scale=st.floats(0.1, 10))
def test_ridge_regressions_on_the_other_columns(seed, scale):
    (support, _), rows = draw(seed, rows=9), 9
    z = (support.x - support.x.mean(1, keepdim=True)) / support.x.std(1, correction=0, keepdim=True)
    rest, size = beside_the_others(z, support.mask)
    for task in range(3):
        for column in range(COLUMNS):
            others = [other for other in range(COLUMNS) if other != column]
            design, target = z[task][:, others], z[task][:, column]
            gram = design.mT @ design + torch.eye(len(others), dtype=z.dtype)
            weight = torch.linalg.solve(gram, design.mT @ target)
            left = target @ (target - design @ weight) / rows + 1 / rows  # the ridge's own share
            torch.testing.assert_close(size[task, column], left)
            # What is left less the ridge's pull on the column itself, over the root of its size.
            residual = target - design @ weight
            torch.testing.assert_close(rest[task, :, column], residual * left.rsqrt())


def test_a_constant_column_and_a_single_row_have_finite_answers():
    regime, (support, query) = build(), draw()
    support.x[..., 1] = 7.0
    assert read(regime, support, query.x).isfinite().all()
    state = regime.init(3, query.x)
    one = Examples(support.x[:, :1], None, support.mask[:, :1])
    state = regime.update(state, regime.encode(one), query.x)
    assert regime.predict(state, query.x).isfinite().all()


def test_values_of_any_size_have_finite_answers():
    regime, (support, query) = build(), draw()
    for scale in (1e-12, 1e12):
        answers = read(regime, support._replace(x=scale * support.x), query.x)
        assert answers.isfinite().all()


def test_the_largest_float32_have_finite_answers():
    regime, (support, query) = build().float(), draw()
    x, asked = (1e37 * support.x).float(), query.x.float()
    assert read(regime, support._replace(x=x), asked).isfinite().all()
    x[..., 1] = 1e37
    assert read(regime, support._replace(x=x), asked).isfinite().all()


def test_answers_under_autocast_are_finite():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(3, 512, 1, generator=generator)
    x = base + 1e-3 * torch.randn(3, 512, COLUMNS, generator=generator)  # all but the same column
    z = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True, correction=0)
    mask = torch.ones(3, 512, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        rest, size = beside_the_others(z, mask)
    assert rest.isfinite().all() and (size > 0).all()


def test_a_column_that_is_not_there_has_no_answer():
    regime, (support, query) = build(), draw()
    place = query.x.clone()
    place[0, 1] = COLUMNS
    place[1, 0] = -1
    answers = read(regime, support, place)
    missing = torch.zeros(3, COLUMNS, dtype=torch.bool)
    missing[0, 1] = missing[1, 0] = True
    assert answers[missing].isnan().all()
    assert torch.equal(answers[~missing], read(regime, support, query.x)[~missing])


@pytest.mark.usefixtures("own_errors")
def test_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"`likelihood` must be Unlabelled"):
        ImplicitColumns(MeanOfCells(), Categorical(2))
    with pytest.raises(ValueError, match=r"`hidden_dim` must be at least 1; got 0."):
        ImplicitColumns(MeanOfCells(), Unlabelled(Gaussian(1)), hidden_dim=0)
    regime, (support, query) = build(), draw()
    with pytest.raises(ValueError, match=r"give `query_x`"):
        regime.init(3)
    with pytest.raises(ValueError, match=r"`x` must have shape \(task, n, column\)"):
        regime.encode(support._replace(x=support.x[..., None]))
    with pytest.raises(ValueError, match="`x` must have at least one column; got none"):
        regime.encode(support._replace(x=support.x[..., :0]))
    state = regime.init(3, query.x)
    with pytest.raises(ValueError, match=r"the index of a column, \(3, 5, 1\); got \(3, 5, 2\)."):
        regime.predict(state, query.x.expand(-1, -1, 2))
