import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_regimes import Categorical, Gaussian, Unlabelled
from memory_parts import MEMORY_REGIMES, MemoryStub, RunningStub, memory, running
from regime_parts import DIM, LIKELIHOODS, X_DIM, Examples, draw, draw_ragged, read
from torch import nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

names = st.sampled_from(sorted(MEMORY_REGIMES))


def made(name, likelihood, *, seed=0, dtype=torch.float64, **options):
    """A regime with random weights, its head included, which starts at zero."""
    torch.manual_seed(seed)
    regime = MEMORY_REGIMES[name](likelihood, **options).to(dtype)
    for parameter in regime.parameters():
        nn.init.normal_(parameter, std=0.3)
    return regime


def same(state, other):
    (one, structure), (two, expected) = tree_flatten(state), tree_flatten(other)
    return structure == expected and all(map(torch.equal, one, two))


@pytest.fixture(params=MEMORY_REGIMES)
def name(request):
    return request.param


@given(name=names, likelihood=st.sampled_from(sorted(LIKELIHOODS)), cut=st.integers(0, 6))
def test_a_set_in_two_minibatches_is_the_set(name, likelihood, cut):
    regime = made(name, LIKELIHOODS[likelihood]())
    batch = draw(regime.likelihood, dtype=torch.float64)
    parts = [
        Examples(*(values[:, part] for values in batch)) for part in (slice(cut), slice(cut, None))
    ]
    whole, cut_in_two = (read(regime, batch.x, *sets) for sets in ([batch], parts))
    torch.testing.assert_close(cut_in_two, whole, rtol=1e-10, atol=1e-12)


@given(name=names, seed=st.integers(0, 99))
def test_without_an_example_nothing_moves(name, seed):
    regime, batch = made(name, Gaussian(1), seed=seed), draw_ragged(seed)
    state = read(regime, batch.x, batch)
    nothing = batch._replace(x=batch.x * torch.nan, mask=torch.zeros_like(batch.mask))
    empty = Examples(*(values[:, :0] for values in batch))
    for idle in (nothing, empty):
        for fresh in (True, False):
            after = regime.update(state, regime.encode(idle), batch.x, fresh)
            assert same(after, state)
    ragged = batch._replace(mask=batch.mask & torch.tensor([[True], [False], [True]]))
    after = regime.update(state, regime.encode(ragged), batch.x)
    rows, before = (tree_map(lambda leaf: leaf[1], part) for part in (after, state))
    assert same(rows, before) and after.seen.tolist() == [12, 4, 12]


def test_what_was_read_before_changes_nothing(name):
    regime, batch = made(name, Gaussian(1)), draw_ragged()
    state = read(regime, batch.x, batch)
    assert same(regime.update(state, regime.encode(batch), batch.x, False), state)


def test_a_new_regime_answers_zero_and_learns_from_its_head_on(name):
    regime, batch = MEMORY_REGIMES[name](Gaussian(1)).double(), draw_ragged()
    outputs = regime.predict(read(regime, batch.x, batch), batch.x)
    assert not outputs.any()
    regime.loss(outputs, batch).sum().backward()
    assert regime.head.weight.grad.any()


def test_a_query_that_is_not_finite_has_no_answer_and_no_gradient(name):
    regime, batch = made(name, Gaussian(1)), draw_ragged()
    query_x = batch.x.clone()
    query_x[0, 1, 0] = torch.nan
    outputs = regime.predict(read(regime, query_x, batch), query_x)
    expected = regime.predict(read(regime, batch.x, batch), batch.x)
    assert outputs[0, 1].isnan().all() and outputs.isnan().sum() == outputs.shape[-1]
    torch.testing.assert_close(outputs[1:], expected[1:])
    outputs[outputs.isfinite()].sum().backward()
    assert all(
        weight.grad.isfinite().all() for weight in regime.parameters() if weight.grad is not None
    )


def test_a_memory_answers_queries_that_come_later_and_a_running_state_its_own():
    batch = draw_ragged()
    state = read(made("memory", Gaussian(1)), batch.x[:, :0], batch)
    assert made("memory", Gaussian(1)).predict(state, batch.x).isfinite().all()
    regime = made("running", Gaussian(1))
    with pytest.raises(ValueError, match=r"^A running state is about given queries; give `query_"):
        regime.init(3)
    state = read(regime, batch.x, batch)
    for query_x in (None, batch.x[:, :2], batch.x[:2]):
        with pytest.raises(ValueError, match=r"the queries that it was started with.*\(3, 6"):
            regime.update(state, regime.encode(batch), query_x)
    with pytest.raises(ValueError, match="`query_x` must have 3 numbers an input"):
        regime.update(state, regime.encode(batch), batch.x[..., :2])


def test_kept_evidence_gives_what_reading_with_the_queries_gives():
    regime, batch = made("running", Gaussian(1)), draw_ragged()
    evidence = [regime.encode(part) for part in (batch, draw_ragged(1))]
    expected = read(regime, batch.x, batch, draw_ragged(1))
    state = regime.init(3, batch.x)
    for part in evidence:
        state = regime.update(state, part, batch.x)
    assert same(state, expected)


