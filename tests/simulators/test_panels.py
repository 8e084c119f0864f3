"""Panels: the calibration gives the agreement it promises, measured on drawn answers."""

from dataclasses import replace
from math import exp

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri

from szpo.errors import UsageError
from szpo.seeds import derive, uniform
from szpo.types import Floats
from szpo.voting.panel_factory import StartingPolicy
from szpo_simulators.panels import panel, raters
from szpo_simulators.panels.panel import PRESETS, agreement, batch_gaps, build, calibrate, members
from szpo_simulators.panels.raters import Rater, item_effects, law, pick


def base_rewards(prompts: int = 64, samples: int = 8) -> Floats:
    """Skewed rewards whose level depends on the prompt, as sentiment's does."""
    u = uniform(derive(3, "rewards"), prompts * (samples + 1)).reshape(prompts, samples + 1)
    return np.tanh(u[:, :1] - 0.5 + 1.5 * (u[:, 1:] ** 3 - 0.2))


def drawn_agreement(rewards: Floats, D: int, rater: Rater, seed: int) -> float:
    """Two raters really answer the same fresh questions; how often alike?"""
    gaps = batch_gaps(rewards, D, derive(seed, "fresh questions"), 40_000)
    gaps = gaps[gaps != 0]
    shares = law(rater, gaps)
    one = pick(shares, uniform(derive(seed, "one"), len(gaps)))
    other = pick(shares, uniform(derive(seed, "other"), len(gaps)))
    return float(np.mean(one == other))


@pytest.mark.parametrize("D", [1, 8, pytest.param(100, marks=pytest.mark.full)])
def test_two_raters_agree_on_seventy_percent(D):
    rewards = base_rewards()
    fitted = calibrate(rewards, D)
    assert fitted.agreement == pytest.approx(0.70, abs=0.01)
    measured = drawn_agreement(rewards, D, Rater(beta=fitted.beta), seed=1)
    assert measured == pytest.approx(0.70, abs=0.01)


@pytest.mark.full
def test_questions_without_difference_are_left_out_and_counted():
    # One row, reward 1 with probability ¼: a pair of different samples ties with 1 − 2 · ¼ · ¾
    # (about: samples of a prompt are finite), and any difference is ±1, so p² + q² = .7 by hand:
    # p = ½ + √(.1) = .8162, β = logit p = 1.4911.
    rewards = (uniform(derive(0, "coin"), 400 * 50).reshape(400, 50) < 0.25).astype(float)
    fitted = calibrate(rewards, 1)
    assert fitted.beta == pytest.approx(1.4911, abs=2e-4)
    assert fitted.agreement == pytest.approx(0.70, abs=1e-6)
    assert fitted.zero_share == pytest.approx(1 - 2 * 0.25 * 0.75, abs=0.015)


def test_gaps_are_of_distinct_prompts_and_rounding_is_none():
    # Only prompt 0's first sample is worth anything: it appears at most once per batch, never
    # on both sides, so that gaps are −1/D, 0 or 1/D.
    rewards = np.zeros((8, 3))
    rewards[0, 0] = 1.0
    gaps = batch_gaps(rewards, 4, derive(0, "gaps"), 20_000)
    assert set(np.round(gaps, 6).tolist()) == {-0.25, 0.0, 0.25}
    # P(prompt 0 in the batch) · P(sample 0 on one side) = ½ · ⅔
    assert np.mean(gaps != 0) == pytest.approx(1 / 3, abs=0.011)
    rewards = np.array([[0.1, 0.2, 0.3, 0.1, 0.2, 0.3]] * 3)
    gaps = batch_gaps(rewards, 2, derive(0, "gaps"), 4_000)
    assert np.mean(gaps == 0) > 0.1
    assert np.abs(gaps[gaps != 0]).min() > 0.01


@pytest.mark.parametrize(
    ("rewards", "words"),
    [
        (np.ones((4, 4)), "never differ"),
        (np.ones((4, 1)), "2 or more samples"),
        (np.ones(4), "2 or more samples"),
        (np.full((4, 4), np.nan), "not finite"),
    ],
)
def test_calibration_refuses_what_it_cannot_fit(rewards, words):
    with pytest.raises(UsageError, match=words):
        calibrate(rewards, 2)


def test_the_harder_panels_are_harder():
    rewards = base_rewards()
    beta = calibrate(rewards, 8).beta
    raters = {name: members(name, beta, 5) for name in PRESETS}
    assert {len(panel) for panel in raters.values()} == {5}
    gaps = batch_gaps(rewards, 8, derive(9, "questions"))
    gaps = gaps[gaps != 0]
    assert agreement(raters["half-beta"][0], gaps) == pytest.approx(0.59, abs=0.02)
    # A lapse of λ leaves (1 − λ)² of the agreement above ½: .5 + .81 · .2 = .662.
    lapsing = drawn_agreement(rewards, 8, raters["lapse10"][0], seed=2)
    assert lapsing == pytest.approx(0.662, abs=0.01)
    for name, size in (("bt70", 0), ("hostile", 1), ("hostile2", 2), ("bt80", 5)):
        with pytest.raises(UsageError):
            members(name, beta, size)


