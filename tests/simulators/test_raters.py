"""Simulated raters: exact laws at worked-out points, symmetry, and named randomness."""

from math import exp

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from szpo.errors import RunError, UsageError
from szpo.seeds import derive, uniform
from szpo.types import Answer, Comparison, Prompt, Row
from szpo_simulators.panels.raters import Rater, SimulatedJudge, item_effects, law, pick

LINKS = ("logistic", "probit", "cauchit", "cloglog", "linear:2")


def sigma(x: float) -> float:
    return 1 / (1 + exp(-x))


def test_bradley_terry_with_bias_and_lapse_by_hand():
    # x = 2 · .3 + .25 = .85 on side A; on side B it is −.6 + .25 = −.35
    rater = Rater(beta=2.0, side_bias=0.25, lapse=0.1)
    a = 0.9 * sigma(0.85) + 0.05
    assert law(rater, 0.3, True) == pytest.approx([a, 1 - a, 0.0])
    b = 0.9 * sigma(-0.35) + 0.05
    assert law(rater, 0.3, False) == pytest.approx([b, 1 - b, 0.0])


def test_davidson_ties_by_hand():
    # P ∝ (e^{x/2}, e^{−x/2}, ν) with x = 1 and ν = .5
    weights = np.array([exp(0.5), exp(-0.5), 0.5])
    assert law(Rater(tie=0.5), 1.0) == pytest.approx(weights / weights.sum())
    # Lapses are spread over all three answers where ties exist.
    lapsed = 0.7 * weights / weights.sum() + 0.1
    assert law(Rater(tie=0.5, lapse=0.3), 1.0) == pytest.approx(lapsed)


def test_item_effects_shift_x_and_the_tie_rate_of_all_raters():
    rater = Rater(tie=0.5, item_spread=2.0, tie_spread=1.0)
    effects = np.array([0.5, -1.0])
    expected = law(Rater(tie=0.5 * exp(-1.0)), 1.0 + 2.0 * 0.5)
    assert law(rater, 1.0, items=effects) == pytest.approx(expected)
    # A shared effect favours plus wherever plus stands.
    assert law(rater, 1.0, False, effects) == pytest.approx(expected[[1, 0, 2]])


@given(
    st.floats(-20, 20), st.sampled_from(LINKS), st.floats(-3, 3),
    st.sampled_from([0.0, 0.4]), st.sampled_from([0.0, 0.2]), st.booleans(),
)  # fmt: skip
def test_sides_are_symmetric_and_shares_are_a_law(gap, name, beta, tie, lapse, on_a):
    rater = Rater(beta=beta, link=name, tie=tie, lapse=lapse)
    shares = law(rater, gap, on_a)
    assert shares.min() >= 0
    assert shares.sum() == pytest.approx(1)
    # Without side bias, exchanging the sides exchanges the answers.
    assert law(rater, gap, not on_a) == pytest.approx(shares[[1, 0, 2]], abs=1e-12)
    assert law(rater, -gap, on_a) == pytest.approx(shares[[1, 0, 2]], abs=1e-12)
    hostile = law(Rater(beta=-beta, link=name, tie=tie, lapse=lapse), gap, on_a)
    assert hostile == pytest.approx(shares[[1, 0, 2]], abs=1e-12)


def test_arrays_of_comparisons_equal_one_at_a_time():
    rater = Rater(beta=1.5, tie=0.3, lapse=0.05, side_bias=0.2)
    gaps = np.linspace(-2, 2, 12).reshape(3, 4)
    on_a = np.arange(12).reshape(3, 4) % 2 == 0
    whole = law(rater, gaps, on_a)
    assert whole.shape == (3, 4, 3)
    for index in np.ndindex(3, 4):
        assert (law(rater, gaps[index], on_a[index]) == whole[index]).all()


def test_picks_follow_the_shares():
    shares = np.array([0.5, 0.3, 0.2])
    assert pick(shares, [0.0, 0.49, 0.5, 0.79, 0.81, 0.999]).tolist() == [0, 0, 1, 1, 2, 2]
    drawn = pick(shares, uniform(derive(0, "test"), 40_000))
    # Three standard errors of a share of 40,000.
    assert np.bincount(drawn, minlength=3) / 40_000 == pytest.approx(shares, abs=0.0075)


def judged(key: bytes, side: str = "A", comparison: str = "c") -> str:
    rows = (Row(Prompt.user("?"), Answer("sea"), Answer("land")),)
    judge = SimulatedJudge(lambda c: 0.4, Rater(beta=1.0, tie=0.5, item_spread=1.0))
    asked = Comparison(comparison, 0, 0, 0, rows)
    return judge.judge(asked, panelist="p", plus_side=side, key=key)  # type: ignore[arg-type]


def test_an_answer_is_a_function_of_comparison_side_and_key():
    keys = [derive(0, "vote", step=i) for i in range(300)]
    answers = [judged(key) for key in keys]
    assert set(answers) == {"A", "B", "tie"}
    assert [judged(key) for key in reversed(keys)] == answers[::-1]
    assert [judged(key, side="B") for key in keys] != answers


def test_item_effects_are_standard_normal_over_comparisons():
    effects = np.array([item_effects(f"comparison {i}") for i in range(2_000)])
    assert effects.mean(0) == pytest.approx([0, 0], abs=0.07)
    assert effects.std(0) == pytest.approx([1, 1], abs=0.05)
    assert (item_effects("a") == item_effects("a")).all()


def test_impossible_raters_and_gaps_are_refused():
    with pytest.raises(UsageError, match="lapse is a share"):
        Rater(lapse=1.5)
    with pytest.raises(UsageError, match="finite"):
        Rater(beta=float("nan"))
    with pytest.raises(UsageError, match="at least 0"):
        Rater(tie=-0.1)
    with pytest.raises(UsageError, match="unknown"):
        Rater(link="logit")
    with pytest.raises(RunError, match="not finite"):
        law(Rater(), float("inf"))
