"""Votes of the worlds' panels follow their links."""

import numpy as np
import pytest

from szpo.errors import UsageError
from szpo_simulators.worlds import oracle
from szpo_simulators.worlds.oracle import LinkPanel

NAMES = ["logistic", "probit", "cauchit", "cloglog", "linear:4"]


@pytest.mark.parametrize("name", NAMES)
def test_vote_frequencies_are_those_of_the_link(name):
    """P(plus) by hand at five differences; 4 voters × 50,000 comparisons, 3.5 standard errors."""
    from math import atan, erf, exp, log, pi, sqrt

    by_hand = {
        "logistic": lambda x: 1 / (1 + exp(-x)),
        "probit": lambda x: (1 + erf(x / sqrt(2))) / 2,
        "cauchit": lambda x: 0.5 + atan(x) / pi,
        "cloglog": lambda x: (1 - exp(-exp(x) * log(2)) + exp(-exp(-x) * log(2))) / 2,
        "linear:4": lambda x: min(max(0.5 + x / 8, 0), 1),
    }[name]
    gaps = np.array([-3.0, -0.8, 0.0, 0.5, 2.0])
    coins = oracle.coins(range(5), 7, (50_000, 4))[0]
    chance = np.broadcast_to(LinkPanel(name, beta=0.7).chance(gaps)[:, None], (5, 50_000))
    share = oracle.votes(chance, coins).mean(1) / 4
    for gap, found in zip(gaps, share, strict=True):
        p = by_hand(0.7 * gap)
        assert abs(found - p) <= 3.5 * np.sqrt(p * (1 - p) / 200_000)


def test_coins_of_a_step_are_the_same_in_any_chunk():
    chunk = oracle.coins([1, 2], 10, (3, 5), steps=4)
    np.testing.assert_array_equal(chunk[2], oracle.coins([1, 2], 12, (3, 5))[0])
    np.testing.assert_array_equal(chunk[2, 1], oracle.coins([2], 12, (3, 5))[0, 0])


def test_one_voter_and_many_are_counted_the_same_way():
    chance = np.full((2, 6), 0.5)
    coins = oracle.coins([1, 2], 0, (6, 1))[0]
    assert np.array_equal(oracle.votes(chance, coins), (coins < 0.5).sum(-1))


def test_a_link_that_does_not_exist_is_refused():
    with pytest.raises(UsageError, match="unknown"):
        LinkPanel("weibull")