def test_a_minibatch_of_other_tasks_is_refused(name):
    regime, batch = made(name, Gaussian(1)), draw_ragged()
    fewer = Examples(*(values[:2] for values in batch))
    with pytest.raises(ValueError, match="must have the 3 tasks of the state; got 2"):
        regime.update(regime.init(3, batch.x), regime.encode(fewer), batch.x)


def test_queries_of_another_size_and_samples_without_targets(name):
    likelihood = Unlabelled(Gaussian(2, scale=1.0))
    regime = made(name, likelihood, query_dim=2)
    batch = draw_ragged()._replace(y=None)
    query = Examples(batch.x[..., :2], batch.x[..., 1:], batch.mask)
    tokens, questions, _ = regime.embed.examples(batch)
    assert questions is None and tokens.shape == (3, 6, DIM)
    outputs = regime.predict(read(regime, query.x, batch), query.x)
    regime.loss(outputs, query).sum().backward()
    assert outputs.shape == (3, 6, 2)
    assert all(weight.grad.isfinite().all() for weight in regime.parameters())
    with pytest.raises(ValueError, match="`query_x` must have 2 numbers an input"):
        regime.predict(regime.init(3, query.x), batch.x)


def test_targets_that_are_needed_are_asked_for(name):
    with pytest.raises(ValueError, match="Targets are needed here"):
        made(name, Gaussian(1)).encode(draw_ragged()._replace(y=None))


@pytest.mark.parametrize("weights", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_state_is_in_float32_at_least(name, weights):
    batch = draw(Categorical(3), n=300)
    regime = made(name, Categorical(3), dtype=weights)
    state = read(regime, batch.x[:, :4], batch)
    wanted = torch.promote_types(weights, torch.float32)
    assert {leaf.dtype for leaf in tree_leaves(state)} == {wanted}
    assert state.seen.tolist() == [300] * 3
    assert regime.predict(state, batch.x[:, :4]).dtype == wanted


def test_autocast_leaves_the_state_in_float32(name):
    batch, regime = draw(Gaussian(1)), made(name, Gaussian(1), dtype=torch.float32)
    expected = regime.predict(read(regime, batch.x, batch), batch.x)
    with torch.autocast("cpu", torch.bfloat16):
        state = read(regime, batch.x, batch)
        outputs = regime.predict(state, batch.x)
    assert {leaf.dtype for leaf in tree_leaves(state)} == {torch.float32}
    torch.testing.assert_close(outputs, expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("make", "stub", "role", "missing"),
    [
        (memory, MemoryStub, "MemoryEncoder", "empty"),
        (memory, MemoryStub, "MemoryEncoder", "extend"),
        (running, RunningStub, "RunningEncoder", "start"),
        (running, RunningStub, "RunningEncoder", "dim"),
    ],
)
def test_an_encoder_that_lacks_a_member(make, stub, role, missing, own_errors):
    members = {"dim": DIM} | {
        name: getattr(stub, name) for name in ("empty", "extend", "start", "encode", "read")
    }
    del members[missing]
    with pytest.raises(TypeError, match=f"^`encoder` must be a {role}, .* Other has no {missing}"):
        make(Gaussian(1), type("Other", (), members)())


class Short:
    """Reads a number less than a token has."""

    def read(self, *parts):
        answer = super().read(*parts)
        return (answer[0][..., 1:], answer[1]) if isinstance(answer, tuple) else answer[..., 1:]


def test_an_encoder_that_reads_other_shapes(name, own_errors):
    stub = type("Other", (Short, {"memory": MemoryStub, "running": RunningStub}[name]), {})
    regime, batch = made(name, Gaussian(1), encoder=stub()), draw_ragged()
    sentence = r"^`encoder` must read \(task, query, dim\), here \(3, 6, 8\); it gave \(3, 6, 7\)\."
    with pytest.raises(ValueError, match=sentence):
        regime.predict(regime.init(3, batch.x), batch.x)


class Growing(MemoryStub):
    """Keeps all tokens."""

    def empty(self, num_tasks):
        return (self.token.weight.new_zeros(num_tasks, 0, self.dim),)

    def extend(self, memory, tokens, **_):
        return (torch.cat([memory[0], tokens], 1),)


class Rounding(MemoryStub):
    """Forgets the dtype of its memory."""

    def extend(self, memory, tokens, **rest):
        return tree_map(torch.Tensor.half, super().extend(memory, tokens, **rest))


@pytest.mark.parametrize(
    ("encoder", "change"),
    [
        (Growing, r"\(3, 0, 8, torch.float32\) became \(3, 6, 8, torch.float32\)"),
        (Rounding, r"\(3, 8, torch.float32\) became \(3, 8, torch.float16\)"),
    ],
)
def test_a_memory_that_changes_its_form_is_refused(encoder, change):
    regime, batch = memory(Gaussian(1), encoder()), draw(Gaussian(1))
    sentence = "^`encoder` must have a memory that neither grows nor changes its dtype, for it is "
    with pytest.raises(ValueError, match=f"{sentence}the state; {change}"):
        read(regime, batch.x, batch)


def test_sizes_below_one(name):
    with pytest.raises(ValueError, match="`query_dim` must be at least 1; got 0"):
        MEMORY_REGIMES[name](Gaussian(1), query_dim=0)
    with pytest.raises(ValueError, match="`num_tasks` must be at least 0; got -1"):
        MEMORY_REGIMES[name](Gaussian(1)).init(-1, torch.zeros(1, 1, X_DIM))
