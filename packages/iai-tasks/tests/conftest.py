"""What the tests of this package share."""

import sys
from pathlib import Path

import jaxtyping
import pytest

# The tests import what they share, whichever way pytest imports them.
sys.path.append(str(Path(__file__).parent))


@pytest.fixture
def untyped():
    """Without the run-time check of types, which in the tests alone comes before our own errors."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
