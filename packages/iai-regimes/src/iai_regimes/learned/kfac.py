"""Coordinates in which the inputs of linear layers are white and their curvatures equal."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from iai_regimes.interfaces import Theta
from iai_regimes.precision import at_least_single
from iai_regimes.predictor import Predictor

_NEEDS = "Whitening needs linear layers that read one vector for each input; "


class Whitening(nn.Module):
    """Coordinates u with theta = theta_0 + C S u.

    C whitens the inputs of linear layers, S makes the curvatures of the layers equal. A linear
    layer with the adapted matrix W = [weight, bias] reads a = [input, 1]. Its block of the Hessian
    is nearly a Kronecker product of the curvature by its outputs and the second moment A of a, the
    average of a a'. With A = L L' and h the mean curvature by the outputs,

        W = W_0 + h^-1/2 U L^-1,

    which turns that block into the identity, as far as the curvature by the outputs is h I. A bias
    that is not adapted is left out of W and the 1 out of a. All adapted numbers that belong to no
    linear layer form one more block, with L = I and an h of its own.

    Args:
        predictor: What is adapted. Each of its linear layers reads `n in_features`: one vector for
            each input.

    Raises:
        ValueError: If no weight of a linear layer is adapted.

    Source:
        The input factor of K-FAC, Martens and Grosse (2015), arXiv 1503.05671; here the output
        factor is the number h.

    >>> whitening = Whitening(Predictor(nn.Linear(2, 1, bias=False)))
    >>> moments = (torch.diag(torch.tensor([4.0, 1.0]))[None],)  # A of 8 examples, hardly a prior
    >>> roots = whitening.roots(moments, moments, torch.tensor([8.0]), prior_count=1e-9)
    >>> whitening.colour({"weight": torch.ones(1, 1, 2)}, roots)
    {'weight': tensor([[[0.5000, 1.0000]]])}
    """

    block: Tensor  # the index of the block that each number of theta belongs to
    numbers: Tensor  # how many numbers of theta each block has
    signs: Tensor  # +1 or -1 for each number of theta: a probe of the Hessian's trace

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        # The regime registers the predictor; a list keeps it from being registered a second time.
        self._predictor = [predictor]
        self.shapes = shapes = predictor.shapes
        self.layers: dict[str, list[str]] = {}  # the adapted ones of each layer's weight and bias
        for layer, module in predictor.module.named_modules():
            weight, bias = (f"{layer}.{kind}" if layer else kind for kind in ("weight", "bias"))
            if isinstance(module, nn.Linear) and weight in shapes:
                self.layers[layer] = [name for name in (weight, bias) if name in shapes]
        if not self.layers:
            raise ValueError("Whitening needs an adapted weight of an `nn.Linear`; there is none.")
        layer_of = {name: i for i, names in enumerate(self.layers.values()) for name in names}
        blocks = [layer_of.get(name, len(self.layers)) for name in shapes]
        numels = torch.tensor([shape.numel() for shape in shapes.values()])
        block = torch.tensor(blocks).repeat_interleave(numels)
        self.num_blocks = 1 + max(blocks)
        self.register_buffer("block", block, persistent=False)
        numbers = block.bincount(minlength=self.num_blocks).clamp(min=1)
        self.register_buffer("numbers", numbers, persistent=False)
        drawn = torch.randint(2, (predictor.size,), generator=torch.Generator().manual_seed(0))
        self.register_buffer("signs", 2.0 * drawn - 1.0, persistent=False)

    def start(self, theta: Theta) -> tuple[Tensor, ...]:
        """Second moments of no example: zeros, `task columns columns` for each layer."""
        matrices = [torch.cat(_columns(theta, names), dim=2) for names in self.layers.values()]
        return tuple(m.new_zeros(len(m), m.shape[2], m.shape[2]) for m in matrices)

    @torch.no_grad()
    def moments(
        self,
        theta: Theta,
        x: Float[Tensor, "task n *x_shape"],
        mask: Bool[Tensor, "task n"],
    ) -> tuple[Tensor, ...]:
        """A of each layer on a minibatch, `task columns columns`: a mean over observed examples.

        It is a constant, and 0 where there is no example. A layer that is called twice adds up both
        of its inputs.

        Raises:
            ValueError: If a linear layer does not read one vector for each input, or the module
                would update running statistics or change another buffer.
        """
        (predictor,) = self._predictor
        own, x = predictor.in_own_dtypes(theta, x)
        predictor.check_buffers(own, x)  # before a forward has changed them
        moments: tuple[Tensor, ...] = predictor.across_tasks(self._moments, own, x, mask)
        return moments

    @torch.no_grad()
    def roots(
        self,
        moments: tuple[Tensor, ...],
        new: tuple[Tensor, ...],
        seen: Float[Tensor, " task"],
        prior_count: float,
    ) -> tuple[Tensor, ...]:
        """L^-1 of each layer, `task columns columns`, lower triangular; constants.

        A is the mean over `seen` examples and `prior_count` more whose inputs are isotropic, with
        the mean square of all inputs so far.

        Args:
            moments: The layers' A over the examples seen before.
            new: The layers' A over this minibatch, which counts as one example of the mean square.
            seen: Distinct examples in `moments`.
            prior_count: Examples that the isotropic prior is worth.
        """
        behind = seen[:, None, None]
        share = prior_count / (prior_count + behind)
        roots = []
        for moment, recent in zip(moments, new, strict=True):
            pooled = (behind * moment + recent) / (behind + 1)
            square = pooled.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
            identity = torch.eye(moment.shape[-1], dtype=moment.dtype, device=moment.device)
            prior = torch.where(square > 0, square, 1.0) * identity
            factor, failed = torch.linalg.cholesky_ex((1 - share) * moment + share * prior)
            # A task that is not finite must not stop the others; its loss will show it.
            factor = torch.where((failed == 0)[:, None, None], factor, identity)
            roots.append(torch.linalg.solve_triangular(factor, identity, upper=False))
        return tuple(roots)

    def colour(self, white: Theta, roots: tuple[Tensor, ...]) -> Theta:
        """C u, a change of theta: U L^-1 for each layer; gradients flow to u."""
        coloured = dict(white)
        for names, root in zip(self.layers.values(), roots, strict=True):
            parts = _columns(white, names)
            product = torch.cat(parts, dim=2) @ root
            pieces = torch.split(product, [part.shape[2] for part in parts], dim=2)
            coloured |= {
                name: piece.reshape(white[name].shape)
                for name, piece in zip(names, pieces, strict=True)
            }
        return coloured

    def curvatures(
        self,
        product: Callable[[Tensor], Tensor],
        moments: tuple[Tensor, ...],
        roots: tuple[Tensor, ...],
    ) -> Float[Tensor, "task block"]:
        """The h of each layer and of the rest, on a minibatch; 0 where negative or unknown.

        h = tr(C'HC) / (rows tr(L^-1 A L^-T)), both traces over the numbers of a layer; for the rest
        it is the mean of the Hessian's diagonal. One product with a vector of random signs
        estimates all traces of C'HC.

        Args:
            product: C'HC of the minibatch times a vector, `task p` to `task p`.
            moments: The layers' A on the minibatch.
            roots: The layers' L^-1.

        Source:
            Hutchinson (1989), the estimate of a trace.
        """
        num_tasks = len(roots[0])
        signs = self.signs.to(roots[0].dtype).expand(num_tasks, -1)
        diagonal = signs * product(signs)
        means = diagonal.new_zeros(num_tasks, self.num_blocks)
        means = means.index_add(1, self.block, diagonal) / self.numbers
        squares = torch.ones_like(means)  # mean squares of the layers' white inputs
        for i, (moment, root) in enumerate(zip(moments, roots, strict=True)):
            squares[:, i] = ((root @ moment) * root).sum(2).mean(1)
        return torch.where(squares > 0, means / squares, 0.0).clamp(min=0.0)

    def levels(self, curvatures: Float[Tensor, "task block"]) -> Float[Tensor, "task p"]:
        """S, h^-1/2 for each number of theta.

        An h of 0 is unknown and taken to be 1, the curvature of a squared error; so is one that is
        so small that its inverse may not be finite.
        """
        known = curvatures > torch.finfo(curvatures.dtype).tiny ** 0.5
        return torch.where(known, curvatures, 1.0).rsqrt()[:, self.block]

    def _moments(self, adapted: dict[str, Tensor], x: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """The second moments of one task, recorded while its module reads x."""
        module, share = self._predictor[0].module, mask / mask.sum().clamp(min=1)
        moments: dict[str, Tensor] = {}

        def hook(layer: str, with_bias: bool) -> Callable[..., None]:
            def record(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
                (a,) = map(at_least_single, (*args, *kwargs.values()))
                if a.dim() != 2 or len(a) != len(x):
                    raise ValueError(
                        f"{_NEEDS}{layer or 'this one'} reads {tuple(a.shape)} for {len(x)} inputs."
                    )
                if with_bias:
                    a = torch.cat([a, torch.ones_like(a[:, :1])], dim=1)
                shares = share[:, None].to(a.dtype)
                moments[layer] = moments.get(layer, 0.0) + a.mT @ (shares * a)

            return record

        handles = [
            module.get_submodule(layer).register_forward_pre_hook(
                hook(layer, len(names) > 1), with_kwargs=True
            )
            for layer, names in self.layers.items()
        ]
        try:
            self._predictor[0].call(adapted, x)
        finally:
            for handle in handles:
                handle.remove()
        for layer in self.layers:
            if layer not in moments:  # `nn.MultiheadAttention`, say, uses a layer's weight itself
                raise ValueError(f"{_NEEDS}{layer} reads none.")
        return tuple(moments[layer] for layer in self.layers)


def _columns(named: Theta, names: list[str]) -> list[Tensor]:
    """A layer's weight and bias, those that are adapted, as columns `task rows columns`."""
    num_tasks, rows = named[names[0]].shape[:2]
    return [named[name].reshape(num_tasks, rows, -1) for name in names]
