import jaxtyping
import pytest


@pytest.fixture
def own_errors():
    """Arguments reach the library's own checks, even where the run checks shapes before them."""
    disabled = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", disabled)
