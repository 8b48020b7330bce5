"""What would broadcast is refused where it meets: outputs, targets, queries, states and roles."""

import re
from types import SimpleNamespace

import pytest
import torch
from iai_regimes import (
    Categorical,
    Embedded,
    Gaussian,
    GradientDescent,
    Implicit,
    ImplicitColumns,
    LearnedRule,
    Parametric,
    Predictor,
    Unlabelled,
)
from regime_parts import LIKELIHOODS, X_DIM, Examples, MeanEncoder, build, draw
from torch import nn

pytestmark = pytest.mark.usefixtures("own_errors")


def error(message, kind=ValueError):
    return pytest.raises(kind, match=f"^{re.escape(message)}$")


def linear(num_outputs=1, likelihood=None):
    predictor = Predictor(nn.Linear(X_DIM, num_outputs))
    return Parametric(predictor, likelihood or Gaussian(1, scale=1.0), GradientDescent(0.1))


@pytest.mark.parametrize("method", ["negative_log", "residual"])
def test_outputs_and_targets_that_broadcast(method):
    gaussian, categorical = Gaussian(1, scale=1.0), Categorical(4)
    meet = getattr(gaussian, method)
    for outputs, y in [((2, 3), (2, 3, 1)), ((2, 3, 1), (2, 3)), ((2, 3, 1), (2, 3, 2))]:
        with error(
            f"`outputs` and `y` must be (task, n, 1) and (task, n, 1); got {outputs} and {y}."
        ):
            meet(torch.zeros(outputs), torch.zeros(y))
    with error(
        "`outputs` and `y` must be (task, n, 4) and (task, n) int64; got (2, 3, 6) and (2, 3) "
        "torch.int64."
    ):
        getattr(categorical, method)(torch.zeros(2, 3, 6), torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"got \(2, 3, 4\) and \(2, 3\) torch\.float32\.$"):
        getattr(categorical, method)(torch.zeros(2, 3, 4), torch.zeros(2, 3))


@pytest.mark.parametrize("label", [-100, -1, 3, 2**40])
def test_a_class_out_of_range_never_counts_as_one(label):
    categorical, y = Categorical(3), torch.tensor([[label, 1]])
    outputs = torch.randn(1, 2, 3, requires_grad=True)
    for values in (
        categorical.features(y),
        categorical.residual(outputs, y),
        categorical.negative_log(outputs, y)[..., None],
    ):
        assert values[0, 0].isnan().all() and values[0, 1].isfinite().all()
    query = Examples(torch.zeros(1, 2, X_DIM), y, torch.tensor([[True, True]]))
    with error(
        f"`y` must lie in 0 .. 2 where `mask` is True; got {min(label, 1)} .. {max(label, 1)}."
    ):
        linear(3, categorical).loss(outputs, query)
    hidden = query._replace(mask=torch.tensor([[False, True]]))
    assert linear(3, categorical).loss(outputs, hidden).isfinite().all()


