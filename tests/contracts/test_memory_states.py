"""States that are memories: flat over a stream, resumed bit for bit, alike for any cut."""

import gc
from collections.abc import Iterator

import pytest
import torch
from iai_encoders import (
    CausalTransformer,
    MemoryTransformer,
    RunningTransformer,
    SetTransformer,
)
from iai_iterate import Adapted, Iterated, minibatches, truncated, unrolled
from iai_regimes import Categorical, ExplicitMemory, Gaussian, Implicit, RunningAttention
from iai_tasks import Examples, TaskBatch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

X_DIM, DIM, NUM_QUERIES = 3, 8, 4


def memory(num_layers=2) -> ExplicitMemory:
    encoder = MemoryTransformer(DIM, num_layers, num_heads=2, key_dim=4)
    return ExplicitMemory(encoder, Gaussian(1, scale=0.5), x_dim=X_DIM)


def running(num_layers=2, **options) -> RunningAttention:
    encoder = RunningTransformer(SetTransformer(DIM, num_layers, num_heads=2), **options)
    return RunningAttention(encoder, Gaussian(1, scale=0.5), x_dim=X_DIM)


REGIMES = {
    "memory": memory,
    "running": running,
    "running, with latents": lambda: running(num_latents=2),
    "running, on a memory": lambda: running(memory=MemoryTransformer(DIM, 1, num_heads=2)),
}
QUERY_X = torch.randn(1, NUM_QUERIES, X_DIM, generator=torch.Generator().manual_seed(1))


def made(make, dtype=torch.float32, **options):
    """A regime with random weights; a new one answers zero."""
    torch.manual_seed(0)
    regime = make(**options).to(dtype).eval()
    with torch.no_grad():
        for parameter in regime.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return regime


def examples(n: int, dtype=torch.float32) -> Examples:
    x = torch.randn(1, n, X_DIM, generator=torch.Generator().manual_seed(0)).to(dtype)
    return Examples(x=x, y=x.sum(2, keepdim=True).sin())


def pieces(support: Examples, size: int) -> Iterator[Examples]:
    return (support[:, i : i + size] for i in range(0, support.mask.shape[1], size))


def kept(adapted: Adapted) -> list[Tensor]:
    leaves = tree_leaves((adapted.state, adapted.evidence, adapted.seen))
    return [torch.as_tensor(leaf) for leaf in leaves if leaf is not None]


