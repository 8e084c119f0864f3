"""Predicted changes of the guards: exact where the world is linear, honest where it is noisy."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from szpo.errors import UsageError
from szpo.optim import kl_limits
from szpo.optim.kl_limits import (
    LEAST_KL_PREDICTED,
    SHARE_PARTS,
    Moments,
    gather_moments,
    hold,
    predict_changes,
    shrink_for_guards,
)
from szpo.types import Floats

D = 5


def world(
    seed: int, answers: int, *, noise: float = 1.0, bend: float = 0.0
) -> tuple[Moments, Floats, Floats]:
    """Answers with normal scores; figures are linear in them, with a common curvature and noise.

    Returns the moments, the slopes (D, 3) and the curvatures (3,).
    """
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(answers, D))
    slopes = rng.normal(size=(D, 3)) * [0.1, 1.0, 2.0]
    curvature = bend * np.array([-0.05, 0.3, -1.0])
    levels = rng.normal(size=(answers // 2, 3)).repeat(2, 0)  # of the prompts
    f = u @ slopes + 0.5 * (u**2).sum(1, keepdims=True) * curvature + [-2.0, 20.0, 20.0] + levels
    f += noise * rng.normal(size=(answers, 3)) * [0.3, 4.0, 8.0]
    return gather_moments(u, f, np.arange(answers) // 2), slopes, curvature


def test_one_coordinate_by_hand():
    """Scores ±1 have cov 1. Log-probability −2 + .3u, length 20 + 2u, margin 10 − 3u: at z = .5
    they change by .15 nats, 1/20 and −1.5/10.
    """
    u = np.array([[1.0], [-1.0]] * 8)
    f = np.hstack([-2 + 0.3 * u, 20 + 2 * u, 10 - 3 * u])
    found = predict_changes(gather_moments(u, f, [0] * 16), np.array([0.5]))
    assert found == pytest.approx([0.15, 0.05, -0.15]) and hold(found).all()
    # The margin falls to .75 of the start's at z = .8333; 213/256 of z = 1 is .83203.
    assert shrink_for_guards(gather_moments(u, f, [0] * 16), np.array([1.0])) == 213 / 256


def test_without_noise_slope_and_curvature_are_found_through_the_levels_of_prompts():
    moments, slopes, curvature = world(1, 600, noise=0.0, bend=1.0)
    z = np.array([1.0, -0.5, 0.25, 2.0, 0.0])
    shift = moments.scores @ z
    wanted = shift @ slopes + 0.5 * shift @ shift * curvature
    wanted[1:] /= moments.levels[1:]
    assert predict_changes(moments, z) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.full
@given(st.integers(0, 40), st.floats(0.1, 6.0))
def test_the_shrink_is_the_largest_that_holds(seed, size):
    moments, _, _ = world(seed, 120, bend=1.0)
    z = np.random.default_rng(seed).normal(size=D)
    z *= size / np.linalg.norm(z)
    share = shrink_for_guards(moments, z)
    assert 0 <= share <= 1 and (share * SHARE_PARTS).is_integer()
    if share:
        assert hold(predict_changes(moments, share * z)).all()
    for worse in np.arange(share * SHARE_PARTS + 1, SHARE_PARTS + 1) / SHARE_PARTS:
        if 0.5 * (worse * size) ** 2 >= LEAST_KL_PREDICTED:
            assert not hold(predict_changes(moments, worse * z)).all()
    both = shrink_for_guards(moments, np.stack([z, 0.25 * z]))
    assert both.tolist() == [share, float(shrink_for_guards(moments, 0.25 * z))]


def test_no_shrink_mends_a_move_that_breaks_a_guard_at_once(monkeypatch):
    """Fluency falls by 4 nats per unit: at |z| = .632 (.2 nats) by 2.5, and .5 is allowed."""
    u = np.random.default_rng(0).normal(size=(64, 1))
    f = np.hstack([-2 - 4 * u, 20 + 0 * u, 10 + 0 * u])
    moments = gather_moments(u, f, [0] * 64)
    assert shrink_for_guards(moments, np.array([3.0])) == 0.0
    assert shrink_for_guards(moments, np.array([-3.0])) == 1.0  # the other way it rises
    assert shrink_for_guards(moments, np.array([0.0])) == 1.0
    monkeypatch.setitem(kl_limits.LIMITS, "logprob", (-1e9, np.inf))
    assert shrink_for_guards(moments, np.array([3.0])) == 1.0


def test_a_figure_that_was_not_measured_is_left_out():
    rng = np.random.default_rng(0)
    figures = np.column_stack([rng.normal(size=(40, 2)) + 20, np.full(40, np.nan)])
    moments = gather_moments(rng.normal(size=(40, D)), figures, np.arange(40))
    text = json.dumps(moments.to_json(), allow_nan=False)
    for each in (moments, Moments.from_json(json.loads(text), D)):
        assert np.isfinite(predict_changes(each, np.ones(D))).tolist() == [True, True, False]
        assert shrink_for_guards(each, 0.1 * np.ones(D)) == 1.0
    below = replace(moments, levels=np.array([-2.0, 20.0, -1.0]))  # no share of a negative level
    assert np.isfinite(predict_changes(below, np.ones(D))).tolist() == [True, True, False]


def test_too_few_answers_are_refused_with_the_number_it_takes():
    with pytest.raises(UsageError, match=r"from 7 answers to 1 prompts in 5 .* at least 8"):
        gather_moments(np.zeros((7, D)), np.zeros((7, 3)), [0] * 7)


def test_many_coordinates_one_by_one_from_few_answers():
    """100 whitened coordinates, 256 answers: as a set-up of named features has them."""
    d, off = 100, np.zeros((2, 3))
    for seed in range(24):
        rng = np.random.default_rng(seed)
        u, slopes = rng.normal(size=(256, d)), 0.1 * rng.normal(size=(d, 3))
        f = u @ slopes + [-2.0, 200.0, 200.0] + 6 * rng.normal(size=(256, 3))
        z = rng.normal(size=d)
        z *= 2 / np.linalg.norm(z)
        prompts = (np.arange(256) // 4).tolist()
        apart = gather_moments(u, f, prompts, apart=True)
        for i, moments in enumerate((apart, gather_moments(u, f, prompts))):
            found = predict_changes(moments, z)
            truth = z @ slopes / [1.0, moments.levels[1], moments.levels[2]]
            off[i] += np.abs(found - truth)
    assert (off[0] < 0.95 * off[1]).all()  # all at once, 91 degrees of freedom are left
    body = json.loads(json.dumps(apart.to_json()))
    assert len(body["scores"]) + len(body["gram"]) == 2 * d + 1
    again = Moments.from_json(body, d)
    assert again.to_json() == apart.to_json()
    for broken in ({**body, "gram": body["gram"][1:]}, {**body, "scores": 1.0}):
        with pytest.raises(UsageError):
            Moments.from_json(broken, d)
