"""What every rule keeps, on every predictor, signal, update and likelihood."""

import pytest
from iai_regimes import Parametric
from iai_regimes.testing import check_rule
from regime_parts import LIKELIHOODS, REGIMES, build, draw

REAL = ["adam", "parametric-both-annealed", "explicit-data", "paper-parametric-gradient"]
REAL += ["parametric-whitened", "descent"]
RULED = [
    name
    for name, make in REGIMES.items()
    if isinstance(make(LIKELIHOODS["categorical"]()), Parametric)
]
CASES = [
    *((name, "categorical") for name in RULED),
    *((name, likelihood) for name in REAL for likelihood in LIKELIHOODS if "gauss" in likelihood),
]


@pytest.mark.parametrize(("name", "likelihood"), CASES)
def test_role(name, likelihood):
    likelihood = LIKELIHOODS[likelihood]()
    regime = build(name, likelihood)
    check_rule(regime.rule, regime.predictor, likelihood, draw(likelihood, 2, 4))