@pytest.mark.parametrize(("minibatch", "loss"), [(1, "every"), (1, "last"), ((2, 2, 3), "every")])
@pytest.mark.parametrize("name", REGIMES)
def test_unrolled_steps_as_one_batch_are_the_steps_one_by_one(name, minibatch, loss, monkeypatch):
    """Losses, gradients and the last state, of ragged sets, in more than one stretch of steps."""
    monkeypatch.setattr("iai_iterate.minibatch.MOST_STEPS", 3)
    regime, n = made(REGIMES[name], torch.float64), 8
    traced, trace = [], type(regime).trace
    monkeypatch.setattr(type(regime), "trace", lambda *given: traced.append(0) or trace(*given))
    sets = examples(2 * n, torch.float64)
    support = Examples(
        x=sets.x.view(2, n, X_DIM),
        y=sets.y.view(2, n, 1),
        mask=torch.rand(2, n, generator=torch.Generator().manual_seed(2)) < 0.7,
    )
    asked = examples(2 * NUM_QUERIES, torch.float64)
    query = Examples(x=asked.x.view(2, -1, X_DIM), y=asked.y.view(2, -1, 1))
    tasks, results = TaskBatch(support=support, query=query, latent=None), []
    for gradient in (unrolled, truncated(n)):
        how = {"minibatch": minibatch, "gradient": gradient, "loss": loss}
        refined = Iterated(regime, steps=None, **how)(tasks)
        if gradient is unrolled:
            assert len(traced) == 3  # of 3, 3 and 2 steps, or of sizes 2, 3 and 1
        total = (refined.losses * torch.arange(1.0, len(refined.losses) + 1)[:, None]).sum()
        gradients = torch.autograd.grad(total, list(regime.parameters()), materialize_grads=True)
        results.append([refined.losses, refined.seen, *tree_leaves(refined.state), *gradients])
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("given_up_front", [True, False], ids=["queries given", "any query"])
@pytest.mark.parametrize("name", REGIMES)
def test_a_set_in_memory_is_read_as_its_minibatches_are(name, given_up_front, monkeypatch):
    """Of ragged sets, shuffled, in two passes; stretches end before 3 steps or 6 examples."""
    monkeypatch.setattr("iai_iterate.minibatch.MOST_STEPS", 3)
    monkeypatch.setattr("iai_iterate.minibatch.MOST_EXAMPLES", 6)
    learner = Iterated(made(REGIMES[name], torch.float64), steps=1, minibatch=(1, 1, 1, 1, 2))
    sets, shown = examples(20, torch.float64), torch.arange(10) < torch.tensor([[10], [7]])
    support = Examples(x=sets.x.view(2, 10, X_DIM), y=sets.y.view(2, 10, 1), mask=shown)
    query_x = QUERY_X.double().expand(2, -1, -1)
    asked = query_x if given_up_front else None
    at_once = learner.adapt(support, asked, steps=11, generator=torch.Generator().manual_seed(1))
    shuffled = torch.Generator().manual_seed(1)
    cut = minibatches(support, learner.minibatch, 11, generator=shuffled)
    one_by_one = Adapted.new(learner.regime, 2, asked)
    for batch, fresh in cut:
        one_by_one = one_by_one.update(batch, fresh=fresh)
    assert at_once.step == one_by_one.step == 11
    torch.testing.assert_close(kept(at_once), kept(one_by_one), rtol=1e-9, atol=1e-9)
    answers = at_once.predict(query_x), one_by_one.predict(query_x)
    torch.testing.assert_close(*answers, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("given_up_front", [True, False], ids=["queries given", "any query"])
@pytest.mark.parametrize("name", REGIMES)
def test_adapting_at_once_is_pausing_saving_and_going_on(name, given_up_front, tmp_path):
    learner = Iterated(made(REGIMES[name]), steps=1, minibatch=16)
    parts = list(pieces(examples(90), 16))  # the last of 10
    query_x = QUERY_X if given_up_front else None
    at_once = learner.adapt(iter(parts), query_x)
    paused = learner.adapt(iter(parts[:2]), query_x)
    for index, part in enumerate(parts[2:]):
        paused.save(tmp_path / str(index))
        paused = learner.resume(tmp_path / str(index), like=parts[0]).update(part)
    assert (at_once.state is None) is (name != "memory" and not given_up_front)
    assert all(map(torch.equal, kept(paused), kept(at_once)))
    assert len(kept(paused)) == len(kept(at_once)) and paused.step == at_once.step
    assert torch.equal(paused.predict(QUERY_X), at_once.predict(QUERY_X))


@pytest.mark.parametrize("name", ["memory", "running, with latents"])
def test_a_stream_is_read_in_flat_memory(name):
    def tensors() -> tuple[int, int]:
        gc.collect()
        alive = [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]
        return len(alive), sum(thing.numel() for thing in alive)

    support = examples(100_000)
    adapted = Adapted.new(made(REGIMES[name]), 1, QUERY_X)
    held = []
    for index, part in enumerate(pieces(support, 2_000)):
        adapted = adapted.update(part)
        if index in (4, 49):
            del part
            held.append((tensors(), [leaf.shape for leaf in tree_leaves(adapted.state)]))
    assert held[0] == held[1]
    assert adapted.seen.tolist() == [100_000] and adapted.predict(QUERY_X).isfinite().all()


@pytest.mark.parametrize("make", [memory, running])
def test_one_layer_has_read_the_same_whatever_the_cut(make):
    """The first layer sees each example by itself: cuts differ by rounding alone."""
    support, query_x = examples(100_000, torch.float64), QUERY_X.double()
    regime = made(make, torch.float64, num_layers=1)
    if make is running:  # what a query asks for may depend on how much was read before it
        nn.init.zeros_(regime.encoder.embed_count.weight)
    learner = Iterated(regime, steps=1)
    few, many = (learner.adapt(pieces(support, size), query_x) for size in (5_000, 1_700))
    torch.testing.assert_close(
        tree_leaves(few.state), tree_leaves(many.state), rtol=1e-9, atol=1e-9
    )
    assert few.predict(query_x).std() > 1e-3


def test_a_state_of_another_learner_is_refused(tmp_path):
    support = examples(32)
    learners = {name: Iterated(made(make), steps=1) for name, make in REGIMES.items()}
    learners["memory of one layer"] = Iterated(made(memory, num_layers=1), steps=1)
    implicit = Implicit(SetTransformer(DIM, 1, num_heads=2), Gaussian(1, scale=0.5), x_dim=X_DIM)
    learners["implicit"] = Iterated(implicit, steps=1)
    for name, learner in learners.items():
        learner.adapt(support, QUERY_X).save(tmp_path / "state")
        for other in learners:
            if other != name:
                with pytest.raises(ValueError, match=r"cannot be resumed by this learner: \w.*\.$"):
                    learners[other].resume(tmp_path / "state", like=support)


def test_a_state_of_other_queries_answers_no_others():
    adapted = Iterated(made(running), steps=1).adapt(examples(32), QUERY_X)
    with pytest.raises(ValueError, match="answers no others"):
        adapted.predict(QUERY_X + 1)


def test_a_memory_that_grows_is_refused():
    encoder = CausalTransformer(DIM, num_layers=1, num_heads=2)
    learner = Iterated(ExplicitMemory(encoder, Gaussian(1, scale=0.5), x_dim=X_DIM), steps=1)
    with pytest.raises(ValueError, match="`encoder` must have a memory that neither grows"):
        learner.adapt(examples(16))


def test_before_training_a_ridge_memory_is_ridge_regression_on_its_features():
    torch.manual_seed(0)
    encoder = MemoryTransformer(DIM, num_layers=2, num_heads=2, key_dim=4, features=5)
    regime = ExplicitMemory(encoder, Categorical(3), x_dim=X_DIM).double()
    nn.init.zeros_(encoder.norm.weight)  # what the layers add
    x, query_x = examples(50, torch.float64).x, QUERY_X.double()
    classes = torch.randint(3, (1, 50))
    adapted = Iterated(regime, steps=1, minibatch=16).adapt(Examples(x=x, y=classes))

    def features(inputs: Tensor) -> Tensor:
        question = encoder.products(regime.embed.questions(inputs))
        return torch.cat(
            [encoder.regression.key(question), encoder.regression.feature(question).relu()], 2
        )

    rows, targets = features(x), nn.functional.one_hot(classes, 3).double()
    penalty = torch.eye(9, dtype=torch.float64)
    weights = torch.linalg.solve(rows.mT @ rows + penalty, rows.mT @ targets)
    expected = features(query_x) @ weights
    # The pseudo-inverse that makes the head was taken in single precision.
    torch.testing.assert_close(adapted.predict(query_x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", REGIMES)
def test_memories_train_under_autocast(name):
    """Sums stay in float32, and the state keeps its dtypes."""
    learner = Iterated(made(REGIMES[name]), steps=None, minibatch=4, gradient=unrolled)
    tasks = TaskBatch(support=examples(10), query=examples(NUM_QUERIES), latent=None)
    with torch.autocast("cpu", torch.bfloat16):
        refined = learner(tasks)
    refined.losses.sum().backward()
    assert all(leaf.dtype == torch.float32 for leaf in tree_leaves(refined.state))
    adapted = learner.adapt(examples(10), QUERY_X)
    torch.testing.assert_close(refined.losses.isfinite().all(), torch.tensor(True))
    assert kept(adapted)[0].dtype == torch.float32


@pytest.mark.parametrize("name", REGIMES)
def test_no_tasks(name):
    learner = Iterated(made(REGIMES[name]), steps=None, minibatch=4, gradient=unrolled)
    tasks = TaskBatch(support=examples(10)[:0], query=examples(NUM_QUERIES)[:0], latent=None)
    assert learner(tasks).losses.shape == (4, 0)
    assert learner.adapt(tasks.support, QUERY_X[:0]).predict(QUERY_X[:0]).shape == (0, 4, 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_memories_are_made_in_half_precision(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        regimes = [make() for make in REGIMES.values()]
    finally:
        torch.set_default_dtype(before)
    assert all(regime.head.weight.dtype == dtype for regime in regimes)


def test_a_state_of_many_numbers_is_read_by_fewer_minibatches_at_a_time(monkeypatch):
    regime, steps = made(memory), []
    trace = type(regime).trace

    def counted(self, state, evidence, query_x):
        steps.append(len(evidence.mask))
        return trace(self, state, evidence, query_x)

    monkeypatch.setattr(type(regime), "trace", counted)
    numbers = sum(leaf.numel() for leaf in tree_leaves(regime.init(1)))
    monkeypatch.setattr("iai_iterate.traced.MOST_NUMBERS", 3 * numbers)
    Iterated(regime, steps=1, minibatch=2).adapt(examples(12))
    assert steps == [3, 3]
