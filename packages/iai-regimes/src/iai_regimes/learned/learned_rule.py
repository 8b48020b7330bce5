"""The learned update of adapted parameters, from a minibatch and the slope of its loss."""

from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from iai_regimes.check import check_role, check_sizes, flat_inputs
from iai_regimes.embedding import BilinearEmbedding
from iai_regimes.evidence import (
    NUM_COUNT_FEATURES,
    Evidence,
    masked_mean,
    running_mean,
)
from iai_regimes.interfaces import Examples, Likelihood, Objective, SetEncoder, Theta
from iai_regimes.learned.newton import Newton
from iai_regimes.learned.parameter_token import ParameterTokens
from iai_regimes.learned.slope import Slope
from iai_regimes.padding import observed_features, observed_inputs
from iai_regimes.precision import as_module, as_weights
from iai_regimes.predictor import Predictor
from iai_regimes.ravel import ravel, task_zeros, unravel
from iai_regimes.scale import shortened
from iai_regimes.update_form import UpdateForm, move, num_proposals
from iai_regimes.zero_linear import zero_linear

Signal = Literal["data", "gradient", "both"]


class Observations(NamedTuple):
    """A minibatch as the rule reads it."""

    x: Float[Tensor, "task n *x_shape"]  # zeros where masked
    inputs: Float[Tensor, "task n features"]  # x, flat, then the features of y; zeros where masked
    mask: Bool[Tensor, "task n"]
    statistic: Float[Tensor, "task summary"]  # mean of learned features of the examples


class Memory(NamedTuple):
    """What the rule remembers beside theta."""

    summary: Float[Tensor, "task summary"]  # mean of learned features of all examples seen
    slope: Any  # the memory of the slope, a pytree of tensors; () without one


