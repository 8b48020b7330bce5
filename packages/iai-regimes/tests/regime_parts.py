"""Small parts that the tests put together: examples, an encoder, and every kind of regime."""

from typing import NamedTuple

import torch
from iai_regimes import (
    Adam,
    Categorical,
    Explicit,
    Gaussian,
    Gradient,
    GradientDescent,
    Implicit,
    LatentDecoder,
    LearnedRule,
    Parametric,
    Predictor,
    Proximal,
    UntilConverged,
    WhitenedNewton,
)
from torch import Tensor, nn

X_DIM, DIM = 3, 8


class Examples(NamedTuple):
    x: Tensor
    y: Tensor | None
    mask: Tensor


class MeanEncoder(nn.Module):
    """A set encoder whose memory is one mean."""

    def __init__(self, dim=DIM):
        super().__init__()
        self.dim = dim
        self.token, self.query = nn.Linear(dim, dim), nn.Linear(3 * dim, dim)

    def encode(self, tokens, *, mask):
        hidden = self.token(tokens.masked_fill(~mask[..., None], 0.0)).tanh()
        count = mask.sum(1, keepdim=True).clamp(min=1)
        return hidden.masked_fill(~mask[..., None], 0.0).sum(1) / count

    def read(self, queries, memory):
        memory = memory[:, None].expand_as(queries)
        return self.query(torch.cat([queries, memory, queries * memory], dim=-1))


LIKELIHOODS = {
    "gaussian": lambda: Gaussian(2, scale=0.5),
    "gaussian-with-scale": lambda: Gaussian(1),
    "categorical": lambda: Categorical(3),
}


def draw(likelihood, num_tasks=3, n=6, *, x_shape=(X_DIM,), dtype=torch.float32, seed=0):
    """Examples of tasks that are alike: y depends on x in the same way in each."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num_tasks, n, *x_shape, generator=generator, dtype=dtype)
    first = x.flatten(2)[..., :1]
    if isinstance(likelihood, Categorical):
        y = (first[..., 0] > 0).long() + (first[..., 0] > 1).long()
    else:
        y = torch.cat([first, -2 * first], dim=-1)[..., : likelihood.y_dim] + 1
    return Examples(x, y, torch.ones(num_tasks, n, dtype=torch.bool))


def draw_ragged(seed=0, *, num_tasks=3):
    """Real targets in float64, of tasks that differ; the second task has two examples less."""
    batch = draw(Gaussian(1), num_tasks, dtype=torch.float64, seed=seed)
    batch.y.add_(torch.arange(num_tasks)[:, None, None] * batch.x[..., 1:2])
    batch.mask[1, 4:] = False
    return batch


def rule(predictor, likelihood, **options):
    options = {"x_dim": X_DIM, "summary_dim": 4, "chunk": 4} | options
    return LearnedRule(predictor, likelihood, MeanEncoder(), **options)


def parametric(likelihood, **options):
    predictor = Predictor(nn.Linear(X_DIM, likelihood.num_outputs))
    return Parametric(predictor, likelihood, rule(predictor, likelihood, **options))


def head_only(likelihood, **options):
    body = nn.Sequential(nn.Linear(X_DIM, 4), nn.Tanh(), nn.Linear(4, likelihood.num_outputs))
    predictor = Predictor(body, adapt=["2"])
    return Parametric(predictor, likelihood, rule(predictor, likelihood, **options))


def whitened(likelihood, num_products=4, **options):
    body = nn.Sequential(nn.Linear(X_DIM, 4), nn.Tanh(), nn.Linear(4, likelihood.num_outputs))
    predictor = Predictor(body)
    slope = WhitenedNewton(predictor, num_products)
    return Parametric(predictor, likelihood, rule(predictor, likelihood, slope=slope, **options))


def paper(likelihood, signal):
    """The parametric regime with the paper's state, signal and update."""
    slope = None if signal == "data" else Gradient()
    return parametric(likelihood, signal=signal, slope=slope, **PAPER)


