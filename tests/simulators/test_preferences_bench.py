"""What few recorded votes foretell of others."""

import numpy as np
from scipy import special

from szpo_simulators.bench import preferences
from szpo_simulators.bench.preferences import Judged

PAIRS, K = 1200, 6


def make_votes(weight, seed=0, each=1):
    """Votes about feature 2, whose logit is ``weight`` times its difference in spreads."""
    rng = np.random.default_rng(seed)
    x = np.sqrt(2) * rng.normal(size=(PAIRS, K)).repeat(each, axis=0)
    won = rng.random(len(x)) < special.expit(weight * x[:, 2])
    signed = np.where(won, 1.0, -1.0)[:, None] * x
    return Judged(signed, None, np.arange(K), 0, np.arange(PAIRS).repeat(each))


def gain(judged, fit, votes, splits=8):
    return preferences.score_fit(judged, {"fit": fit, "votes": votes, "splits": splits})["gained"]


def test_a_taste_for_one_feature_is_foretold_best_by_the_sparse_fit():
    """Of votes with logit t = 2x, log 2 − E[entropy] = .304 nats are to be had (quadrature)."""
    t = 2 * np.sqrt(2) * np.linspace(-8, 8, 4001)
    law = np.exp(-(np.linspace(-8, 8, 4001) ** 2) / 2)
    p = special.expit(t)
    best = np.log(2) - (law / law.sum()) @ (special.entr(p) + special.entr(1 - p))
    found = {fit: np.mean(gain(make_votes(2.0), fit, 60)) for fit in ("sparse", "ridge", "length")}
    assert 0.85 * best < found["sparse"] < best + 0.03
    assert found["sparse"] > found["ridge"] + 0.02 > 0.1
    assert abs(found["length"]) < 0.02


def test_thrown_votes_foretell_nothing_and_cost_little():
    for fit in ("sparse", "ridge"):
        assert -0.05 < np.mean(gain(make_votes(0.0), fit, 120)) < 0.01


def test_each_pair_of_answers_counts_once_and_none_is_both_fitted_and_left_out(monkeypatch):
    judged, met = make_votes(1.0, each=3), []

    def look(_judged, _fit, seen, asked):
        met.append(np.abs(np.concatenate([seen, asked])))
        return np.full(len(asked), 0.5)

    monkeypatch.setattr(preferences, "foretell", look)
    assert gain(judged, "ridge", 240, splits=2) == [0.0, 0.0]
    for rows in met:
        assert len(np.unique(rows, axis=0)) == len(rows) == 240 + preferences.LEFT_OUT
    assert not np.array_equal(*met)
