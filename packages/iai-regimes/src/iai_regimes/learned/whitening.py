"""Coordinates of the weights of linear layers in which the layers' inputs are white."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call

from iai_regimes.predictor import Predictor


class Whitening(nn.Module):
    """Second moments of the inputs of a predictor's linear layers, and what makes them white.

    The curvature of a loss by the weights W of a linear layer is, nearly, a Kronecker product of
    the second moment A of the layer's inputs and of the curvature by its outputs. In coordinates u
    with W = W_0 + u L^-1, where A = L L', the first factor is the identity.

    Adapted weights of `nn.Linear` layers, with adapted biases as weights of a constant input, have
    such coordinates; every other adapted number keeps its own, and all of those are one block.

    Args:
        predictor: What is adapted. Each of its linear layers reads `n in_features`: one vector for
            each input.

    Raises:
        ValueError: If no adapted weight is that of a linear layer.

    Source:
        The input factor of K-FAC, Martens and Grosse (2015), arXiv 1503.05671.

    >>> whitening = Whitening(Predictor(nn.Linear(2, 1, bias=False)))
    >>> roots = whitening.roots(  # A = diag(4, 1) over 8 examples, and no prior to speak of
    ...     (torch.diag(torch.tensor([4.0, 1.0]))[None],),
    ...     (torch.eye(2)[None],), torch.tensor([8.0]), prior_count=1e-9
    ... )
    >>> whitening.colour(torch.tensor([[1.0, 1.0]]), roots)
    tensor([[0.5000, 1.0000]])
    """

    order: Tensor  # where the numbers of each layer, row after row, and then the rest, lie in theta
    place: Tensor  # the inverse: where each number of theta lies in that order
    block: Tensor  # the layer of each number of theta
    signs: Tensor  # a probe of the curvature

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        # The regime registers the predictor; a list keeps it from being registered a second time.
        self._predictor = [predictor]
        offsets, offset = {}, 0
        for name, shape in predictor.shapes.items():
            offsets[name] = offset
            offset += shape.numel()
        self.layers: dict[str, tuple[int, int]] = {}  # rows and columns, a bias being a column
        order = []
        for name, layer in predictor.module.named_modules():
            weight, bias = (f"{name}.{own}" if name else own for own in ("weight", "bias"))
            if not isinstance(layer, nn.Linear) or weight not in offsets:
                continue
            rows, columns = layer.weight.shape
            index = offsets[weight] + torch.arange(rows * columns).reshape(rows, columns)
            if bias in offsets:
                index = torch.cat([index, offsets[bias] + torch.arange(rows)[:, None]], dim=1)
            self.layers[name] = (rows, index.shape[1])
            order.append(index.flatten())
        if not order:
            raise ValueError("Whitening needs an adapted weight of an `nn.Linear`; there is none.")
        of_layers = torch.cat(order)
        others = torch.ones(predictor.size, dtype=torch.bool).index_fill(0, of_layers, False)
        lengths = [len(own) for own in order]
        if others.any():
            order.append(others.nonzero()[:, 0])
            lengths.append(len(order[-1]))
        self.num_blocks = len(lengths)
        self.register_buffer("order", torch.cat(order), persistent=False)
        self.register_buffer("place", self.order.argsort(), persistent=False)
        block = torch.arange(self.num_blocks).repeat_interleave(torch.tensor(lengths))
        self.register_buffer("block", block[self.place], persistent=False)
        drawn = torch.randint(2, (predictor.size,), generator=torch.Generator().manual_seed(0))
        self.register_buffer("signs", 2.0 * drawn - 1.0, persistent=False)

    def start(self, theta: Float[Tensor, "task p"]) -> tuple[Tensor, ...]:
        """Second moments of no example: zeros, `task columns columns` for each layer."""
        columns = (columns for _, columns in self.layers.values())
        return tuple(theta.new_zeros(theta.shape[0], size, size) for size in columns)

    @torch.no_grad()
    def moments(
        self,
        theta: Float[Tensor, "task p"],
        x: Float[Tensor, "task n *x_shape"],
        mask: Bool[Tensor, "task n"],
    ) -> tuple[Tensor, ...]:
        """Second moments of each layer's inputs in a minibatch, `task columns columns`; constants.

        They are means over the observed examples, a constant 1 being the input of a bias; 0 where
        there is no example.

        Raises:
            ValueError: If a linear layer does not read one vector for each input, or the module
                would update running statistics or change another buffer.
        """
        (predictor,) = self._predictor
        predictor._check_buffers(theta, x)  # before a forward has changed them
        with torch.autocast(theta.device.type, enabled=False):
            found: tuple[Tensor, ...] = predictor.across_tasks(self._moments, theta, x, mask)
        return found

    @torch.no_grad()
    def roots(
        self,
        moments: tuple[Tensor, ...],
        new: tuple[Tensor, ...],
        seen: Float[Tensor, " task"],
        prior_count: float,
    ) -> tuple[Tensor, ...]:
        """L^-1 for each layer, `task columns columns`; constants.

        Args:
            moments: Means over the examples seen so far.
            new: Means over the minibatch at hand, which help to tell the scale of the prior.
            seen: Distinct examples in `moments`.
            prior_count: How many examples an isotropic prior, of the inputs' mean square, is worth.
        """
        behind = seen[:, None, None]
        share = prior_count / (prior_count + behind)
        roots = []
        with torch.autocast(seen.device.type, enabled=False):
            for moment, own in zip(moments, new, strict=True):
                pooled = (behind * moment + own) / (behind + 1)
                square = pooled.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
                identity = torch.eye(moment.shape[-1], dtype=moment.dtype, device=moment.device)
                prior = torch.where(square > 0, square, 1.0) * identity
                factor, failed = torch.linalg.cholesky_ex((1 - share) * moment + share * prior)
                # What is not finite is reported by the loss; here it must not stop the other tasks.
                factor = torch.where((failed == 0)[:, None, None], factor, identity)
                roots.append(torch.linalg.solve_triangular(factor, identity, upper=False))
        return tuple(roots)

    def colour(
        self, white: Float[Tensor, "task p"], roots: tuple[Tensor, ...]
    ) -> Float[Tensor, "task p"]:
        """A step in white coordinates as one of theta: u L^-1; gradients flow to `white`."""
        lengths = [rows * columns for rows, columns in self.layers.values()]
        lengths.append(white.shape[1] - sum(lengths))
        *pieces, rest = torch.split(white[:, self.order], lengths, dim=1)
        coloured = [
            (piece.reshape(len(white), *shape) @ root).flatten(1)
            for piece, shape, root in zip(pieces, self.layers.values(), roots, strict=True)
        ]
        return torch.cat([*coloured, rest], dim=1)[:, self.place]

    def sizes(
        self,
        product: Callable[[Tensor], Tensor],
        new: tuple[Tensor, ...],
        roots: tuple[Tensor, ...],
    ) -> Float[Tensor, "task block"]:
        """Mean curvature by the outputs of each layer, and by the numbers of none; at least 0.

        The trace of the Hessian over that of the inputs' second moment, both in white coordinates.
        One product with random signs estimates the traces of all blocks.

        Args:
            product: The minibatch's Hessian in white coordinates times a vector.
            new: Second moments in the minibatch.
            roots: What makes the coordinates white.
        """
        num_tasks = new[0].shape[0]
        signs = self.signs.expand(num_tasks, -1)
        diagonal = signs * product(signs)
        blocks = diagonal.new_zeros(num_tasks, self.num_blocks)
        traces = blocks.index_add(1, self.block, diagonal)
        inputs = blocks + self.block.bincount(minlength=self.num_blocks)
        for i, (own, root, (rows, _)) in enumerate(
            zip(new, roots, self.layers.values(), strict=True)
        ):
            inputs[:, i] = rows * ((root @ own) * root).sum((1, 2))
        known = inputs > 0
        return torch.where(known, traces / torch.where(known, inputs, 1.0), 0.0).clamp(min=0.0)

    def scale(self, sizes: Float[Tensor, "task block"]) -> Float[Tensor, "task p"]:
        """For each number what makes the mean curvature of its block 1.

        Where nothing is known of that yet, or the probe found none, it is taken to be 1: steps are
        then as of a loss with the curvature of a squared error.
        """
        return torch.where(sizes > 0, sizes, 1.0).rsqrt()[:, self.block]

    def _moments(self, adapted: dict[str, Tensor], x: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        module = self._predictor[0].module
        found: dict[str, Tensor] = {}
        share = (mask / mask.sum().clamp(min=1)).to(x.dtype)[:, None]

        def hook(name: str, columns: int) -> Callable[..., None]:
            def record(
                layer: nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor]
            ) -> None:
                (a,) = (*args, *named.values())
                if a.dim() != 2 or a.shape[0] != x.shape[0]:
                    raise ValueError(
                        "Whitening needs linear layers that read one vector for each input; "
                        f"{name or 'this one'} reads {tuple(a.shape)} for {x.shape[0]} inputs."
                    )
                if columns > a.shape[1]:
                    a = torch.cat([a, torch.ones_like(a[:, :1])], dim=1)
                moment = a.mT @ (share * a)  # a layer that is used twice reads twice
                found[name] = found[name] + moment if name in found else moment

            return record

        handles = [
            module.get_submodule(name).register_forward_pre_hook(
                hook(name, columns), with_kwargs=True
            )
            for name, (_, columns) in self.layers.items()
        ]
        try:
            functional_call(module, adapted, (x,))
        finally:
            for handle in handles:
                handle.remove()
        idle = next((name for name in self.layers if name not in found), None)
        if idle is not None:
            # It is not called; `nn.MultiheadAttention` reads the weight of its layer by itself.
            raise ValueError(
                "Whitening needs linear layers that read one vector for each input; "
                f"{idle} reads none."
            )
        return tuple(found[name] for name in self.layers)
