"""Time of a step of the learned rule beside a step of Adam, by the number of adapted parameters.

The model is an MLP 100-h-10, all of whose weights are adapted. One token of the rule holds the
incoming weights of one unit, and all tokens share the rule's networks. "own weights" are those that
grow with the model: an embedding for each token and an initial rate for each parameter. "rule" has
`WhitenedNewton`, "plain" the `Newton` of small models, each with one Hessian-vector product in its
Krylov space.
"""

import argparse

import torch
from iai_encoders import SetTransformer
from iai_iterate import Iterated
from iai_regimes import (
    Adam,
    Categorical,
    LearnedRule,
    Newton,
    Parametric,
    Predictor,
    WhitenedNewton,
)
from iai_regimes.interfaces import Rule
from iai_tasks import Examples
from torch import nn
from workbench import Row, bare_arguments, in_turn, ratio, report

DIM, CLASSES = 100, 10


def main() -> None:
    parser = bare_arguments(__doc__)
    parser.add_argument("--hidden", type=int, nargs="+", default=[0, 16, 64, 256, 1024])
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--minibatch", type=int, default=100)
    parser.add_argument("--width", type=int, default=64)
    options = parser.parse_args()
    rows = [measure(hidden, options) for hidden in options.hidden]
    report("a step of the learned rule beside one of Adam", rows, options)


def measure(hidden: int, options: argparse.Namespace) -> Row:
    generator = torch.Generator(options.device).manual_seed(0)
    shape = (options.tasks, options.minibatch)
    batch = Examples(
        x=torch.randn(*shape, DIM, generator=generator, device=options.device),
        y=torch.randint(CLASSES, shape, generator=generator, device=options.device),
    )
    predictor = Predictor(model(hidden))
    whitened = rule(predictor, options, WhitenedNewton(predictor, 1))
    plain = rule(predictor, options, Newton(1))

    def step(chosen: Rule) -> Iterated:
        regime = Parametric(predictor, Categorical(CLASSES), chosen)
        return Iterated(regime, steps=1).to(options.device)

    learners = {"rule": step(whitened), "plain": step(plain), "adam": step(Adam(0.01))}
    times = in_turn(
        {name: lambda one=one: one.adapt(batch) for name, one in learners.items()}, options
    )
    own = whitened.token_embedding.numel() + whitened.rates.numel()
    return {
        "parameters": predictor.size,
        "tokens": whitened.tokens.num_tokens,
        "shared weights": sum(weight.numel() for weight in whitened.parameters()) - own,
        "own weights": own,
        "ms a task": 1e3 * min(times["rule"]) / options.tasks,
        "rule / adam": ratio(times["rule"], times["adam"]),
        "rule / plain": ratio(times["rule"], times["plain"]),
    }


def model(hidden: int) -> nn.Module:
    if hidden == 0:
        return nn.Linear(DIM, CLASSES)
    return nn.Sequential(nn.Linear(DIM, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))


def rule(
    predictor: Predictor, options: argparse.Namespace, slope: Newton | WhitenedNewton
) -> LearnedRule:
    encoder = SetTransformer(options.width, 2, 2, 2 * options.width)
    sizes = {"x_dim": DIM, "chunk": DIM + 1}
    return LearnedRule(predictor, Categorical(CLASSES), encoder, slope=slope, **sizes)


if __name__ == "__main__":
    main()
