"""What a newcomer hands in is answered, or refused in a sentence that says what to hand in."""

from dataclasses import replace

import numpy
import pytest
import torch
from iai_iterate import Iterated
from slopes import Kernel, Slope, draw
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

pytestmark = pytest.mark.usefixtures("own_errors")

X, Y = torch.ones(6, 1), torch.ones(6, 1)
MADE = r"^A minibatch must be a set of examples .*, such as `iai_tasks\.Examples\.of\(x, y\)` makes"


def learner(regime=Slope):
    return Iterated(regime().double(), steps=1, minibatch=4)


@pytest.mark.parametrize(
    ("support", "kind"),
    [
        (DataLoader(TensorDataset(X, Y), 2), "list"),
        ((X, Y), "Tensor"),
        ([(X, Y)], "tuple"),
        (X, "Tensor"),
        (X.numpy(), "ndarray"),
        ({"x": X, "y": Y}, "dict"),
        (None, "NoneType"),
        (3, "int"),
    ],
)
def test_what_is_no_set_of_examples(support, kind):
    with pytest.raises(TypeError, match=rf"{MADE} of arrays; got {kind}\.$"):
        learner().adapt(support)
    with pytest.raises(TypeError, match=MADE):
        learner().trace(support, X[None], steps=1)
    with pytest.raises(TypeError, match=MADE):
        learner().adapt(draw().support).update(support)


def test_what_is_no_minibatch_such_as_those_that_were_read(tmp_path):
    model = learner(Kernel)
    model.adapt(draw().support).save(tmp_path / "state")
    with pytest.raises(ValueError, match=r"by this learner: A minibatch must be .*; got int\.$"):
        model.resume(tmp_path / "state", like=3)


@pytest.mark.parametrize("field", ["x", "y", "mask"])
def test_a_set_whose_parts_do_not_fit_is_refused_before_it_is_cut(field):
    support = draw().support
    values = getattr(support, field)
    got = [
        (values.numpy(), TypeError, "must be a tensor, which .* makes of an array; got ndarray"),
        (values[:, :-1], ValueError, r"must be of the \(3, \d+\) examples \(task, n\) of `mask`"),
        (values[:2], ValueError, r"must be of the \(\d, 12\) examples \(task, n\) of `mask`"),
    ]
    for wrong, error, message in got:
        changed = replace(support, **{field: wrong})
        for read in (learner().adapt, learner().adapt(support).update):
            with pytest.raises(error, match=rf"^`(x|y|mask)` {message}"):
                read(changed)
    with pytest.raises(TypeError, match=r"^`mask` must be a tensor, which .*; got bool\.$"):
        learner().adapt(numpy.ma.ones((3, 12)))
    for mask in (support.mask.float(), support.mask[..., None]):
        with pytest.raises(ValueError, match=r"^`mask` must be bool of the shape \(task, n\)"):
            learner().adapt(replace(support, mask=mask))


@pytest.mark.parametrize("regime", [Slope, Kernel])
@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        (numpy.asarray, TypeError, "a tensor, such as .* makes of an array; got ndarray"),
        (lambda x: x.tolist(), TypeError, "a tensor, such as .* makes of an array; got list"),
        (lambda x: x.long(), ValueError, "floating point; got torch.int64"),
    ],
)
def test_queries_must_be_tensors_of_real_numbers(regime, kind, error, message):
    tasks = draw()
    query_x, message = kind(tasks.query.x), rf"^`query_x` must be {message}\.$"
    with pytest.raises(error, match=message):
        learner(regime).adapt(tasks.support).predict(query_x)
    with pytest.raises(error, match=message):
        learner(regime).adapt(tasks.support, query_x)
    with pytest.raises(error, match=message):
        learner(regime)(replace(tasks, query=replace(tasks.query, x=query_x)))


def test_what_is_no_regime_and_what_is_no_tasks():
    with pytest.raises(TypeError, match=r"^`regime` must be a Regime, .* Implicit; got Linear\.$"):
        Iterated(nn.Linear(1, 1), steps=1)
    for wrong in (None, (X, Y), draw().support):
        with pytest.raises(TypeError, match=r"^`tasks` must have a `support` and a `query`, as "):
            learner()(wrong)
        with pytest.raises(TypeError, match=r"^`tasks` must have a `support` and a `query`, as "):
            learner().answer(wrong)


class Strict(Slope):
    """Counts how often it was asked, and accepts no slope above 1,000."""

    asked = 0

    def validate(self, batch):
        self.asked += 1
        if batch.y.device.type == "cpu" and bool((batch.y.abs() > 1e3).any()):
            raise ValueError("`y` must be at most 1,000.")


def test_training_refuses_what_the_regime_refuses():
    tasks, model = draw(), learner(Strict)
    model(tasks)
    model(tasks)
    assert model.regime.asked == 2, "on the CPU each batch is looked at, once"
    spoilt = replace(tasks, support=replace(tasks.support, y=1e6 * tasks.support.y))
    with pytest.raises(ValueError, match=r"^`y` must be at most 1,000\.$"):
        model(spoilt)


def test_training_waits_for_a_device_on_the_first_batch_alone():
    tasks, model = draw(), learner(Strict)

    def moved(part):
        return replace(part, x=part.x.to("meta"), y=part.y.to("meta"), mask=part.mask.to("meta"))

    elsewhere = replace(tasks, support=moved(tasks.support), query=moved(tasks.query))
    model.to("meta")
    for _ in range(3):
        model(elsewhere)
    assert model.regime.asked == 1


def test_queries_with_padding_are_the_same_queries():
    tasks = draw()
    query_x = tasks.query.x.clone()
    query_x[0, 0] = torch.nan
    adapted = learner(Kernel).adapt(tasks.support, query_x)
    assert adapted.predict(query_x.clone()).shape == (3, 4, 1)
    with pytest.raises(ValueError, match="answers no others"):
        adapted.predict(tasks.query.x)


def test_a_state_of_another_learner():
    tasks = draw()
    other = learner(Kernel)(tasks).state
    for state in (other, 3, (), {"seen": torch.ones(3)}):
        with pytest.raises(ValueError, match="`state` must be one that this learner has"):
            learner()(tasks, state)
