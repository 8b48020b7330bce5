"""Tokens of questions and of examples, which share one embedding of the input."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from iai_regimes.check import check_sizes, flat_inputs
from iai_regimes.interfaces import Examples, Likelihood
from iai_regimes.padding import finite_queries, observed_features, observed_inputs
from iai_regimes.precision import as_weights
from iai_regimes.scale import within_reach

Tokens = Float[Tensor, "task n dim"]


class ExampleTokens(NamedTuple):
    """A minibatch as tokens; what is not observed is hidden by the mask."""

    tokens: Tokens
    questions: Tokens | None  # the tokens without their targets; None where there are no targets
    mask: Bool[Tensor, "task n"]


class ExampleEmbedding(nn.Module):
    """A question is its embedded input, and an example that plus its embedded target.

    So an example and a query of one input differ in the target alone. Both maps are linear, that of
    the input starts orthogonal, that of the target has no bias and half as large features. So an
    encoder that looks up similar tokens looks up similar inputs first, and one that regresses on
    tokens regresses on the inputs.

    Args:
        likelihood: Says what a model reads of a target.
        x_dim: Numbers of one flattened input of the support.
        query_dim: The same for a query; `x_dim` if None. Other sizes have another embedding.
        dim: Numbers a token.

    Raises:
        ValueError: If a size is below 1.
    """

    def __init__(self, likelihood: Likelihood, x_dim: int, query_dim: int | None, dim: int) -> None:
        super().__init__()
        query_dim = x_dim if query_dim is None else query_dim
        check_sizes(x_dim=x_dim, query_dim=query_dim, dim=dim)
        self.likelihood, self.x_dim, self.query_dim = likelihood, x_dim, query_dim
        self.inputs = _linear(x_dim, dim)
        self.queries = self.inputs if query_dim == x_dim else _linear(query_dim, dim)
        self.target = None
        if likelihood.num_features:
            self.target = nn.Linear(likelihood.num_features, dim, bias=False)
            nn.init.normal_(self.target.weight, std=0.5)

    def examples(self, batch: Examples) -> ExampleTokens:
        """The tokens of a minibatch.

        Raises:
            ValueError: If there are no targets, or an input has not `x_dim` numbers.
        """
        x = flat_inputs("x", observed_inputs(batch), self.x_dim)
        questions = _embed(self.inputs, x)
        if self.target is None:
            return ExampleTokens(questions, None, batch.mask)
        features = observed_features(batch, self.likelihood)
        return ExampleTokens(questions + _embed(self.target, features), questions, batch.mask)

    def questions(self, query_x: Float[Tensor, "task query *x_shape"]) -> Tokens:
        """The tokens of queries; one that is not finite is embedded as zeros.

        Raises:
            ValueError: If a query has not `query_dim` numbers.
        """
        x = flat_inputs("query_x", finite_queries(query_x)[0], self.query_dim)
        return _embed(self.queries, x)


def _linear(x_dim: int, dim: int) -> nn.Linear:
    layer = nn.Linear(x_dim, dim)
    # Orthogonal, so that distances of inputs are those of tokens; of a variance near theirs.
    with torch.no_grad():  # there is no such matrix in half precision
        matrix = torch.empty(dim, x_dim, dtype=torch.float32)
        layer.weight.copy_(nn.init.orthogonal_(matrix, gain=max(dim / x_dim, 1) ** 0.5))
    return layer


def _embed(layer: nn.Linear, values: Float[Tensor, "task n k"]) -> Tokens:
    embedded: Tensor = layer(within_reach(as_weights(values, layer.weight)))
    return embedded
