"""Contract suites for anyone who writes a likelihood or a rule: one call in a test.

Each suite asks for results that the role makes equal, and raises AssertionError with the sentence
of the role that does not hold. It works in float64 on a copy, in evaluation mode, on the CPU.
"""

from iai_regimes.testing.likelihood import check_likelihood
from iai_regimes.testing.rule import check_rule

__all__ = ["check_likelihood", "check_rule"]
