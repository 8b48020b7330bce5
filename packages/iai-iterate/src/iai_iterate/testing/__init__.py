"""Contract suites for anyone who writes a regime or a gradient mode: one call in a test.

Each suite raises AssertionError with the sentence of the contract that does not hold.
"""

from iai_iterate.testing.gradient_mode import check_gradient_mode
from iai_iterate.testing.regime import check_regime

__all__ = ["check_gradient_mode", "check_regime"]
