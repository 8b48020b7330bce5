"""The learned update of adapted parameters: what it reads, and how what it reads moves them."""

from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from iai_regimes.check import flat_inputs
from iai_regimes.embedding import BilinearEmbedding
from iai_regimes.evidence import (
    NUM_COUNT_FEATURES,
    annealed_gain,
    count_features,
    masked_mean,
    running_mean,
)
from iai_regimes.gradient_feature import GradientFeature, raw
from iai_regimes.interfaces import Examples, Likelihood, Objective, SetEncoder
from iai_regimes.learned.krylov_newton import KrylovNewton
from iai_regimes.learned.parameter_token import ParameterTokens
from iai_regimes.learned.whitened_newton import WhitenedNewton
from iai_regimes.padding import observed_features, observed_inputs
from iai_regimes.predictor import Predictor
from iai_regimes.update_form import UpdateForm, move, num_proposals

Signal = Literal["data", "gradient", "both"]


class Evidence(NamedTuple):
    """What a minibatch says by itself."""

    x: Float[Tensor, "task n *x_shape"]  # as the predictor reads it; zeros where masked
    inputs: Float[Tensor, "task n features"]  # x, flat, then the features of y; zeros where masked
    mask: Bool[Tensor, "task n"]
    statistic: Float[Tensor, "task summary"]  # mean of learned features of the examples


class Memory(NamedTuple):
    """What the rule remembers of all examples seen, beside theta."""

    summary: Float[Tensor, "task summary"]  # running mean of learned features
    curvature: Any  # what the Newton step remembers, a pytree of tensors; nothing without gradients