def test_a_known_beta_needs_no_answers():
    def half(reward: str) -> panel.SimulatedPanel:
        start = StartingPolicy(lambda: pytest.fail("answers were drawn"))
        return build("half-beta", reward=reward, beta=8.0, start=start)

    made = half("sentiment")
    assert {rater.beta for rater in made.raters} == {4.0}
    assert str(made) == "panel half-beta: 5 simulated panelists, reward sentiment, " + (
        "sharpness beta 4, given"
    )
    assert f"reward regex:{'sea|' * 13}s…, sharpness" in str(half(f"regex:{'sea|' * 40}sun"))
    with pytest.raises(UsageError, match="give beta"):
        build("bt70", reward="sentiment")


LINKS = ("logistic", "probit", "cauchit", "cloglog", "linear:2")


def sigma(x: float) -> float:
    return 1 / (1 + exp(-x))


def test_laws_of_raters_by_hand():
    # x = 2 · .3 + .25 = .85 on side A; on side B it is −.6 + .25 = −.35
    rater = Rater(beta=2.0, side_bias=0.25, lapse=0.1)
    a = 0.9 * sigma(0.85) + 0.05
    assert law(rater, 0.3, True) == pytest.approx([a, 1 - a, 0.0])
    b = 0.9 * sigma(-0.35) + 0.05
    assert law(rater, 0.3, False) == pytest.approx([b, 1 - b, 0.0])
    # P ∝ (e^{x/2}, e^{−x/2}, ν) with x = 1 and ν = .5
    weights = np.array([exp(0.5), exp(-0.5), 0.5])
    assert law(Rater(tie=0.5), 1.0) == pytest.approx(weights / weights.sum())
    # Lapses are spread over all three answers where ties exist.
    lapsed = 0.7 * weights / weights.sum() + 0.1
    assert law(Rater(tie=0.5, lapse=0.3), 1.0) == pytest.approx(lapsed)


@given(
    st.floats(-20, 20), st.sampled_from(LINKS), st.floats(-3, 3),
    st.sampled_from([0.0, 0.4]), st.sampled_from([0.0, 0.2]), st.booleans(),
)  # fmt: skip
def test_sides_are_symmetric_and_shares_are_a_law(gap, name, beta, tie, lapse, on_a):
    rater = Rater(beta=beta, link=name, tie=tie, lapse=lapse)
    shares = law(rater, gap, on_a)
    assert shares.min() >= 0
    assert shares.sum() == pytest.approx(1)
    # Without side bias, exchanging the sides exchanges the answers, and so does a hostile rater.
    for other in (
        law(rater, gap, not on_a), law(rater, -gap, on_a),
        law(replace(rater, beta=-beta), gap, on_a),
    ):  # fmt: skip
        assert other == pytest.approx(shares[[1, 0, 2]], abs=1e-12)


def test_item_effects_are_standard_normal_and_shift_x_and_the_tie_rate_of_all_raters():
    effects = np.array([item_effects(f"comparison {i}") for i in range(2_000)])
    assert effects.mean(0) == pytest.approx([0, 0], abs=0.07)
    assert effects.std(0) == pytest.approx([1, 1], abs=0.05)
    assert (item_effects("a") == item_effects("a")).all()
    rater = Rater(tie=0.5, item_spread=2.0, tie_spread=1.0)
    effects = np.array([0.5, -1.0])
    expected = law(Rater(tie=0.5 * exp(-1.0)), 1.0 + 2.0 * 0.5)
    assert law(rater, 1.0, items=effects) == pytest.approx(expected)
    # A shared effect favours plus wherever plus stands.
    assert law(rater, 1.0, False, effects) == pytest.approx(expected[[1, 0, 2]])


COMMITTED = raters.load_mtbench()


def test_the_panel_itself_votes_with_these_statistics():
    """Members of the preset answer items of the committed design, drawn one by one."""
    theta = COMMITTED["constants"]["preset"]["theta"]
    counts = []
    for pair, votes in COMMITTED["design"]["all"].items():
        first, second = pair.split("/")
        for count, items in votes.items():
            m, copies = int(count), 4 * items
            u = uniform(derive(0, "votes", name=pair, k=m), copies * (m + 2)).reshape(copies, -1)
            (rater,) = members("mtbench", 1.0, 1)
            effects = ndtri(u[:, None, :2] + 2.0**-54)
            gap = np.full((copies, 1), theta[first] - theta[second])
            answers = pick(law(rater, gap, True, effects), u[:, 2:])
            counts.append(np.stack([(answers == c).sum(1) for c in range(3)], axis=-1))
    votes = np.concatenate(counts)
    m, sided = votes.sum(-1), votes[:, :2].sum(-1)
    many = m >= 3
    found = {
        "agreement": (votes * (votes - 1)).sum() / (m * (m - 1)).sum(),
        "agreement where nobody tied":
            (votes[:, :2] * (votes[:, :2] - 1)).sum() / (sided * (sided - 1)).sum(),
        "tie rate": votes[:, 2].sum() / m.sum(),
        "unanimity": (many & (votes.max(-1) == m)).sum() / many.sum(),
    }  # fmt: skip
    people = {row["statistic"]: row["all votes"] for row in COMMITTED["table"]}
    # 7,256 items, mostly of one or two votes: a standard error of up to .011 for unanimity.
    assert found == pytest.approx(people, abs=0.03)
