"""Any regime on the features of its inputs: an image as an encoder of sets can read it."""

from typing import Any, NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor, nn

from iai_regimes.interfaces import Examples, Regime, SolvedRegime
from iai_regimes.padding import finite_queries, observed_inputs


class FeatureExamples(NamedTuple):
    """Examples whose inputs are features."""

    x: Float[Tensor, "task n *feature_shape"]
    y: Tensor | None
    mask: Bool[Tensor, "task n"]


class Embedded(nn.Module):
    """A regime that reads features of the inputs, given by one module that all tasks share.

    The embedding is learned with everything else: gradients reach it through the support and
    through the queries, and no task adapts it. One without a parameter to train, a pretrained
    network after `requires_grad_(False)`, say, is a constant, and stays in evaluation mode.

    Args:
        regime: Refines a state by features.
        embedding: Maps inputs `n *x_shape` to features `n *feature_shape`, each input by itself.

    Source:
        The representation network under ANIL (Raghu et al. (2020), arXiv 1909.09157) and neural
        processes on images; here around any regime.

    >>> import torch
    >>> from iai_regimes import Adam, Gaussian, Parametric, Predictor
    >>> inner = Parametric(Predictor(nn.Linear(4, 1)), Gaussian(1, scale=1.0), Adam(0.1))
    >>> regime = Embedded(inner, nn.Flatten())
    >>> regime.predict(regime.init(2), torch.zeros(2, 5, 2, 2)).shape  # images of 2 x 2
    torch.Size([2, 5, 1])
    """

    def __init__(self, regime: Regime, embedding: nn.Module) -> None:
        super().__init__()
        self.regime, self.embedding = regime, embedding
        self._rest_if_frozen()

    def train(self, mode: bool = True) -> "Embedded":
        """Training or evaluation mode; an embedding without a parameter to train keeps the latter.

        Running statistics of a frozen network would else go on moving.
        """
        super().train(mode)
        self._rest_if_frozen()
        return self

    @property
    def needs_query(self) -> bool:
        """As the regime inside."""
        return self.regime.needs_query

    def init(self, num_tasks: int, query_x: Tensor | None = None) -> Any:
        """The start of the regime inside."""
        return self.regime.init(num_tasks, self._queries(query_x))

    def encode(self, batch: Examples) -> Any:
        """The evidence of the minibatch's features, which are computed here, once.

        Raises:
            ValueError: If the embedding does not give features an input, or would update running
                statistics.
        """
        return self.regime.encode(self._examples(batch))

    def update(
        self, state: Any, evidence: Any, query_x: Tensor | None = None, fresh: bool = True
    ) -> Any:
        """The state after one minibatch; queries are embedded only where the regime needs them."""
        return self.regime.update(state, evidence, self._queries(query_x), fresh)

    def residual(self, solution: Any, start: Any, item: tuple[Examples, bool]) -> Any:
        """How far the regime inside has still to go on a minibatch; gradients reach the embedding.

        Raises:
            ValueError: If the regime inside has no residual.
        """
        if not isinstance(self.regime, SolvedRegime):
            raise ValueError(
                f"The regime must have a `residual`; {type(self.regime).__name__} has none."
            )
        batch, fresh = item
        return self.regime.residual(solution, start, (self._examples(batch), fresh))

    def predict(
        self, state: Any, query_x: Float[Tensor, "task query *x_shape"]
    ) -> Float[Tensor, "task query num_outputs"]:
        """Raw outputs at the queries; NaN for a query that is not finite."""
        return self.regime.predict(state, self._query_features(query_x))

    def loss(
        self, outputs: Float[Tensor, "task query num_outputs"], query: Examples
    ) -> Float[Tensor, " task"]:
        """One number a task, that of the regime inside."""
        return self.regime.loss(outputs, query)

    def validate(self, batch: Examples) -> None:
        """Raises ValueError for examples, as given and not as features, that must not be read."""
        self.regime.validate(batch)

    def _rest_if_frozen(self) -> None:
        if not any(parameter.requires_grad for parameter in self.embedding.parameters()):
            self.embedding.eval()

    def _examples(self, batch: Examples) -> FeatureExamples:
        return FeatureExamples(self._features(observed_inputs(batch)), batch.y, batch.mask)

    def _queries(self, query_x: Tensor | None) -> Tensor | None:
        if query_x is None or not self.regime.needs_query:
            return None
        return self._query_features(query_x)

    def _query_features(self, query_x: Tensor) -> Tensor:
        x, finite = finite_queries(query_x)
        features = self._features(x)
        unknown = ~finite.reshape(*finite.shape, *[1] * (features.dim() - 2))
        return features.masked_fill(unknown, float("nan"))

    def _features(self, x: Tensor) -> Tensor:
        for name, layer in self.embedding.named_modules():
            if layer.training and getattr(layer, "running_mean", None) is not None:
                raise ValueError(
                    f"The embedding keeps running statistics ({name or type(layer).__name__}), "
                    "which padding would enter; use GroupNorm or LayerNorm, or freeze it."
                )
        features: Tensor = self.embedding(x.flatten(0, 1))
        num_inputs = x.shape[0] * x.shape[1]
        if features.dim() < 2 or features.shape[0] != num_inputs:
            raise ValueError(
                f"`embedding` must give features for each of {num_inputs} inputs; got the shape "
                f"{tuple(features.shape)}."
            )
        return features.reshape(*x.shape[:2], *features.shape[1:]).to(x.dtype)
