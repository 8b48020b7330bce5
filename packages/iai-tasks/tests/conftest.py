"""What the tests of this package share."""

import jaxtyping
import pytest


@pytest.fixture
def untyped():
    """Without the run-time check of types, which in the tests alone comes before our own errors."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