class LearnedRule(nn.Module):
    """theta moves by what a set encoder reads in a minibatch, in theta and in its gradient.

    The tokens of theta and the tokens of the observations form one set; the tokens of theta are
    then read back from it, and a linear head turns each into the change of its own numbers. A token
    of theta holds its chunk of theta and of the gradient, the running summary and the evidence
    count. With a gradient g, each number also has learned rates along g and along a damped Newton
    step d: delta = correction - rate_1 * g - rate_2 * d. A rate is a constant, which starts at 0
    for g and at 1 for d, plus a schedule of the evidence count, plus what the head reads: training
    starts from damped Newton, not from nothing. With a gradient, in the annealed form, all that the
    head reads has the gain once more: as evidence grows the rule becomes stochastic approximation
    with constant rates, whose mean step is zero where the expected gradient is, and no bias of the
    network adds up over steps.

    Args:
        predictor: What is adapted.
        likelihood: Writes targets and residuals as numbers.
        encoder: Reads the set of tokens.
        x_dim: Numbers of one flattened input.
        signal: "data" (observations [x, y, residual of the current prediction]), "gradient" (of the
            mean loss on the minibatch at theta), or "both". Examples without targets (`Unlabelled`)
            are read as x alone, and have no gradient.
        update: "annealed" (default), "residual" (the paper's) or "gated".
        summary_dim: Size of the running mean of learned features of all examples seen, part of the
            state; 0 for none (the paper's state). A rule that reads the gradient alone has none: it
            sees no example.
        count: Whether the rule reads how many examples the state has seen; False for the paper's
            state.
        curvature: Hessian-vector products that the Newton step is made of; 0 for the gradient alone
            (the paper's signal), which a predictor without second derivatives needs.
        whiten: Whether the Newton step is made in coordinates in which the inputs of the
            predictor's `nn.Linear` layers are white, second moments of all examples seen being kept
            in the state; the step is then the only direction that is read. For predictors of
            thousands of parameters, on which a few products and a gradient do not get far. It needs
            an adapted weight of such a layer, each of which reads one vector for an input; a signal
            with a gradient, which stays a constant; the count; and curvature of at least 1.
        gradient_feature: How the directions enter the tokens; the learned rates multiply them as
            they are.
        differentiate_gradient: Whether outer gradients flow through the gradient; by default it is
            a constant. The curvature always is.
        chunk: Largest number of parameters in one token.

    Raises:
        ValueError: If `signal` or `update` is unknown, a size is out of range, there is curvature
            without a count, or `whiten` is without what it needs.

    Source:
        Mittal et al. (2025), arXiv 2510.11471, the parametric and explicit regimes. Ours: the
        evidence count, the annealed form, the summary, the damped Newton step and the learned
        rates, the residual in the observation's token, and state and gradient in one token.
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
        curvature: int = 4,
        whiten: bool = False,
        gradient_feature: GradientFeature = raw,
        differentiate_gradient: bool = False,
        chunk: int = 64,
    ) -> None:
        super().__init__()
        if signal not in ("data", "gradient", "both"):
            raise ValueError(f"`signal` must be one of data, gradient, both; got {signal!r}.")
        if x_dim < 1:
            raise ValueError(f"`x_dim` must be at least 1; got {x_dim}.")
        for name, size in (("summary_dim", summary_dim), ("curvature", curvature)):
            if size < 0:
                raise ValueError(f"`{name}` must be at least 0; got {size}.")
        self.labelled = likelihood.num_features > 0
        if not self.labelled and signal != "data":
            raise ValueError(
                f"`signal` must be data where the examples have no targets; got {signal!r}."
            )
        if whiten:
            _check_whitened(signal, curvature, count, differentiate_gradient)
        if signal != "data" and curvature and not count:
            raise ValueError(
                "The Newton step reads the evidence count; without it `curvature` must be 0."
            )
        self.num_proposals = num_proposals(update)
        self.signal, self.update, self.x_dim, self.count = signal, update, x_dim, count
        self.reads_data, self.reads_gradient = signal != "gradient", signal != "data"
        self.summary_dim = summary_dim if self.reads_data else 0
        self.gradient_feature = gradient_feature
        self._likelihood = (likelihood,)  # which the regime registers, and not a second time here
        self.encoder = encoder
        self.tokens = ParameterTokens(predictor.shapes, chunk=chunk)
        dim, token_dim = encoder.dim, self.tokens.token_dim
        self.place = nn.Parameter(torch.randn(self.tokens.num_tokens, dim) * dim**-0.5)
        self.slope: KrylovNewton | WhitenedNewton | None = None
        if whiten:
            self.slope = WhitenedNewton(predictor, curvature)
        elif self.reads_gradient:
            self.slope = KrylovNewton(curvature, differentiate=differentiate_gradient)
        start = () if self.slope is None else self.slope.rates
        num_directions = len(start)
        num_features = 1 + num_directions * gradient_feature(torch.zeros(1, 1)).shape[-1]
        state_dim = token_dim * num_features + self.summary_dim + count * NUM_COUNT_FEATURES
        self.embed_state = BilinearEmbedding(dim + state_dim, dim)
        example_dim = x_dim + likelihood.num_features
        if self.reads_data:
            residual_dim = likelihood.num_outputs if self.labelled else 0
            self.embed_example = BilinearEmbedding(example_dim + residual_dim, dim)
        if self.summary_dim:
            self.statistic = BilinearEmbedding(example_dim, self.summary_dim, hidden_dim=dim)
        self.head = nn.Linear(dim, token_dim * (self.num_proposals + num_directions))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        if num_directions:
            self.rates = nn.Parameter(torch.tensor(start)[:, None].repeat(1, predictor.size))
            if count:
                self.schedule = nn.Linear(NUM_COUNT_FEATURES, num_directions, bias=False)
                nn.init.zeros_(self.schedule.weight)

    def start(self, theta: Float[Tensor, "task p"]) -> Memory:
        """The memory of nothing: zeros."""
        summary = theta.new_zeros(theta.shape[0], self.summary_dim)
        return Memory(summary, () if self.slope is None else self.slope.start(theta))

    def encode(self, batch: Examples) -> Evidence:
        """The minibatch as numbers, and the mean of its learned features.

        Raises:
            ValueError: If there are no targets, or an input has not `x_dim` numbers.
        """
        observed = observed_inputs(batch)
        x = flat_inputs("x", observed, self.x_dim)
        inputs = torch.cat([x, observed_features(batch, self._likelihood[0])], dim=-1)
        if self.summary_dim:
            statistic = masked_mean(self.statistic(inputs), batch.mask)
        else:
            statistic = inputs.new_zeros(inputs.shape[0], 0)
        return Evidence(observed, inputs, batch.mask, statistic)

    def step(
        self,
        theta: Float[Tensor, "task p"],
        carry: Memory,
        evidence: Evidence,
        objective: Objective,
        seen: Float[Tensor, " task"],
        fresh: bool,
    ) -> tuple[Float[Tensor, "task p"], Memory]:
        """One refinement; gradients flow to `theta`, to the carry and to the rule's parameters."""
        count = evidence.mask.sum(1).to(theta.dtype)
        summary = running_mean(carry.summary, evidence.statistic, seen, count, fresh)
        curvature, directions = carry.curvature, []
        if self.slope is not None:
            directions, curvature = self.slope.step(
                objective, theta, curvature, evidence.x, evidence.mask, seen, fresh
            )
        state_tokens = self._state_tokens(theta, directions, summary, seen, count)
        tokens, mask = [state_tokens], [evidence.mask.new_ones(state_tokens.shape[:2])]
        if self.reads_data:
            read = [evidence.inputs]
            if self.labelled:
                read.append(objective.residual(theta))
            tokens.append(self.embed_example(torch.cat(read, dim=-1)))
            mask.append(evidence.mask)
        memory = self.encoder.encode(torch.cat(tokens, dim=1), mask=torch.cat(mask, dim=1))
        answers = self.head(self.encoder.read(state_tokens, memory))
        parts = [self.tokens.join(part) for part in answers.split(self.tokens.token_dim, dim=-1)]
        proposal, rates = parts[: self.num_proposals], parts[self.num_proposals :]
        gain = annealed_gain(seen, count)
        if directions:
            share = gain[:, None] if self.update == "annealed" else 1.0
            proposal[0] = share * proposal[0]
            if self.update == "gated":  # a value, which starts where the other forms' steps lead
                proposal[0] = theta.detach() + proposal[0]
            for base, rate, direction in zip(
                self._rates(seen, count), rates, directions, strict=True
            ):
                proposal[0] = proposal[0] - (base + share * rate) * direction
        return move(self.update, theta, tuple(proposal), gain), Memory(summary, curvature)

    def _rates(self, seen: Tensor, count: Tensor) -> tuple[Tensor, ...]:
        rates = self.rates[:, None]
        if self.count:
            rates = rates + self.schedule(count_features(seen, count)).mT[..., None]
        return rates.unbind(0)

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


def _check_whitened(signal: Signal, curvature: int, count: bool, differentiate: bool) -> None:
    if signal == "data":
        raise ValueError("`signal` must be gradient or both with `whiten`; got 'data'.")
    if curvature < 1:
        raise ValueError(f"`curvature` must be at least 1 with `whiten`; got {curvature}.")
    if not count:
        raise ValueError("`count` must be True with `whiten`; got False.")
    if differentiate:  # the step is made of the gradient's parts, which are constants
        raise ValueError("`differentiate_gradient` must be False with `whiten`; got True.")
