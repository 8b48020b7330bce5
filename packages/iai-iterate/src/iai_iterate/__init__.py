"""Refining any state over minibatches, and how a meta-gradient crosses the steps."""

from iai_iterate.adapted import Adapted
from iai_iterate.interfaces import TracingRegime
from iai_iterate.iterated import Iterated, Refinement
from iai_iterate.linear_solver import LinearSolver, Solve
from iai_iterate.minibatch import minibatches, steps_reading
from iai_iterate.modes.first_order import first_order
from iai_iterate.modes.implicit_function import ImplicitReport
from iai_iterate.modes.implicit_gradient import ImplicitGradient
from iai_iterate.modes.rematerialised import rematerialised
from iai_iterate.modes.reptile import reptile
from iai_iterate.modes.truncated import greedy, truncated, unrolled
from iai_iterate.pool import Pool
from iai_iterate.solvers.conjugate_gradient import ConjugateGradient
from iai_iterate.solvers.neumann import Neumann
from iai_iterate.steady import steady
from iai_iterate.task_matrix import from_matrix, to_matrix

__all__ = [
    "Adapted",
    "ConjugateGradient",
    "ImplicitGradient",
    "ImplicitReport",
    "Iterated",
    "LinearSolver",
    "Neumann",
    "Pool",
    "Refinement",
    "Solve",
    "TracingRegime",
    "first_order",
    "from_matrix",
    "greedy",
    "minibatches",
    "rematerialised",
    "reptile",
    "steady",
    "steps_reading",
    "to_matrix",
    "truncated",
    "unrolled",
]
