"""Tasks that are met while variables are ordered leaf by leaf, to train on."""

from collections.abc import Sequence
from typing import cast

import attrs
import torch
from torch import Tensor

from iai_tasks.causal.leaf_order import without_leaves
from iai_tasks.causal.structural_causal_models import StructuralCausalModels
from iai_tasks.examples import TaskBatch


@attrs.frozen
class LeavesRemoved:
    """Tasks of structural causal models without some of their leaves: see `without_leaves`.

    For each batch, one of the families is drawn, and how many leaves all its tasks lose: a number
    from 0 to the number of variables less 2.

    Attributes:
        families: The models to draw tasks of, each of at least 2 variables.

    Raises:
        ValueError: If there is no family, or one has a single variable.

    >>> from iai_tasks import ErdosRenyi
    >>> sampler = LeavesRemoved([StructuralCausalModels(graphs=ErdosRenyi(1.0), num_nodes=2)])
    >>> generator = torch.Generator().manual_seed(0)
    >>> sampler.sample(3, num_support=5, num_query=1, generator=generator).query.y.shape
    torch.Size([3, 2])
    """

    families: Sequence[StructuralCausalModels] = attrs.field()

    @families.validator
    def _families_are_valid(self, _: object, families: Sequence[StructuralCausalModels]) -> None:
        sizes = [family.num_nodes for family in families]
        if min(sizes, default=0) < 2:
            raise ValueError(
                f"`families` must be models of at least 2 variables; got models of {sizes}."
            )

    def sample(
        self, num_tasks: int, *, num_support: int, num_query: int, generator: torch.Generator
    ) -> TaskBatch:
        """Draws tasks that ask about each variable that is left, once.

        Args:
            num_tasks: Number of tasks.
            num_support: Samples of the variables of a task; may be 0.
            num_query: Not used.
            generator: Source of every random number; the batch lies on its device.

        Returns:
            Tasks as `without_leaves` returns them.
        """
        family = self.families[_below(len(self.families), generator)]
        tasks = family.sample(num_tasks, num_support=num_support, num_query=0, generator=generator)
        graph = family.graph(cast(Tensor, tasks.latent))
        num_removed = _below(family.num_nodes - 1, generator)
        return without_leaves(tasks, graph, num_removed, generator)


def _below(end: int, generator: torch.Generator) -> int:
    """A random number from 0 to `end - 1`."""
    return int(torch.randint(end, (), generator=generator, device=generator.device))
