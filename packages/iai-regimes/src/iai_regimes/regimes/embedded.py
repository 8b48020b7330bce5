"""Any regime on learned features of its inputs: images, say."""

from typing import Any, NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor, nn

from iai_regimes.check import check_queries, check_role, check_statistics, reading
from iai_regimes.interfaces import Examples, Regime, Theta
from iai_regimes.padding import finite_queries, observed_inputs
from iai_regimes.precision import as_module, at_least_single


class FeatureExamples(NamedTuple):
    """Examples whose inputs are features."""

    x: Float[Tensor, "task n *feature_shape"]
    y: Tensor | None
    mask: Bool[Tensor, "task n"]


class Embedded(nn.Module):
    """A regime on features of the inputs, which all tasks compute with one module.

    The embedding is learned through the support and through the queries; no task adapts it. An
    embedding without trainable parameters, such as a pretrained network after
    `requires_grad_(False)`, stays in evaluation mode.

    Args:
        regime: The regime that reads the features.
        embedding: Maps inputs `n *x_shape` to features `n *feature_shape`, each input by itself.

    Raises:
        TypeError: If `regime` lacks a member of its role, or `embedding` is no `nn.Module`.

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
        check_role(Regime, regime=regime)
        if not isinstance(embedding, nn.Module):
            raise TypeError(f"`embedding` must be an nn.Module; got {type(embedding).__name__}.")
        self.regime, self.embedding, self.needs_query = regime, embedding, regime.needs_query
        self._rest_if_frozen()

    def train(self, mode: bool = True) -> "Embedded":
        """Sets training or evaluation mode; a frozen embedding stays in evaluation mode.

        In training mode, its running statistics would still change.
        """
        super().train(mode)
        self._rest_if_frozen()
        return self

    def init(self, num_tasks: int, query_x: Tensor | None = None) -> Any:
        """The initial state of the wrapped regime."""
        return self.regime.init(num_tasks, self._asked(query_x))

    def encode(self, batch: Examples) -> Any:
        """The wrapped regime's evidence from the minibatch's features.

        Raises:
            ValueError: If the inputs do not fit the embedding, or it gives no features for each
                input, or would update running statistics.
        """
        features = self._features(observed_inputs(batch))
        return self.regime.encode(FeatureExamples(features, batch.y, batch.mask))

    def update(
        self, state: Any, evidence: Any, query_x: Tensor | None = None, fresh: bool = True
    ) -> Any:
        """The state after one minibatch; queries are embedded only if the regime needs them."""
        return self.regime.update(state, evidence, self._asked(query_x), fresh)

    def residual(self, solution: Any, start: Any, item: tuple[Examples, bool]) -> Theta:
        """The residual of the wrapped regime on the features; gradients reach the embedding.

        Raises:
            TypeError: If the wrapped regime has no residual.
        """
        inner: Any = self.regime
        if not hasattr(inner, "residual"):
            raise TypeError(f"The regime must have a `residual`; {type(inner).__name__} has none.")
        batch, fresh = item
        features = FeatureExamples(self._features(observed_inputs(batch)), batch.y, batch.mask)
        residual: Theta = inner.residual(solution, start, (features, fresh))
        return residual

    def predict(
        self, state: Any, query_x: Float[Tensor, "task query *x_shape"]
    ) -> Float[Tensor, "task query num_outputs"]:
        """Raw outputs at the queries; NaN for a query that is not finite."""
        return self.regime.predict(state, self._query_features(query_x))

    def loss(
        self, outputs: Float[Tensor, "task query num_outputs"], query: Examples
    ) -> Float[Tensor, " task"]:
        """The loss of the wrapped regime, one number per task."""
        return self.regime.loss(outputs, query)

    def validate(self, batch: Examples) -> None:
        """Raises ValueError for inputs (rather than features) or targets that must not be read."""
        self.regime.validate(batch)

    def _rest_if_frozen(self) -> None:
        if not any(parameter.requires_grad for parameter in self.embedding.parameters()):
            self.embedding.eval()

    def _asked(self, query_x: Tensor | None) -> Tensor | None:
        if query_x is None or not self.needs_query:
            return None
        return self._query_features(query_x)

    def _query_features(self, query_x: Tensor) -> Tensor:
        check_queries(query_x)  # the regime counts the tasks
        x, finite = finite_queries(query_x)
        features = self._features(x)
        unknown = ~finite.reshape(*finite.shape, *[1] * (features.dim() - 2))
        return features.masked_fill(unknown, float("nan"))

    def _features(self, x: Tensor) -> Tensor:
        why = "which padding would enter; use GroupNorm or LayerNorm, or freeze it."
        check_statistics(self.embedding, "embedding", why)
        inputs = as_module(x.flatten(0, 1), self.embedding)
        with reading("embedding", self.embedding, inputs):
            features: Tensor = self.embedding(inputs)
        num_inputs = x.shape[0] * x.shape[1]
        if features.dim() < 2 or features.shape[0] != num_inputs:
            raise ValueError(
                f"`embedding` must give features for each of {num_inputs} inputs; got the shape "
                f"{tuple(features.shape)}."
            )
        features = features.reshape(*x.shape[:2], *features.shape[1:])
        return at_least_single(features)
