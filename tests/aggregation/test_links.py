"""Every link is a probability that is fair at 0, symmetric, increasing and invertible."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from szpo.aggregation.links import link
from szpo.errors import UsageError

NAMES = ["logistic", "probit", "cauchit", "cloglog", "linear:7"]
REACH = {"probit": 5.0}


@pytest.mark.parametrize("name", NAMES)
def test_inverse_after_prob_is_identity_to_1e_9(name):
    x = np.linspace(-0.9999, 0.9999, 4000).reshape(2, -1) * REACH.get(name, 6.0)
    found = link(name).inverse(link(name).prob(x))
    assert found.shape == x.shape
    assert abs(found - x).max() < 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_fair_at_zero_symmetric_and_increasing(name):
    sigma = link(name).prob
    x = np.linspace(0, 6, 500)
    assert float(sigma(0.0)) == 0.5
    assert abs(sigma(-x) - (1 - sigma(x))).max() < 1e-15
    assert (np.diff(sigma(x)) > 0).all()


@pytest.mark.parametrize("name", [*NAMES, "linear"])
def test_slope_at_zero(name):
    h = 1e-5
    slope = (link(name).prob(h) - link(name).prob(-h)) / (2 * h)
    assert float(slope) == pytest.approx(link(name).slope0, rel=1e-8)


@pytest.mark.parametrize("name", ["logistic", "probit", "cauchit", "cloglog"])
def test_certainty_is_infinite(name):
    assert link(name).inverse([0.0, 0.5, 1.0]).tolist() == [-np.inf, 0.0, np.inf]


@given(st.floats(1e-6, 1 - 1e-6))
def test_prob_after_inverse_is_identity_too(p):
    for name in NAMES:
        assert float(link(name).prob(link(name).inverse(p))) == pytest.approx(p, abs=1e-12)


def test_known_values():
    assert float(link("logistic").prob(np.log(3))) == pytest.approx(0.75, abs=1e-15)
    assert float(link("probit").prob(1.959963984540054)) == pytest.approx(0.975, abs=1e-15)
    assert float(link("cauchit").prob(1.0)) == pytest.approx(0.75, abs=1e-15)
    # ½[1 − 2^(−e) + 2^(−1/e)] from the definition 1 − exp(−eˣ ln 2) at x = 1.
    assert float(link("cloglog").prob(1.0)) == pytest.approx(
        0.5 * (1 - 2**-np.e + 2 ** (-1 / np.e)), abs=1e-15
    )
    assert link("linear:2").prob([-9.0, 1.0, 9.0]).tolist() == [0.0, 0.75, 1.0]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("weibull", "unknown; choose one of logistic"),
        ("linear:wide", "needs a number"),
        ("linear:-1", "positive width"),
    ],
)
def test_bad_names_are_refused(name, words):
    with pytest.raises(UsageError, match=words):
        link(name)
