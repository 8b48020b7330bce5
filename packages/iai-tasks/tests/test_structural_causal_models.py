"""Structural causal models: what regression finds in them, and what a seed fixes."""

import math

import networkx as nx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_tasks import ErdosRenyi, GivenGraphs, StructuralCausalModels, to_networkx
from iai_tasks.causal.structural_causal_models import topological_order

PAIR = GivenGraphs([nx.DiGraph([(0, 1)])])
GRAPHS = ErdosRenyi(1.5)


def draw(sampler, num_tasks, num_support, num_query=4, seed=0, latent=None):
    generator = torch.Generator().manual_seed(seed)
    counts = {"num_support": num_support, "num_query": num_query}
    return sampler.sample(num_tasks, **counts, generator=generator, latent=latent)


def regressions(sampler, num_samples=20_000):
    """Each variable on its causes: weights, bias and residual, one at a time."""
    batch = draw(sampler, 5, num_samples)
    for x, graph in zip(batch.support.x.double(), sampler.graph(batch.latent), strict=True):
        for node in range(sampler.num_nodes):
            causes = x[:, graph[:, node]]
            design = torch.cat([causes, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
            fit = torch.linalg.lstsq(design, x[:, node : node + 1]).solution[:, 0]
            yield fit[:-1], fit[-1], x[:, node] - design @ fit


def test_linear_gaussian_models_are_what_regression_finds():
    scales = []
    for weights, bias, residual in regressions(StructuralCausalModels(graphs=GRAPHS, num_nodes=6)):
        assert ((weights.abs() > 0.9) & (weights.abs() < 3.1)).all()
        assert abs(bias) < 3.5
        scales.append(residual.std())
    scales = torch.stack(scales).view(5, 6)
    assert torch.allclose(scales, scales[:, :1].expand(-1, 6), rtol=0.05)  # one for a task
    assert (scales.std(0) > 0.1).all()  # another for another
    assert ((scales > 0.19) & (scales < 2.05)).all()


@pytest.mark.parametrize(
    ("noise", "within", "beyond"),
    [
        ("laplace", 1 - math.exp(-1), math.exp(-3)),
        ("cauchy", 0.5, 2 / math.pi * math.atan(1 / 3)),
        ("gaussian", math.erf(1 / math.sqrt(2)), math.erfc(3 / math.sqrt(2))),
    ],
)
def test_noise_has_its_law(noise, within, beyond):
    options = {"scale": (0.5, 0.5), "bias": (0.0, 0.0)}
    sampler = StructuralCausalModels(graphs=PAIR, num_nodes=2, noise=noise, **options)
    root = draw(sampler, 4, 20_000).support.x[..., 0].abs()
    assert (root < 0.5).double().mean().item() == pytest.approx(within, abs=0.01)
    assert (root > 1.5).double().mean().item() == pytest.approx(beyond, abs=0.004)


def test_scales_differ_between_variables_unless_the_order_would_be_hidden():
    sampler = StructuralCausalModels(graphs=GRAPHS, num_nodes=6, noise="laplace")
    scales = torch.stack([residual.std() for *_, residual in regressions(sampler)]).view(5, 6)
    assert (scales.std(1) > 0.1).all()


def test_a_fourier_mechanism_is_a_draw_from_a_gaussian_process():
    length, gain = 2.0, 3.0
    options = {"length": (length, length), "gain": (gain, gain), "bias": (0.0, 0.0)}
    sampler = StructuralCausalModels(
        graphs=PAIR, num_nodes=2, mechanism="fourier", scale=(1.0, 1.0), **options
    )
    cause, effect = draw(sampler, 4000, 16).support.x.unbind(-1)
    apart = (cause[:, ::2] - cause[:, 1::2]).abs()
    change = (effect[:, ::2] - effect[:, 1::2]).square() / 2
    for low in (0.0, 0.5, 1.0, 1.5, 2.0, 2.5):
        here = (apart >= low) & (apart < low + 0.1)
        # Of the process, and of the effect's own noise.
        expected = gain**2 * (1 - math.exp(-((low + 0.05) ** 2) / (2 * length**2))) + 1
        assert change[here].mean().item() == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("mechanism", ["linear", "fourier"])
def test_an_effect_is_of_its_causes_alone(mechanism):
    options = {"num_nodes": 2, "mechanism": mechanism, "scale": (1e-3, 1e-3)}
    apart = GivenGraphs([nx.empty_graph(2, nx.DiGraph)])
    for graphs, spread in ((PAIR, 1e-4), (apart, None)):
        x = draw(StructuralCausalModels(graphs=graphs, **options), 6, 300).support.x
        correlation = torch.stack([task.T.corrcoef()[0, 1] for task in x])
        assert (x[..., 0].std(1) - 1e-3).abs().max() < 2e-4
        assert (correlation.abs() < 0.25).all() == (spread is None)


def test_standardised_variables_have_one_scale_for_all_draws_of_a_task():
    raw, made = (
        StructuralCausalModels(graphs=GRAPHS, num_nodes=5, noise="laplace", standardise=flag)
        for flag in (False, True)
    )
    batch = draw(made, 4, 4000)
    assert batch.support.x.mean(1).abs().max() < 0.15
    assert (batch.support.x.std(1) - 1).abs().max() < 0.15
    lines = []
    for seed in (1, 2):
        x, z = (draw(one, 4, 50, seed=seed, latent=batch.latent).support.x for one in (raw, made))
        slope = z.std(1) / x.std(1)
        lines.append((slope, z.mean(1) - slope * x.mean(1)))
    for one, other in zip(*lines, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("mechanism", ["linear", "fourier"])
@pytest.mark.parametrize("standardise", [False, True])
def test_a_batch_is_its_tasks_one_at_a_time(mechanism, standardise):
    sampler = StructuralCausalModels(
        graphs=GRAPHS, num_nodes=5, mechanism=mechanism, standardise=standardise
    )
    latent = torch.tensor([3, 2**61])
    alone = draw(sampler, 1, 8, latent=latent[:1]).support.x
    both = draw(sampler, 2, 8, latent=latent).support.x
    assert torch.allclose(alone[0], both[0], atol=1e-4)  # the first numbers of the generator


def test_queries_ask_about_each_variable_in_turn():
    batch = draw(StructuralCausalModels(graphs=GRAPHS, num_nodes=4), 50, 1, num_query=8)
    first, second = batch.query.x[..., 0].split(4, dim=1)
    assert torch.equal(first, second)
    assert torch.equal(first.sort(1).values, torch.arange(4.0).expand(50, -1))
    assert (first != first[0]).any()
    assert (batch.query.y.sum(1) >= 2).all()  # every graph has a leaf, asked about twice


def test_seeds_of_two_ranges_do_not_meet():
    seen, unseen = (
        StructuralCausalModels(graphs=GRAPHS, num_nodes=3, **span)
        for span in ({"num_tasks": 10}, {"first_seed": 10})
    )
    assert draw(seen, 200, 0).latent.max() == 9
    assert draw(unseen, 200, 0).latent.min() >= 10


@given(seed=st.integers(0, 2**60), num_nodes=st.integers(1, 9))
def test_a_topological_order_has_causes_first(seed, num_nodes):
    graphs = ErdosRenyi(2.0).sample(seed + torch.arange(3), num_nodes)
    for graph, order in zip(graphs, topological_order(graphs).tolist(), strict=True):
        assert order == list(nx.lexicographical_topological_sort(to_networkx(graph)))


def test_a_cycle_has_no_order():
    with pytest.raises(ValueError, match="`graph` must have no cycle"):
        topological_order(~torch.eye(3, dtype=torch.bool)[None])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_nodes": 0}, "`num_nodes` must be at least 1; got 0"),
        ({"mechanism": "cubic"}, "`mechanism` must be one of 'linear', 'fourier'; got 'cubic'"),
        ({"noise": "none"}, "`noise` must be one of 'gaussian', 'laplace', 'cauchy'; got 'none'"),
        ({"scale": (0.0, 1.0)}, r"`scale` must be 0 < smallest <= largest; got \(0.0, 1.0\)"),
        ({"bias": (1.0, 0.0)}, r"`bias` must be \(smallest, largest\); got \(1.0, 0.0\)"),
        ({"weight": (1.0, math.inf)}, r"`weight` must be 0 < smallest <= largest; got \(1.0, inf"),
        ({"first_seed": -1}, "`first_seed` must be at least 0; got -1"),
    ],
)
def test_what_cannot_be(untyped, options, text):
    with pytest.raises(ValueError, match=text):
        StructuralCausalModels(graphs=GRAPHS, **{"num_nodes": 3, **options})