def explicit(likelihood, **options):
    decoder = LatentDecoder(X_DIM, 5, likelihood.num_outputs, hidden_dim=DIM, num_layers=1)
    predictor = Predictor(decoder, adapt=["latent"])
    return Explicit(predictor, likelihood, rule(predictor, likelihood, **options))


def implicit(likelihood, **options):
    options = {"x_dim": X_DIM, "summary_dim": 4} | options
    return Implicit(MeanEncoder(), likelihood, **options)


RULES = {
    "adam": lambda: Adam(0.1),
    "adam-differentiated": lambda: Adam(0.1, differentiate_gradient=True),
    "descent": lambda: GradientDescent(0.3),
    "descent-momentum": lambda: GradientDescent(0.2, momentum=0.5),
    "descent-learned": lambda: GradientDescent(nn.Parameter(torch.full((2,), 0.3))),
    "proximal": lambda: Proximal(GradientDescent(0.3), nn.Parameter(torch.tensor(0.1))),
    "until-converged": lambda: UntilConverged(
        GradientDescent(0.3, momentum=0.5), tolerance=0.1, max_steps=5
    ),
}


def fixed(likelihood, name):
    """A linear model that a rule without a network adapts."""
    predictor = Predictor(nn.Linear(X_DIM, likelihood.num_outputs))
    return Parametric(predictor, likelihood, RULES[name]())


def maml(likelihood):
    body = nn.Sequential(nn.Linear(X_DIM, 4), nn.Tanh(), nn.Linear(4, likelihood.num_outputs))
    return Parametric(Predictor(body), likelihood, GradientDescent(0.3))


def cavia(likelihood):
    decoder = LatentDecoder(X_DIM, 5, likelihood.num_outputs, hidden_dim=DIM, num_layers=1)
    return Explicit(Predictor(decoder, ["latent"]), likelihood, GradientDescent(0.3))


SIGNALS = ("data", "gradient", "both")
UPDATES = ("annealed", "residual", "gated")
PAPER = {"update": "residual", "summary_dim": 0, "count": False}

REGIMES = {"parametric-head": head_only, "parametric-whitened": whitened}
REGIMES |= {"maml": maml, "cavia": cavia}
for name in RULES:
    REGIMES[name] = lambda likelihood, n=name: fixed(likelihood, n)
for update in UPDATES:
    for signal in SIGNALS:
        REGIMES[f"parametric-{signal}-{update}"] = lambda likelihood, s=signal, u=update: (
            parametric(likelihood, signal=s, update=u)
        )
    for state in ("logits", "latents"):
        REGIMES[f"implicit-{state}-{update}"] = lambda likelihood, s=state, u=update: implicit(
            likelihood, state=s, update=u
        )
for signal in SIGNALS:
    REGIMES[f"explicit-{signal}"] = lambda likelihood, s=signal: explicit(likelihood, signal=s)
    REGIMES[f"paper-parametric-{signal}"] = lambda likelihood, s=signal: paper(likelihood, s)
REGIMES["paper-implicit"] = lambda likelihood: implicit(likelihood, **PAPER)
CATEGORICAL_REGIMES = REGIMES | {
    f"implicit-probabilities-{update}": lambda likelihood, u=update: implicit(
        likelihood, state="probabilities", update=u
    )
    for update in UPDATES
}


def build(name, likelihood, *, seed=0, std=None, dtype=torch.float32):
    """A regime by its name; with `std`, no weight of it is zero."""
    torch.manual_seed(seed)
    regime = CATEGORICAL_REGIMES[name](likelihood).to(dtype)
    if std is not None:
        for parameter in regime.parameters():
            nn.init.normal_(parameter, std=std)
    return regime


def read(regime, query_x, *batches, fresh=True):
    """The state after reading the minibatches, from the start."""
    state = regime.init(query_x.shape[0], query_x)
    for batch in batches:
        state = regime.update(state, regime.encode(batch), query_x, fresh)
    return state
