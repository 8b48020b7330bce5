"""What the tests of this package share."""

import sys
from pathlib import Path

import jaxtyping
import pytest

# The tests import what they share, whichever way pytest imports them.
sys.path.append(str(Path(__file__).parent))


@pytest.fixture
def own_errors():
    """Arguments reach the library's own checks, even where the run checks shapes before them."""
    disabled = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", disabled)
