"""Refining any state over minibatches, and how a meta-gradient crosses the steps."""

from iai_iterate.adapted import Adapted
from iai_iterate.greedy import greedy
from iai_iterate.iterated import Iterated, Refinement
from iai_iterate.minibatch import minibatches
from iai_iterate.pool import Pool
from iai_iterate.truncated import truncated
from iai_iterate.unrolled import unrolled

__all__ = [
    "Adapted",
    "Iterated",
    "Pool",
    "Refinement",
    "greedy",
    "minibatches",
    "truncated",
    "unrolled",
]
