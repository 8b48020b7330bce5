"""Every regime and rule with weights and data of every dtype, alike or not."""

import copy

import attrs
import torch
from iai_iterate import Iterated
from torch.utils._pytree import tree_leaves

# Weights, inputs, real targets, and how far an answer may be from that in float64.
DTYPES = [
    (torch.float16, torch.float16, torch.float16, 0.2),
    (torch.bfloat16, torch.float32, torch.float32, 0.2),
    (torch.float32, torch.float64, torch.float64, 1e-3),
    (torch.float32, torch.float32, torch.float64, 1e-3),
    (torch.float64, torch.float32, torch.bfloat16, 1e-6),
]
NUM_SUPPORT = 300  # in bfloat16, a count stops at 256


def rounded(examples, x, y):
    """The same examples after rounding to two dtypes, the inputs coarsely enough for any."""
    targets = examples.y.to(y) if examples.y.is_floating_point() else examples.y
    return attrs.evolve(examples, x=examples.x.to(x), y=targets)


def test_states_are_exact_and_networks_cast(moving_regime, fitting_sampler):
    generator = torch.Generator().manual_seed(0)
    counts = {"num_support": NUM_SUPPORT, "num_query": 4}
    tasks = fitting_sampler.sample(2, **counts, generator=generator)
    coarse = [
        rounded(part, torch.bfloat16, torch.bfloat16) for part in (tasks.support, tasks.query)
    ]
    support, query = (rounded(part, torch.float64, torch.float64) for part in coarse)

    def answers(regime):
        return Iterated(regime.eval(), steps=2).adapt(support, query.x, steps=2).predict(query.x)

    expected = answers(copy.deepcopy(moving_regime).double())
    for weights, x, y, tolerance in DTYPES:
        regime = copy.deepcopy(moving_regime).to(weights)
        data, asked = rounded(support, x, y), rounded(query, x, y)
        regime.validate(data)
        state = regime.init(2, asked.x)
        kept = [leaf.dtype for leaf in tree_leaves(state)]
        for fresh in (True, False):
            state = regime.update(state, regime.encode(data), asked.x, fresh)
        assert state.seen.tolist() == [NUM_SUPPORT] * 2
        assert [leaf.dtype for leaf in tree_leaves(state)] == kept, "A state keeps its dtypes."
        wanted = torch.promote_types(weights, torch.float32)
        kinds = {dtype for dtype in kept if dtype.is_floating_point}
        assert kinds == {wanted}, "A state is in float32 at least."
        outputs = regime.predict(state, asked.x)
        error = (outputs.double() - expected).abs() / (1 + expected.abs())
        assert error.max() < tolerance, f"weights {weights}, x {x}, y {y}: off by {error.max()}"
        losses = regime.loss(outputs, asked)
        losses.mean().backward()
        for parameter in regime.parameters():
            finite = parameter.grad is None or parameter.grad.isfinite().all()
            assert finite, f"weights {weights}, x {x}, y {y}: a gradient is not finite"


def test_float64_data_are_read_under_autocast(moving_regime, fitting_sampler):
    """Autocast leaves float64 as it is, so a product with float32 weights would fail."""
    generator = torch.Generator().manual_seed(0)
    tasks = fitting_sampler.sample(2, num_support=6, num_query=4, generator=generator)
    learner = Iterated(moving_regime.eval(), steps=2, minibatch=3)
    expected = learner.answer(tasks)
    parts = {"support": tasks.support, "query": tasks.query}
    changed = {name: rounded(part, torch.float64, torch.float64) for name, part in parts.items()}
    double = attrs.evolve(tasks, **changed)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(learner.answer(double).float(), expected, rtol=0.1, atol=0.1)
        assert learner(double).losses.isfinite().all()
