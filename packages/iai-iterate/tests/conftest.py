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


@pytest.fixture(params=["slope", "named", "kernel"])
def regime(request):
    """States that answer any query, one with a dict in it, and one that answers given queries."""
    from slopes import Kernel, NamedSlope, Slope

    return {"slope": Slope, "named": NamedSlope, "kernel": Kernel}[request.param]().double()