class Flat(nn.Module):
    """Gives (n,) where (n, 1) is meant."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(X_DIM, 1)

    def forward(self, x):
        return self.linear(x).squeeze(-1)


@pytest.mark.parametrize("num_tasks", [1, 3])
def test_a_module_must_give_numbers_for_each_input(num_tasks):
    batch = draw(Gaussian(1), num_tasks)
    regime = Parametric(Predictor(Flat()), Gaussian(1, scale=1.0), GradientDescent(0.1))
    state = regime.init(num_tasks)
    message = "`module` must map inputs (n, *x_shape) to outputs (n, num_outputs); "
    message += "of (6, 3) it made (6,)."
    with error(message):
        regime.predict(state, batch.x)
    with error(message):
        regime.update(state, regime.encode(batch))
    three = linear(3)
    with error(
        "`outputs` must be (task, n, 1), the likelihood's `num_outputs` for each example; "
        f"got ({num_tasks}, 6, 3)."
    ):
        three.predict(three.init(num_tasks), batch.x)


@pytest.mark.parametrize("num_tasks", [1, 3])
def test_inputs_that_a_module_cannot_read(num_tasks):
    regime, x = linear(), torch.zeros(num_tasks, 5, 2)
    with error(
        "`module` fails on inputs of the shape (5, 2), torch.float32: "
        + (
            "mat1 and mat2 shapes cannot be multiplied (5x2 and 3x1)."
            if num_tasks == 1
            else "Expected size for first two dimensions of batch2 tensor to be: [3, 2] but got: "
            "[3, 3]."
        )
    ):
        regime.predict(regime.init(num_tasks), x)
    embedded = Embedded(linear(), nn.Linear(4, X_DIM))
    with pytest.raises(ValueError, match=r"^`embedding` fails on inputs .* \(\d+, 2\), .*\.$"):
        embedded.predict(embedded.init(num_tasks), x)


@pytest.mark.parametrize("name", ["maml", "implicit-logits-annealed", "explicit-both"])
@pytest.mark.parametrize("shape", [(3,), (2, 4), (2, 4, X_DIM), (3, 4), (3, 4, 2), (3, 4, 2, 3)])
def test_queries_of_another_shape(name, shape):
    regime, batch = build(name, Gaussian(1)), draw(Gaussian(1), n=4)
    state, query_x = regime.init(3, batch.x), torch.zeros(shape)
    with pytest.raises(ValueError, match=r"^(`query_x`|`module`|An implicit state) "):
        regime.predict(state, query_x)
    if regime.needs_query:
        with pytest.raises(ValueError, match=r"^`query_x` must "):
            regime.init(3, query_x)


@pytest.mark.parametrize("name", ["maml", "implicit-logits-annealed", "explicit-both"])
def test_queries_that_are_no_tensor(name):
    regime, batch = build(name, Gaussian(1)), draw(Gaussian(1), n=4)
    for one, state in ((regime, regime.init(3, batch.x)), (Embedded(regime, nn.Flatten()), None)):
        with error("`query_x` must be a tensor; got ndarray.", TypeError):
            one.predict(state, batch.x.numpy())


@pytest.mark.parametrize("name", ["maml", "implicit-logits-annealed", "parametric-data-annealed"])
def test_a_minibatch_of_other_tasks(name):
    regime, batch = build(name, Gaussian(1)), draw(Gaussian(1))
    state, fewer = regime.init(3, batch.x), draw(Gaussian(1), 2)
    with error("A minibatch must have the 3 tasks of the state; got 2."):
        regime.update(state, regime.encode(fewer), batch.x)


@pytest.mark.parametrize("name", ["maml", "implicit-logits-annealed", "parametric-both-annealed"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_examples_that_do_not_fit_together(name, likelihood):
    likelihood = LIKELIHOODS[likelihood]()
    regime, good = build(name, likelihood), draw(likelihood)
    for change in (
        {"x": good.x[:, :-1]},
        {"x": good.x.long()},
        {"mask": good.mask[:, :-1]},
        {"mask": good.mask[..., None]},
        {"y": good.y[:1]},
        {"y": good.y[..., None]},
        {"y": good.y.int()},
    ):
        with pytest.raises(ValueError, match=r"^`(x|y|mask)` must "):
            regime.encode(good._replace(**change))
        with pytest.raises(ValueError, match=r"^`(x|y|mask|outputs)` must "):
            regime.loss(torch.zeros(3, 6, likelihood.num_outputs), good._replace(**change))


def test_parts_without_their_role():
    gaussian, encoder = Gaussian(1), MeanEncoder()
    no_dim = SimpleNamespace(encode=encoder.encode, read=encoder.read)
    sequence = SimpleNamespace(dim=8, empty=None, extend=None, read=encoder.read)
    lacks = "`encoder` must be a SetEncoder, which has dim, encode, read; SimpleNamespace has no "
    predictor = Predictor(nn.Linear(X_DIM, 2))
    for part, missing in ((no_dim, "dim"), (sequence, "encode")):
        with error(f"{lacks}{missing}.", TypeError):
            Implicit(part, gaussian, x_dim=X_DIM)
        with error(f"{lacks}{missing}.", TypeError):
            LearnedRule(predictor, gaussian, part, x_dim=X_DIM)
    with pytest.raises(TypeError, match=r"^`encoder` must be a TableEncoder, .* has no encode\.$"):
        ImplicitColumns(sequence, Unlabelled(gaussian))
    with error(
        "`predictor` must be a Predictor, made by `Predictor(module)`; got Linear.", TypeError
    ):
        Parametric(nn.Linear(X_DIM, 2), gaussian, GradientDescent(0.1))
    with pytest.raises(TypeError, match=r"^`rule` must be a Rule, .*; float has no encode\.$"):
        Parametric(predictor, gaussian, 0.1)
    for make in (
        lambda: Parametric(predictor, nn.MSELoss(), GradientDescent(0.1)),
        lambda: Implicit(encoder, nn.MSELoss(), x_dim=X_DIM),
    ):
        with pytest.raises(TypeError, match=r"^`likelihood` must be a Likelihood, .* no check\.$"):
            make()
    with pytest.raises(TypeError, match=r"^`regime` must be a Regime, .*; Linear has no encode\.$"):
        Embedded(nn.Linear(1, 1), nn.Linear(1, 1))


def test_a_set_encoder_is_no_table_encoder():
    regime = ImplicitColumns(MeanEncoder(), Unlabelled(Gaussian(1)))
    table = Examples(torch.randn(2, 5, 4), None, torch.ones(2, 5, dtype=torch.bool))
    with pytest.raises(
        ValueError, match=r"^`encoder` fails on inputs of the shape \(2, 5, 4, 8\), .*\.$"
    ):
        regime.encode(table)


def test_an_encoder_that_reads_one_answer_for_all_queries():
    class One(MeanEncoder):
        def read(self, queries, memory):
            return super().read(queries, memory)[:, :1]

    regime, batch = Implicit(One(), Gaussian(1), x_dim=X_DIM), draw(Gaussian(1))
    with error("`encoder` must read (task, query, dim), here (3, 6, 8); it gave (3, 1, 8)."):
        regime.update(regime.init(3, batch.x), regime.encode(batch), batch.x)


def test_a_likelihood_fits_tasks_or_not():
    real, classes = (
        SimpleNamespace(target=SimpleNamespace(**kind)) for kind in ({"dim": 2}, {"num_classes": 3})
    )
    assert Gaussian(2).fits(real) and not Gaussian(1).fits(real) and not Gaussian(2).fits(classes)
    assert Categorical(3).fits(classes) and Categorical(5).fits(classes)
    assert not Categorical(2).fits(classes) and not Categorical(3).fits(real)
    assert Unlabelled(Gaussian(2)).fits(real) and not Unlabelled(Gaussian(2)).fits(classes)
