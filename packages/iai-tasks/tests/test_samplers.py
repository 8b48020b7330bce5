"""Every sampler keeps the contract, and says what is wrong with a call."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_tasks import (
    AbstractSampler,
    ErdosRenyi,
    Examples,
    FewShotClassification,
    ImageClasses,
    LinearClassification,
    LinearRegression,
    MixtureOfGaussians,
    ProjectedClassification,
    RandomExamples,
    RandomNetworkRegression,
    Real,
    ScaleFree,
    Sinusoid,
    StructuralCausalModels,
    TaskSpec,
)
from iai_tasks.testing import check_sampler

IMAGES = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(300) % 5
QUERIES = {"query_images": IMAGES[200:], "query_labels": LABELS[200:]}
LETTERS = ImageClasses(
    images=IMAGES.reshape(300, 1, 2, 3), labels=LABELS, class_names=tuple("abcde")
)
SQUARES = ImageClasses(
    images=IMAGES[:, :4].reshape(300, 1, 2, 2), labels=LABELS, class_names=tuple("abcde")
)
SAMPLERS = {
    "linear regression": LinearRegression(3),
    "one input": LinearRegression(1),
    "without noise": LinearRegression(3, noise_variance=0.0),
    "wide": LinearRegression(3, query_shift="wide"),
    "far": LinearRegression(3, query_shift="far", noisy_query=False),
    "linear classification": LinearClassification(3, 4),
    "tanh": RandomNetworkRegression(3),
    "relu": RandomNetworkRegression(3, activation="relu", hidden_dim=4),
    "sinusoid": Sinusoid(),
    "few-shot": FewShotClassification(LETTERS, [0, 1, 3, 4], ways=3),
    "few-shot turned": FewShotClassification(SQUARES, range(5), ways=5, rotations=True),
    "random examples": RandomExamples(IMAGES, LABELS),
    "random real examples": RandomExamples(IMAGES[:, :4].reshape(300, 2, 2), IMAGES[:, 4:]),
    "mixture": MixtureOfGaussians(),
    "mixture in 3D": MixtureOfGaussians(3, 4, covariance="full"),
    "causal": StructuralCausalModels(graphs=ErdosRenyi(), num_nodes=5),
    "causal Fourier": StructuralCausalModels(
        graphs=ScaleFree(), num_nodes=4, mechanism="fourier", noise="cauchy", standardise=True
    ),
    "projected": ProjectedClassification(IMAGES, LABELS),
    "projected subset": ProjectedClassification(IMAGES, LABELS, projection_dim=3, num_classes=3),
    "projected finite": ProjectedClassification(IMAGES, LABELS, num_tasks=1, first_seed=7),
    "projected held out": ProjectedClassification(IMAGES[:200], LABELS[:200], **QUERIES),
}


@pytest.fixture(params=SAMPLERS)
def sampler(request):
    return SAMPLERS[request.param]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_contract(sampler):
    check_sampler(sampler)


@pytest.mark.parametrize("name", SAMPLERS)
@given(
    num_tasks=st.integers(1, 5),
    num_support=st.integers(0, 20),
    num_query=st.integers(0, 20),
    seed=st.integers(0, 2**40),
)
def test_shapes_and_the_same_generator(name, num_tasks, num_support, num_query, seed):
    sampler = SAMPLERS[name]
    counts = {"num_support": num_support, "num_query": num_query}
    batch, again = (
        sampler.sample(num_tasks, **counts, generator=generator(seed)) for _ in range(2)
    )
    assert batch.support.x.shape == (num_tasks, num_support, *sampler.spec.support_x_shape)
    assert batch.query.x.shape == (num_tasks, num_query, *sampler.spec.query_x_shape)
    assert torch.equal(batch.support.x, again.support.x)
    assert torch.equal(batch.query.y, again.query.y)
    assert torch.equal(batch.latent, again.latent)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("name", "options", "error", "text"),
    [
        ("wide", {"num_tasks": 0}, ValueError, "`num_tasks` must be at least 1; got 0."),
        ("tanh", {"num_support": -1}, ValueError, "`num_support` must be at least 0; got -1."),
        ("projected", {"num_query": -2}, ValueError, "`num_query` must be at least 0; got -2."),
        (
            "linear classification",
            {"latent": torch.zeros(2, 4)},
            ValueError,
            "`latent` must have shape (2, 4, 4); got (2, 4).",
        ),
        (
            "linear regression",
            {"latent": torch.zeros(2, 4, dtype=torch.int64)},
            TypeError,
            "`latent` must be floating point; got torch.int64.",
        ),
        (
            "projected",
            {"latent": torch.zeros(2)},
            TypeError,
            "`latent` must hold seeds (int64); got torch.float32.",
        ),
        (
            "tanh",
            {"latent": torch.zeros(2, 161, device="meta")},
            ValueError,
            "`latent` must be on the generator's device, cpu; got meta.",
        ),
        ("tanh", {"latent": [1.0]}, TypeError, "`latent` must be a tensor or None; got list."),
        (
            "linear regression",
            {"generator": 0},
            TypeError,
            "`generator` must be a torch.Generator; got int.",
        ),
    ],
)
def test_calls_that_do_not_fit(name, options, error, text):
    call = {"num_tasks": 2, "num_support": 3, "num_query": 3, "generator": generator(), **options}
    with pytest.raises(error) as caught:
        SAMPLERS[name].sample(**call)
    assert str(caught.value) == text


class Offsets(AbstractSampler):
    """y is x and the latent; notes what it is asked."""

    spec = TaskSpec(support_x_shape=(1,), query_x_shape=(1,), target=Real(1))
    latent_shape = (1,)

    def __init__(self):
        self.checked = []

    def check_latent(self, latent):
        self.checked.append(latent)

    def draw_latent(self, num_tasks, generator):
        return torch.randn(num_tasks, 1, generator=generator)

    def draw_examples(self, latent, num_support, num_query, generator):
        x = torch.randn(len(latent), num_support + num_query, 1, generator=generator)
        examples = Examples(x=x, y=x + latent[:, None])
        return examples[:, :num_support], examples[:, num_support:]


def test_a_subclass_says_how_to_draw_and_its_given_latents_alone_are_checked():
    sampler = Offsets()
    check_sampler(Offsets())
    batch = sampler.sample(2, num_support=3, num_query=0, generator=generator())
    assert not sampler.checked
    sampler.sample(2, num_support=3, num_query=0, generator=generator(), latent=batch.latent)
    assert len(sampler.checked) == 1 and sampler.checked[0] is batch.latent


def test_the_base_alone_is_no_sampler():
    with pytest.raises(TypeError, match="abstract"):
        AbstractSampler()


def test_a_latent_in_float64_gives_tasks_in_float64():
    latent = torch.zeros(2, 4, dtype=torch.float64)
    counts = {"num_support": 3, "num_query": 2}
    batch = LinearRegression(3).sample(2, **counts, generator=generator(), latent=latent)
    assert batch.support.x.dtype == batch.query.y.dtype == torch.float64
