import gc
import weakref

import torch
from iai_iterate import Iterated
from slopes import Examples, Kernel, Slope, draw


def live_tensors():
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def counted(regime, num_minibatches, query_x):
    """Reads a stream; tensors alive late in it beyond those early, and minibatches still alive."""
    generator = torch.Generator().manual_seed(0)
    counts, batches = [], []

    def stream():
        for index in range(num_minibatches):
            x = torch.randn(3, 4, 1, generator=generator, dtype=torch.float64)
            batch = Examples(x, 2 * x, torch.ones(3, 4, dtype=torch.bool))
            batches.append(weakref.ref(batch.x))
            if index in (10, num_minibatches - 1):
                counts.append(live_tensors())
            yield batch

    adapted = Iterated(regime.double(), steps=1).adapt(stream(), query_x)
    assert adapted.seen.tolist() == [4 * num_minibatches] * 3
    return counts[1] - counts[0], sum(batch() is not None for batch in batches)


def test_a_stream_leaves_nothing_behind():
    query_x = draw().query.x
    for regime in (Slope(), Kernel()):
        grown, alive = counted(regime, 300, query_x)
        assert grown == 0 and alive <= 1


def test_evidence_for_later_queries_is_what_grows():
    grown, _ = counted(Kernel(), 30, None)
    assert grown >= 19 * 3
