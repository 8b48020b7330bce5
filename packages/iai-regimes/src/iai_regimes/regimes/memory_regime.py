"""What regimes whose state is an encoder's memory have in common: tokens, and a linear head."""

from abc import ABC

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iai_regimes.check import check_examples, check_role
from iai_regimes.example_embedding import ExampleEmbedding, ExampleTokens
from iai_regimes.interfaces import Examples, Likelihood, TokenEncoder
from iai_regimes.objective import mean_loss
from iai_regimes.precision import as_module, as_weights, at_least_single


class MemoryRegime(nn.Module, ABC):
    """Examples and queries become tokens of an encoder, and its answers become raw outputs.

    Where outputs are as many as the features of a target, the head starts as the pseudo-inverse of
    the embedding of targets: what the encoder finds of these is then the answer, as far as `dim`
    numbers tell them apart. Otherwise it starts at 0.

    A subclass writes `init`, `encode`, `update` and `predict`.

    Args:
        role: What the encoder must be, a Protocol.
        encoder: Reads the tokens.
        likelihood: Compares raw outputs with targets.
        x_dim: Numbers of one flattened input of the support.
        query_dim: The same for a query; `x_dim` if None.

    Raises:
        ValueError: If a size is below 1.
        TypeError: If `encoder` or `likelihood` lacks a member of its role.
    """

    def __init__(
        self,
        role: type,
        encoder: TokenEncoder,
        likelihood: Likelihood,
        x_dim: int,
        query_dim: int | None,
    ) -> None:
        super().__init__()
        check_role(role, encoder=encoder)
        check_role(Likelihood, likelihood=likelihood)
        self.encoder, self.likelihood = encoder, likelihood
        self.embed = ExampleEmbedding(likelihood, x_dim, query_dim, encoder.dim)
        self.head = nn.Linear(encoder.dim, likelihood.num_outputs, bias=False)
        nn.init.zeros_(self.head.weight)
        target = self.embed.target
        if target is not None and likelihood.num_features == likelihood.num_outputs:
            with torch.no_grad():  # there is no pseudo-inverse in half precision
                self.head.weight.copy_(torch.linalg.pinv(target.weight.float()))

    def loss(
        self, outputs: Float[Tensor, "task query num_outputs"], query: Examples
    ) -> Float[Tensor, " task"]:
        """Mean negative log-likelihood of each task's observed queries, in nats."""
        return mean_loss(self.likelihood, outputs, query)

    def validate(self, batch: Examples) -> None:
        """Raises ValueError for examples that are not finite or whose targets cannot be."""
        check_examples(batch, self.likelihood)

    def _tokens(self, batch: Examples) -> ExampleTokens:
        """The minibatch as tokens in the dtype of the encoder."""
        tokens, questions, mask = self.embed.examples(batch)
        if questions is not None:
            questions = as_module(questions, self.encoder)
        return ExampleTokens(as_module(tokens, self.encoder), questions, mask)

    def _questions(self, query_x: Tensor) -> Float[Tensor, "task query dim"]:
        """The queries as tokens in the dtype of the encoder."""
        return as_module(self.embed.questions(query_x), self.encoder)

    def _outputs(
        self, answers: Tensor, questions: Tensor, *, steps: int = 1
    ) -> Float[Tensor, "row query num_outputs"]:
        """Raw outputs of the encoder's answers, in float32 at least.

        Raises:
            ValueError: If the answers are not `dim` numbers for each question after each step.
        """
        expected = len(questions) * steps, *questions.shape[1:]
        if answers.shape != expected:
            raise ValueError(
                f"`encoder` must read (task, query, dim), here {expected}; it gave "
                f"{tuple(answers.shape)}."
            )
        return at_least_single(self.head(as_weights(answers, self.head.weight)))
