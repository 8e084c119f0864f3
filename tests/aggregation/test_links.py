"""Links and their inverses."""

import numpy as np
import pytest

from szpo.errors import UsageError
from szpo.optim.links import link

NAMES = ["logistic", "probit", "cauchit", "cloglog", "linear:7"]
REACH = {"probit": 5 / 6}


@pytest.mark.parametrize("name", NAMES)
def test_a_link_is_fair_at_zero_symmetric_increasing_and_inverted_to_1e_9(name):
    chosen, x, h = link(name), np.linspace(0, 6, 500), 1e-5
    assert float(chosen.prob(0.0)) == 0.5
    assert abs(chosen.prob(-x) - (1 - chosen.prob(x))).max() < 1e-15
    assert (np.diff(chosen.prob(x)) > 0).all()
    slope = (chosen.prob(h) - chosen.prob(-h)) / (2 * h)
    assert float(slope) == pytest.approx(chosen.slope0, rel=1e-8)
    x = 0.9999 * np.stack([x, -x]) * REACH.get(name, 1.0)
    found = chosen.inverse(chosen.prob(x))
    assert found.shape == x.shape and abs(found - x).max() < 1e-9
    if not name.startswith("linear"):
        assert chosen.inverse([0.0, 0.5, 1.0]).tolist() == [-np.inf, 0.0, np.inf]


def test_known_values():
    assert float(link("logistic").prob(np.log(3))) == pytest.approx(0.75, abs=1e-15)
    assert float(link("probit").prob(1.959963984540054)) == pytest.approx(0.975, abs=1e-15)
    assert float(link("cauchit").prob(1.0)) == pytest.approx(0.75, abs=1e-15)
    # ½[1 − 2^(−e) + 2^(−1/e)] from the definition 1 − exp(−eˣ ln 2) at x = 1.
    assert float(link("cloglog").prob(1.0)) == pytest.approx(
        0.5 * (1 - 2**-np.e + 2 ** (-1 / np.e)), abs=1e-15
    )
    assert link("linear:2").prob([-9.0, 1.0, 9.0]).tolist() == [0.0, 0.75, 1.0]


def test_bad_names_are_refused():
    for name, words in (
        ("weibull", "unknown; choose one of logistic"), ("linear:wide", "needs a number"),
        ("linear:-1", "positive width"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            link(name)