class LearnedRule(nn.Module):
    """Moves theta by what a set encoder reads in a minibatch, in theta and in its loss's slope.

    The tokens of theta and the tokens of the examples form one set. The tokens of theta are then
    read back from it, and a linear head turns each of them into a correction c and rates r_i of its
    own numbers. With the directions d_i of the slope (a gradient, a damped Newton step), n examples
    behind theta, b in the minibatch and the gain k = b / (n + b), the annealed update is

        theta <- theta + k (k c - sum_i (a_i + s_i(n, b) + k r_i) d_i).

    a_i are learned constants, one for each number of theta, which start at the slope's
    `initial_rates`; s_i is a learned linear function of the evidence count. c, r_i and s_i start
    at 0: training starts from damped Newton, not from nothing. What the head gives is multiplied by
    k twice, so its bias vanishes as 1 / n^2 and the rule becomes stochastic approximation with
    constant rates: its mean step is zero where the expected gradient is. Without a slope, the
    update is theta + k c; the residual form has 1 in place of k.

    A token of theta holds its numbers of theta and of the directions, the running summary and the
    evidence count; a token of an example holds x, y and the residual of the current prediction.
    Examples without targets (`Unlabelled`) are read as x alone and have no slope. What the encoder
    reads is scaled down where its root mean square is above 4, so that answers of any size train.
    With the data signal, a matrix of as many rows as a target has features (the last layer of a
    classifier) starts with the token of row k similar to examples of class k.

    Args:
        predictor: What is adapted.
        likelihood: Writes targets and residuals as numbers.
        encoder: Reads the set of tokens.
        x_dim: Numbers of one flattened input.
        signal: What is read of a minibatch: its examples ("data"), the slope of its loss at theta
            ("gradient"), or "both".
        slope: Gives the directions: `Newton`, `WhitenedNewton` for predictors of thousands of
            parameters, or `Gradient`, the paper's. None: `Newton()`, or no slope where the signal
            is "data".
        update: "annealed" (default), "residual" (the paper's) or "gated".
        summary_dim: Size of the running mean of learned features of all examples seen; 0 for none
            (the paper's state). Without the examples in the signal there is none.
        count: Whether tokens and rates read the evidence count; False for the paper's state.
        chunk: Largest number of parameters in one token.

    Raises:
        ValueError: If `signal` or `update` is unknown, a size is out of range, or a slope is given
            or asked for where there is none.
        TypeError: If `encoder` or `likelihood` lacks a member of its role.

    Source:
        Mittal et al. (2025), arXiv 2510.11471, the parametric and explicit regimes. Ours: the
        evidence count, the annealed form, the summary, the damped Newton step and the learned
        rates, the residual in the example's token, and state and gradient in one token.
    """

    def __init__(
        self,
        predictor: Predictor,
        likelihood: Likelihood,
        encoder: SetEncoder,
        *,
        x_dim: int,
        signal: Signal = "both",
        slope: Slope | None = None,
        update: UpdateForm = "annealed",
        summary_dim: int = 32,
        count: bool = True,
        chunk: int = 64,
    ) -> None:
        super().__init__()
        if signal not in ("data", "gradient", "both"):
            raise ValueError(f"`signal` must be one of data, gradient, both; got {signal!r}.")
        check_role(SetEncoder, encoder=encoder)
        check_role(Likelihood, likelihood=likelihood)
        check_sizes(x_dim=x_dim)
        check_sizes(0, summary_dim=summary_dim)
        self.labelled = likelihood.num_features > 0
        if not self.labelled and signal != "data":
            raise ValueError(
                f"`signal` must be data where the examples have no targets; got {signal!r}."
            )
        if signal == "data" and slope is not None:
            kind = type(slope).__name__
            raise ValueError(f"`slope` must be None where `signal` is data; got {kind}.")
        self.num_proposals = num_proposals(update)
        self.update, self.x_dim, self.count = update, x_dim, count
        self.reads_data = signal != "gradient"
        self.summary_dim = summary_dim if self.reads_data else 0
        self._likelihood = (likelihood,)  # which the regime registers, and not a second time here
        self.encoder = encoder
        self.tokens = ParameterTokens(predictor.shapes, chunk=chunk)
        dim, token_dim = encoder.dim, self.tokens.token_dim
        self.token_embedding = nn.Parameter(torch.randn(self.tokens.num_tokens, dim) * dim**-0.5)
        self.slope = Newton() if slope is None and signal != "data" else slope
        initial_rates = () if self.slope is None else self.slope.initial_rates
        state_dim = token_dim * (1 + len(initial_rates))
        state_dim += self.summary_dim + count * NUM_COUNT_FEATURES
        self.embed_state = BilinearEmbedding(dim + state_dim, dim)
        example_dim = x_dim + likelihood.num_features
        if self.reads_data:
            residual_dim = likelihood.num_outputs if self.labelled else 0
            self.embed_example = BilinearEmbedding(example_dim + residual_dim, dim)
        if self.summary_dim:
            self.statistic = BilinearEmbedding(example_dim, self.summary_dim, hidden_dim=dim)
        self.head = zero_linear(dim, token_dim * (self.num_proposals + len(initial_rates)))
        if initial_rates:
            self.rates = nn.Parameter(
                torch.tensor(initial_rates)[:, None].repeat(1, predictor.size)
            )
            if count:
                self.schedule = nn.Linear(NUM_COUNT_FEATURES, len(initial_rates), bias=False)
                nn.init.zeros_(self.schedule.weight)
        if signal == "data" and likelihood.num_features > 1:
            self._look_up_targets(likelihood.num_features)

    @torch.no_grad()
    def _look_up_targets(self, num_features: int) -> None:
        """Starts the token of row k of a matrix as that of an example whose target is k.

        These are matrices of `num_features` rows: the last layer, and a hidden one of that width.

        Encoders whose attention starts as a similarity then look up the examples of class k for the
        weights of class k. From random tokens, training had stayed at chance.
        """
        rows, dim, x_dim = self.tokens.rows(num_features), self.encoder.dim, self.x_dim
        examples = self.embed_example.linear.weight
        examples[:, :x_dim].normal_(std=0.5 * x_dim**-0.5)
        targets = examples[:, x_dim : x_dim + num_features].normal_()
        self.embed_state.linear.weight[:, :dim] = torch.eye(dim)
        rows = rows.to(targets.device)
        self.token_embedding.add_(targets.mT[rows.clamp(min=0)] * (rows >= 0)[:, None])

    def start(self, theta: Theta) -> Memory:
        """The memory of nothing: zeros."""
        zeros = task_zeros(theta)
        summary = zeros.new_zeros(len(zeros), self.summary_dim)
        return Memory(summary, () if self.slope is None else self.slope.start(theta))

    def encode(self, batch: Examples) -> Observations:
        """The minibatch as numbers, and the mean of its learned features.

        Raises:
            ValueError: If there are no targets, or an input has not `x_dim` numbers.
        """
        x = observed_inputs(batch)
        features = observed_features(batch, self._likelihood[0])
        inputs = torch.cat([flat_inputs("x", x, self.x_dim), features], dim=-1)
        if self.summary_dim:
            statistic = masked_mean(self.statistic(inputs), batch.mask)
        else:
            statistic = inputs.new_zeros(len(inputs), 0)
        return Observations(x, inputs, batch.mask, statistic)

    def step(
        self, theta: Theta, carry: Memory, evidence: Evidence, objective: Objective
    ) -> tuple[Theta, Memory]:
        """One refinement; gradients flow to `theta`, to the carry and to the rule's parameters."""
        directions, slope = self._directions(theta, carry, evidence, objective)
        summary = running_mean(carry.summary, evidence.encoded.statistic, evidence)
        tokens = self._state_tokens(ravel(theta), directions, summary, evidence)
        proposal, rates = self._answers(tokens, theta, evidence, objective)
        moved = self._moved(ravel(theta), directions, proposal, rates, evidence)
        return unravel(moved, theta), Memory(summary, slope)

    def _directions(
        self, theta: Theta, carry: Memory, evidence: Evidence, objective: Objective
    ) -> tuple[list[Tensor], Any]:
        if self.slope is None:
            return [], ()
        share = self._share(evidence)
        return self.slope.directions(theta, carry.slope, evidence, objective, share)

    def _state_tokens(
        self, theta: Tensor, directions: list[Tensor], summary: Tensor, evidence: Evidence
    ) -> Float[Tensor, "task token dim"]:
        parts = [self.tokens.split(vector) for vector in (theta, *directions)]
        embedding = self.token_embedding.expand(len(theta), -1, -1)
        shared = [summary]
        if self.count:
            shared.append(evidence.features)
        spread = torch.cat(shared, dim=-1)[:, None].expand(-1, embedding.shape[1], -1)
        tokens: Tensor = self.embed_state(torch.cat([embedding, *parts, spread], dim=-1))
        return tokens

    def _answers(
        self, tokens: Tensor, theta: Theta, evidence: Evidence, objective: Objective
    ) -> tuple[list[Tensor], list[Tensor]]:
        """What the head makes of the tokens of theta, `task p` each: proposals and rates."""
        observed, members = evidence.encoded, [tokens]
        mask = [tokens.new_ones(tokens.shape[:2], dtype=torch.bool)]
        if self.reads_data:
            residual = [objective.residual(theta)] if self.labelled else []
            members.append(self.embed_example(torch.cat([observed.inputs, *residual], dim=-1)))
            mask.append(observed.mask)
        tokens, every = (as_module(t, self.encoder) for t in (tokens, torch.cat(members, dim=1)))
        memory = self.encoder.encode(every, mask=torch.cat(mask, dim=1))
        read = shortened(self.encoder.read(tokens, memory))
        answers = self.head(as_weights(read, self.head.weight))
        parts = [self.tokens.join(part) for part in answers.split(self.tokens.token_dim, dim=-1)]
        return parts[: self.num_proposals], parts[self.num_proposals :]

    def _moved(
        self,
        theta: Tensor,
        directions: list[Tensor],
        proposal: list[Tensor],
        rates: list[Tensor],
        evidence: Evidence,
    ) -> Float[Tensor, "task p"]:
        """The equation of the class."""
        change, *gate = proposal
        if directions:
            share = self._share(evidence)[:, None]
            change = share * change
            for base, rate, direction in zip(
                self._base_rates(evidence), rates, directions, strict=True
            ):
                change = change - (base + share * rate) * direction
            if self.update == "gated":  # it proposes a value of theta, not a change
                change = theta.detach() + change
        return move(self.update, theta, (change, *gate), evidence.gain)

    def _share(self, evidence: Evidence) -> Float[Tensor, " task"]:
        """The gain k in the annealed form, else 1."""
        gain = evidence.gain
        return gain if self.update == "annealed" else torch.ones_like(gain)

    def _base_rates(self, evidence: Evidence) -> Float[Tensor, "direction #task p"]:
        """a_i + s_i(n, b) of each direction."""
        rates = self.rates[:, None]
        if self.count:
            counts = evidence.features
            rates = rates + self.schedule(as_weights(counts, self.rates)).mT[..., None]
        return rates
