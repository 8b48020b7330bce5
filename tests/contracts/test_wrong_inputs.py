"""Whatever is handed in is answered right, or refused in one sentence of ours.

Each regime is given a few wrong inputs of each kind. With the profile `property` they are more than
5,000 in all.
"""

import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import iai_iterate
import iai_regimes
import iai_tasks
import iai_train
import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from iai_iterate import Iterated
from iai_regimes import (
    Gaussian,
    GradientDescent,
    Implicit,
    ImplicitColumns,
    Parametric,
    Predictor,
    Unlabelled,
)
from iai_train import accuracy, mean_squared_error, nearest_mean
from torch import Tensor
from wrong_inputs import (
    HARMLESS,
    LENGTHS,
    LIKELIHOODS,
    SHAPES,
    VALUES,
    Loose,
    Tasks,
    good,
    with_first,
    wrong,
)

PACKAGES = (iai_iterate, iai_regimes, iai_tasks, iai_train)
OURS = [Path(module.__file__).parent for module in PACKAGES] + [Path(__file__).parent]
GOOD = {name: good(name) for name in LIKELIHOODS}
likelihoods = st.sampled_from(sorted(LIKELIHOODS))
a_few = settings(max_examples=settings.default.max_examples // 4)  # for each of many regimes


@pytest.fixture(autouse=True, scope="module")
def own_errors():
    """Arguments reach the library's own checks, even where the run checks shapes before them."""
    disabled = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", disabled)


def refusal(call: Callable[[], Any]) -> str | None:
    """The sentence that a call is refused with; None if it is answered."""
    refused = None
    try:
        call()
    except (TypeError, ValueError) as error:
        refused = error
    if refused is None:
        return None
    raised_in = Path(traceback.extract_tb(refused.__traceback__)[-1].filename)
    assert any(raised_in.is_relative_to(folder) for folder in OURS), f"foreign: {refused!r}"
    text = str(refused)
    starts = text[0] == "`" or text[0].isupper()
    assert starts and text.endswith(".") and "\n" not in text, f"not a sentence: {text}"
    return text


def adapt(learner: Iterated, support: Any, tasks: Tasks) -> Tensor:
    return learner.adapt(support).predict(tasks.query.x)


def adapt_to_queries(learner: Iterated, support: Any, tasks: Tasks) -> Tensor:
    return learner.adapt(support, tasks.query.x).predict(tasks.query.x)


def stream(learner: Iterated, support: Any, tasks: Tasks) -> Tensor:
    return learner.adapt(iter([support])).predict(tasks.query.x)


def read_on(learner: Iterated, support: Any, tasks: Tasks) -> Tensor:
    return learner.adapt(tasks.support).update(support).predict(tasks.query.x)


def train(learner: Iterated, support: Any, tasks: Tasks) -> Tensor:
    return learner(Tasks(support, tasks.query)).losses


READ = [adapt, adapt_to_queries, stream, read_on, train]


def answer_given(adapted: Any, learner: Iterated, tasks: Tasks, query_x: Any) -> Tensor:
    return adapted.predict(query_x)


def answer_adapted(adapted: Any, learner: Iterated, tasks: Tasks, query_x: Any) -> Tensor:
    return learner.adapt(tasks.support, query_x).predict(query_x)


def answer_traced(adapted: Any, learner: Iterated, tasks: Tasks, query_x: Any) -> Tensor:
    return [*learner.trace(tasks.support, query_x, steps=1)][1].predict(query_x)


ANSWER = [answer_given, answer_adapted, answer_traced]


@cache
def learner_of(make: Callable[[Any], Any], likelihood: str) -> Iterated:
    torch.manual_seed(0)
    learner = Iterated(make(LIKELIHOODS[likelihood]()), steps=2, minibatch=4).eval()
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return learner


def drawn(data: Any, likelihood: str, examples: Loose) -> tuple[str, str, Loose]:
    """A field, what is wrong with it, and examples in which it is."""
    changes = wrong(likelihood)
    field, name = data.draw(st.sampled_from(sorted(changes)))
    return field, name, replace(examples, **{field: changes[field, name](getattr(examples, field))})


@a_few
@given(data=st.data(), likelihood=likelihoods, read=st.sampled_from(READ))
def test_wrong_examples_are_refused(make_regime, data, likelihood, read):
    learner, tasks = learner_of(make_regime, likelihood), GOOD[likelihood]
    field, name, support = drawn(data, likelihood, tasks.support)
    sentence = refusal(lambda: read(learner, support, tasks))
    if sentence is None:
        assert (field, name) == ("x", "an axis more"), "only a regime may flatten its inputs"
        expected = read(learner, tasks.support, tasks)
        torch.testing.assert_close(read(learner, support, tasks), expected)


@a_few
@given(data=st.data(), likelihood=likelihoods, answer=st.sampled_from(ANSWER), asked=st.booleans())
def test_wrong_queries_are_refused(make_regime, data, likelihood, answer, asked):
    learner, tasks = learner_of(make_regime, likelihood), GOOD[likelihood]
    adapted = learner.adapt(tasks.support, tasks.query.x if asked else None)
    field, name, query = drawn(data, likelihood, tasks.query)
    if field != "x":
        sentence = refusal(lambda: train(learner, tasks.support, Tasks(tasks.support, query)))
        assert sentence is not None
        return
    sentence = refusal(lambda: answer(adapted, learner, tasks, query.x))
    if sentence is None:
        assert name in (*LENGTHS, *VALUES, "an axis more")
        answers, expected = (answer(adapted, learner, tasks, x) for x in (query.x, tasks.query.x))
        known = min(answers.shape[1], expected.shape[1])
        unknown = torch.zeros_like(answers, dtype=torch.bool)
        unknown[:1, :1] = name in VALUES
        assert torch.equal(answers.isnan(), unknown), "a query that is not finite has no answer"
        expected = expected[:, :known].masked_fill(unknown[:, :known], torch.nan)
        torch.testing.assert_close(answers[:, :known], expected, equal_nan=True)


@a_few
@given(likelihood=likelihoods, read=st.sampled_from(READ), name=st.sampled_from(sorted(HARMLESS)))
def test_what_does_not_matter(make_regime, likelihood, read, name):
    learner, tasks = learner_of(make_regime, likelihood), GOOD[likelihood]
    expected = read(learner, tasks.support, tasks)
    answer = read(learner, HARMLESS[name](tasks.support), tasks)
    torch.testing.assert_close(answer, expected, rtol=1e-3, atol=1e-4)


@a_few
@given(data=st.data(), likelihood=likelihoods)
def test_wrong_shapes_in_a_loop_of_your_own(make_regime, data, likelihood):
    """A regime alone checks shapes and kinds at each step; values are for `validate`."""
    regime, tasks = learner_of(make_regime, likelihood).regime, GOOD[likelihood]
    field, name, support = drawn(data, likelihood, tasks.support)

    def step(validate: bool) -> Any:
        if validate:
            regime.validate(support)
        state = regime.init(len(tasks.query.x), tasks.query.x)
        return regime.update(state, regime.encode(support), tasks.query.x, True)

    sentence = refusal(lambda: step(validate=False))
    if sentence is None and (field, name) != ("x", "an axis more"):
        assert name in VALUES or name.startswith("class ") or name == "negative" or field == "y"
        assert refusal(lambda: step(validate=True)) is not None


@given(data=st.data(), likelihood=likelihoods, field=st.sampled_from(["outputs", "y"]))
def test_outputs_and_targets_that_do_not_meet(data, likelihood, field):
    model, query = LIKELIHOODS[likelihood](), GOOD[likelihood].query
    change = SHAPES[data.draw(st.sampled_from(sorted(SHAPES)))]
    pair = {"outputs": torch.zeros(*query.mask.shape, model.num_outputs), "y": query.y}
    pair[field] = change(pair[field])
    meet = data.draw(st.sampled_from(["negative_log", "residual"]))
    if likelihood != "poisson":  # one of ours
        assert refusal(lambda: getattr(model, meet)(*pair.values())) is not None
    regime = Parametric(
        Predictor(torch.nn.Linear(3, model.num_outputs)),
        model,
        GradientDescent(0.1),
    )
    asked = replace(query, y=pair["y"])
    assert refusal(lambda: regime.loss(pair["outputs"], asked)) is not None


@given(data=st.data(), metric=st.sampled_from([mean_squared_error, accuracy]))
def test_metrics_of_what_does_not_meet(data, metric):
    query = GOOD["categorical" if metric is accuracy else "gaussian"].query
    fields = {"outputs": torch.zeros(*query.mask.shape, 4 if metric is accuracy else 1)}
    fields |= {"y": query.y, "mask": query.mask}
    field, name = (
        data.draw(st.sampled_from(sorted(fields))),
        data.draw(st.sampled_from(sorted(SHAPES))),
    )
    fields[field] = SHAPES[name](fields[field])
    asked = Loose(query.x, fields["y"], fields["mask"])
    sentence = refusal(lambda: metric(fields["outputs"], asked))
    wider = metric is accuracy and field == "outputs" and name in ("too wide", "too narrow")
    assert sentence is not None or wider


@given(data=st.data())
def test_baselines_of_what_does_not_meet(data):
    tasks = GOOD["categorical"]
    change = SHAPES[
        data.draw(st.sampled_from(["a task less", "a task more", "too wide", "one task's"]))
    ]
    query = replace(tasks.query, x=change(tasks.query.x))
    assert refusal(lambda: nearest_mean(Tasks(tasks.support, query))) is not None
    assert refusal(lambda: nearest_mean(GOOD["gaussian"])) is not None


@a_few
@given(likelihood=likelihoods, fewer=st.booleans())
def test_a_state_of_other_tasks(make_regime, likelihood, fewer):
    learner, tasks = learner_of(make_regime, likelihood), GOOD[likelihood]
    one = Tasks(tasks.support[:1], tasks.query[:1])
    held, given_ = (one, tasks) if fewer else (tasks, one)
    state = learner(held).state
    assert refusal(lambda: learner(given_, state)) is not None
    for wrong_state in (3, None if fewer else (), with_first(state.seen, 1.0)):
        if wrong_state is not None:
            assert refusal(lambda wrong_state=wrong_state: learner(tasks, wrong_state)) is not None


@pytest.mark.parametrize("wrong_tasks", [3, None, [], {}, torch.zeros(2, 3)])
def test_what_is_no_tasks(wrong_tasks):
    learner = Iterated(
        Parametric(
            Predictor(torch.nn.Linear(3, 1)),
            Gaussian(1, scale=1.0),
            GradientDescent(0.1),
        ),
        steps=1,
    )
    assert "as iai_tasks.TaskBatch has" in refusal(lambda: learner(wrong_tasks))


def test_an_encoder_of_another_role(sequence_encoder, table_encoder, set_encoder):
    implicit = partial(Implicit, likelihood=Gaussian(1), x_dim=3)
    named = "`encoder` must be a SetEncoder, which has dim, encode, read; "
    assert refusal(lambda: implicit(sequence_encoder)) == f"{named}CausalTransformer has no encode."
    assert refusal(lambda: implicit(table_encoder)) == f"{named}AxialTransformer has no read."
    del set_encoder.dim
    assert refusal(lambda: implicit(set_encoder)).endswith(" has no dim.")
    columns = refusal(lambda: ImplicitColumns(sequence_encoder, Unlabelled(Gaussian(1))))
    assert columns.startswith("`encoder` must be a TableEncoder, which has dim, encode; ")
