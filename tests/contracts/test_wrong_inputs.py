"""Whatever is handed in is answered right, or refused in one sentence of ours."""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import iai_iterate
import iai_regimes
import iai_tasks
import iai_train
import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_iterate import Iterated
from iai_regimes import Categorical, Gaussian
from torch import Tensor
from wrong_inputs import HARMLESS, INPUTS, LENGTHS, NUM_CLASSES, Loose, Tasks, good, wrong

OURS = [Path(module.__file__).parent for module in (iai_iterate, iai_regimes, iai_tasks, iai_train)]
LIKELIHOODS: dict[str, Callable[[], Any]] = {
    "gaussian": lambda: Gaussian(1, scale=0.5),
    "gaussian-with-scale": lambda: Gaussian(1),
    "categorical": lambda: Categorical(NUM_CLASSES),
}
GOOD = {name: good(real=name != "categorical") for name in LIKELIHOODS}


@pytest.fixture(autouse=True, scope="module")
def own_errors():
    """Arguments reach the library's own checks, even where the run checks shapes before them."""
    disabled = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", disabled)


def refusal(call: Callable[[], Any]) -> str | None:
    """The sentence that a call is refused with; None if it is answered."""
    try:
        call()
    except (TypeError, ValueError) as error:
        trace = error.__traceback__
        while trace.tb_next is not None:
            trace = trace.tb_next
        raised_in = Path(trace.tb_frame.f_code.co_filename)
        assert any(raised_in.is_relative_to(folder) for folder in OURS), f"foreign: {error!r}"
        text = str(error)
        assert "\n" not in text and text.endswith(".") and text[0] in "`ABCDEFGHIJKLMNOPQRSTUVWXYZ"
        return text
    return None


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


@functools.cache
def learner_of(make: Callable[[Any], Any], likelihood: str) -> Iterated:
    torch.manual_seed(0)
    learner = Iterated(make(LIKELIHOODS[likelihood]()), steps=2, minibatch=4).eval()
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return learner


@given(data=st.data())
def test_examples(make_regime, data):
    likelihood = data.draw(st.sampled_from(sorted(LIKELIHOODS)))
    learner, tasks = learner_of(make_regime, likelihood), GOOD[likelihood]
    read = data.draw(st.sampled_from(READ))
    changes = wrong(real=likelihood != "categorical")
    field, name = data.draw(st.sampled_from(sorted(changes)))
    changed = replace(tasks.support, **{field: changes[field, name](getattr(tasks.support, field))})
    sentence = refusal(lambda: read(learner, changed, tasks))
    assert sentence is not None or (field, name) == ("x", "an axis more")
    if sentence is None:  # a regime that flattens its inputs
        expected = read(learner, tasks.support, tasks)
        torch.testing.assert_close(read(learner, changed, tasks), expected)


@given(data=st.data())
def test_what_does_not_matter(make_regime, data):
    likelihood = data.draw(st.sampled_from(sorted(LIKELIHOODS)))
    learner, tasks = learner_of(make_regime, likelihood), GOOD[likelihood]
    read, change = data.draw(st.sampled_from(READ)), data.draw(st.sampled_from(sorted(HARMLESS)))
    expected = read(learner, tasks.support, tasks)
    answer = read(learner, HARMLESS[change](tasks.support), tasks)
    torch.testing.assert_close(answer, expected, rtol=1e-3, atol=1e-4)


@given(data=st.data())
def test_queries(make_regime, data):
    likelihood = data.draw(st.sampled_from(sorted(LIKELIHOODS)))
    learner, tasks = learner_of(make_regime, likelihood), GOOD[likelihood]
    changes = wrong(real=likelihood != "categorical")
    field, name = data.draw(st.sampled_from(sorted(changes)))
    query = replace(tasks.query, **{field: changes[field, name](getattr(tasks.query, field))})
    bound = data.draw(st.booleans())
    adapted = learner.adapt(tasks.support, tasks.query.x if bound else None)
    calls = {"train": lambda: learner(Tasks(tasks.support, query))}
    if field == "x":
        calls["predict"] = lambda: adapted.predict(query.x)
        calls["adapt"] = lambda: learner.adapt(tasks.support, query.x).predict(query.x)
        calls["trace"] = lambda: [*learner.trace(tasks.support, query.x, steps=1)][1].predict(query.x)
    entrance = data.draw(st.sampled_from(sorted(calls)))
    sentence = refusal(calls[entrance])
    may_be_any = entrance != "train" and name in (*LENGTHS, "an axis more", "NaN", "infinite")
    assert sentence is not None or may_be_any or name in ("NaN", "infinite", "an axis more")
