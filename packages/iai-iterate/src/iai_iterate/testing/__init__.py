"""Contract suites for anyone who writes a regime, a gradient mode or a linear solver.

Each is one call in a test, and raises AssertionError with the sentence that does not hold.
"""

from iai_iterate.testing.gradient_mode import check_gradient_mode
from iai_iterate.testing.linear_solver import check_linear_solver
from iai_iterate.testing.regime import check_regime

__all__ = ["check_gradient_mode", "check_linear_solver", "check_regime"]
