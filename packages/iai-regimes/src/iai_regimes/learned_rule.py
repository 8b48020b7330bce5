"""The learned update of adapted parameters: what it reads, and how what it reads moves them."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from iai_regimes.embedding import BilinearEmbedding
from iai_regimes.evidence import (
    NUM_COUNT_FEATURES,
    annealed_gain,
    count_features,
    masked_mean,
    refresh_summary,
)
from iai_regimes.gradient_feature import GradientFeature, raw
from iai_regimes.interfaces import Examples, Likelihood, Objective, SetEncoder
from iai_regimes.krylov import krylov_directions
from iai_regimes.parameter_token import ParameterTokens
from iai_regimes.predictor import Predictor
from iai_regimes.update_form import UpdateForm, heads, move

Signal = Literal["data", "gradient", "both"]


class Evidence(NamedTuple):
    """What a minibatch says by itself."""

    inputs: Float[Tensor, "task n features"]  # x flattened, then the features of y; zeros where masked
    mask: Bool[Tensor, "task n"]
    statistic: Float[Tensor, "task summary"]  # mean of learned features of the examples


class LearnedRule(nn.Module):
    """theta moves by what a set encoder reads in a minibatch, in theta and in the gradient at theta.

    The tokens of theta and the tokens of the observations form one set; the tokens of theta are then read back from it,
    and a linear head turns each into the change of its own numbers. A token of theta holds its chunk of theta and of the
    gradient, the running summary and the evidence count. With a gradient g, the head also gives each number learned
    rates along the directions d_0 = g, d_1 ~ H g, d_2 ~ H^2 g, .. (H is the Hessian of the minibatch's loss):
    delta = correction - sum_k rate_k * d_k. In the annealed form the correction has the gain once more: as evidence grows
    the rule becomes stochastic approximation with learned rates, whose mean step is zero where the expected gradient is,
    and no bias of the network adds up over steps.

    Args:
        predictor: What is adapted.
        likelihood: Writes targets and residuals as numbers.
        encoder: Reads the set of tokens.
        x_dim: Numbers in one flattened input.
        signal: "data" (observations [x, y, residual of the current prediction]), "gradient" (of the mean loss on the
            minibatch at theta), or "both".
        update: "annealed" (default), "residual" (the paper's) or "gated".
        summary_dim: Size of the running mean of learned features of all examples seen, part of the state; 0 for none
            (the paper's state). A rule that reads the gradient alone has none: it sees no example.
        count: Whether the rule reads how many examples the state has seen; False for the paper's state.
        curvature: How many products of the Hessian with the gradient the rule reads; 0 for the gradient alone (the
            paper's signal).
        gradient_feature: How the directions enter the tokens; the learned rates multiply them as they are.
        differentiate_gradient: Whether outer gradients flow through the directions; by default they are constants.
        chunk: Largest number of parameters in one token.

    Raises:
        ValueError: If `signal` or `update` is unknown, or a size is out of range.

    Source:
        Mittal et al. (2025), arXiv 2510.11471, the parametric and explicit regimes. Ours: the evidence count, the
        annealed form, the summary, curvature and learned rates, the residual in the observation's token, and state and
        gradient in one token.
    """

    def __init__(
        self,
        predictor: Predictor,
        likelihood: Likelihood,
        encoder: SetEncoder,
        *,
        x_dim: int,
        signal: Signal = "both",
        update: UpdateForm = "annealed",
        summary_dim: int = 32,
        count: bool = True,
        curvature: int = 2,
        gradient_feature: GradientFeature = raw,
        differentiate_gradient: bool = False,
        chunk: int = 64,
    ) -> None:
        super().__init__()
        if signal not in ("data", "gradient", "both"):
            raise ValueError(f"`signal` must be data, gradient or both; got {signal!r}.")
        if x_dim < 1:
            raise ValueError(f"`x_dim` must be at least 1; got {x_dim}.")
        for name, size in (("summary_dim", summary_dim), ("curvature", curvature)):
            if size < 0:
                raise ValueError(f"`{name}` must be at least 0; got {size}.")
        self.num_heads = heads(update)
        self.signal, self.update, self.count = signal, update, count
        self.curvature = curvature
        self.gradient_feature = gradient_feature
        self.differentiate_gradient = differentiate_gradient
        self.reads_data, self.reads_gradient = signal != "gradient", signal != "data"
        self.summary_dim = summary_dim if self.reads_data else 0
        self.features = likelihood.features
        self.encoder = encoder
        self.tokens = ParameterTokens(predictor.shapes, chunk=chunk)
        dim, token_dim = encoder.dim, self.tokens.token_dim
        self.place = nn.Parameter(torch.randn(self.tokens.num_tokens, dim) * dim**-0.5)
        num_directions = 1 + curvature if self.reads_gradient else 0
        num_features = 1 + num_directions * gradient_feature(torch.zeros(1, 1)).shape[-1]
        state_dim = token_dim * num_features + self.summary_dim + count * NUM_COUNT_FEATURES
        self.embed_state = BilinearEmbedding(dim + state_dim, dim)
        example_dim = x_dim + likelihood.num_features
        if self.reads_data:
            self.embed_example = BilinearEmbedding(example_dim + likelihood.num_outputs, dim)
        if self.summary_dim:
            self.statistic = BilinearEmbedding(example_dim, self.summary_dim, hidden_dim=dim)
        self.head = nn.Linear(dim, token_dim * (self.num_heads + num_directions))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def start(self, theta: Float[Tensor, "task p"]) -> Float[Tensor, "task summary"]:
        """The summary of nothing: zeros."""
        return theta.new_zeros(theta.shape[0], self.summary_dim)

    def encode(self, batch: Examples) -> Evidence:
        """The minibatch as numbers, and the mean of its learned features."""
        if batch.y is None:
            raise ValueError("A learned rule needs targets; got a minibatch whose `y` is None.")
        x = batch.x.flatten(2)
        inputs = torch.cat([x, self.features(batch.y).to(x.dtype)], dim=-1)
        inputs = inputs.masked_fill(~batch.mask[..., None], 0.0)
        if self.summary_dim:
            statistic = masked_mean(self.statistic(inputs), batch.mask)
        else:
            statistic = inputs.new_zeros(inputs.shape[0], 0)
        return Evidence(inputs, batch.mask, statistic)

    def step(
        self,
        theta: Float[Tensor, "task p"],
        carry: Float[Tensor, "task summary"],
        evidence: Evidence,
        objective: Objective,
        seen: Float[Tensor, " task"],
        fresh: bool,
    ) -> tuple[Float[Tensor, "task p"], Float[Tensor, "task summary"]]:
        """One refinement; gradients flow to `theta`, to the carry and to the rule's own parameters."""
        count = evidence.mask.sum(1).to(theta.dtype)
        summary = refresh_summary(carry, evidence.statistic, seen, count, fresh)
        directions = self._directions(theta, objective)
        state_tokens = self._state_tokens(theta, directions, summary, seen, count)
        tokens, mask = [state_tokens], [self._observed(state_tokens)]
        if self.reads_data:
            residual = objective.residual(theta).masked_fill(~evidence.mask[..., None], 0.0)
            tokens.append(self.embed_example(torch.cat([evidence.inputs, residual], dim=-1)))
            mask.append(evidence.mask)
        memory = self.encoder.encode(torch.cat(tokens, dim=1), mask=torch.cat(mask, dim=1))
        read = self.head(self.encoder.read(state_tokens, memory))
        proposal = [self.tokens.join(part) for part in read.split(self.tokens.token_dim, dim=-1)]
        rates = proposal[self.num_heads :]
        gain = annealed_gain(seen, count)
        if self.reads_gradient and self.update == "annealed":
            proposal[0] = gain[:, None] * proposal[0]
        for rate, direction in zip(rates, directions, strict=True):
            proposal[0] = proposal[0] - rate * direction
        return move(self.update, theta, tuple(proposal[: self.num_heads]), gain), summary

    def _directions(self, theta: Tensor, objective: Objective) -> list[Tensor]:
        if not self.reads_gradient:
            return []
        return krylov_directions(
            objective.loss, theta, self.curvature, differentiate=self.differentiate_gradient
        )

    def _state_tokens(
        self,
        theta: Tensor,
        directions: list[Tensor],
        summary: Tensor,
        seen: Tensor,
        count: Tensor,
    ) -> Tensor:
        num_tasks, num_tokens = theta.shape[0], self.tokens.num_tokens
        own = [self.place.expand(num_tasks, -1, -1), self.tokens.split(theta)]
        for direction in directions:
            features = self.gradient_feature(direction).unbind(-1)
            own += [self.tokens.split(feature) for feature in features]
        shared = [summary, count_features(seen, count)] if self.count else [summary]
        spread = torch.cat(shared, dim=-1)[:, None].expand(-1, num_tokens, -1)
        tokens: Tensor = self.embed_state(torch.cat([*own, spread], dim=-1))
        return tokens

    @staticmethod
    def _observed(tokens: Tensor) -> Tensor:
        return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
