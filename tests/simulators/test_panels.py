"""Panels: the calibration gives the agreement it promises, measured on drawn answers."""

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from szpo.errors import UsageError
from szpo.evaluators.panel_factory import StartingPolicy
from szpo.seeds import derive, uniform
from szpo.types import Answer, Comparison, Floats, Prompt, Row
from szpo_simulators.panels.flaws import members
from szpo_simulators.panels.panel import (
    PANELS,
    agreement,
    batch_gaps,
    bt70,
    build,
    calibrate,
    from_spec,
)
from szpo_simulators.panels.raters import Rater, law, pick


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


@pytest.mark.parametrize("D", [1, 4, 8, 16, 100])
def test_two_raters_agree_on_seventy_percent(D):
    rewards = base_rewards()
    fitted = calibrate(rewards, D, seed=0)
    assert fitted.agreement == pytest.approx(0.70, abs=0.01)
    measured = drawn_agreement(rewards, D, Rater(beta=fitted.beta), seed=1)
    assert measured == pytest.approx(0.70, abs=0.01)


def test_beta_in_the_normal_case_by_hand():
    # Gaps of two batches of D unit-variance rows are N(0, 2/D); with s = β √(2/D) and
    # x ~ N(0, s²), agreement is ½ + ½ E tanh²(x/2), which is .70 at s = 2.031 (quadrature).
    x, w = np.polynomial.hermite_e.hermegauss(51)
    assert 0.5 + 0.5 * np.sum(w * np.tanh(2.031 * x / 2) ** 2) / w.sum() == pytest.approx(
        0.70, abs=0.001
    )
    from scipy.special import ndtri

    rewards = ndtri(uniform(derive(5, "normal"), 200 * 40)).reshape(200, 40)
    for D in (2, 8):
        assert calibrate(rewards, D, seed=0).beta == pytest.approx(
            2.031 / np.sqrt(2 / D), rel=0.04
        )


def test_same_seed_same_beta_and_other_seeds_are_close():
    rewards = base_rewards()
    first = calibrate(rewards, 8, seed=0)
    assert calibrate(rewards, 8, seed=0) == first
    assert calibrate(rewards, 8, seed=1) != first
    assert calibrate(rewards, 8, seed=1).beta == pytest.approx(first.beta, rel=0.03)


@pytest.mark.full
def test_questions_without_difference_are_left_out_and_counted():
    # One row, reward 1 with probability ¼: a pair of different samples ties with 1 − 2 · ¼ · ¾
    # (about: samples of a prompt are finite), and any difference is ±1, so p² + q² = .7 by hand:
    # p = ½ + √(.1) = .8162, β = logit p = 1.4911.
    rewards = (uniform(derive(0, "coin"), 400 * 50).reshape(400, 50) < 0.25).astype(float)
    fitted = calibrate(rewards, 1, seed=0)
    assert fitted.beta == pytest.approx(1.4911, abs=2e-4)
    assert fitted.agreement == pytest.approx(0.70, abs=1e-6)
    assert fitted.zero_share == pytest.approx(1 - 2 * 0.25 * 0.75, abs=0.015)


def test_rounding_of_equal_means_is_no_difference():
    rewards = np.array([[0.1, 0.2, 0.3, 0.1, 0.2, 0.3]] * 3)
    gaps = batch_gaps(rewards, 2, derive(0, "gaps"), 4_000)
    assert np.mean(gaps == 0) > 0.1
    assert np.abs(gaps[gaps != 0]).min() > 0.01


def test_batches_use_distinct_prompts_and_two_different_samples():
    # Only prompt 0's first sample is worth anything: it appears at most once per batch, never
    # on both sides, so that gaps are −1/D, 0 or 1/D.
    rewards = np.zeros((8, 3))
    rewards[0, 0] = 1.0
    gaps = batch_gaps(rewards, 4, derive(0, "gaps"), 20_000)
    assert set(np.round(gaps, 6).tolist()) == {-0.25, 0.0, 0.25}
    # P(prompt 0 in the batch) · P(sample 0 on one side) = ½ · ⅔
    assert np.mean(gaps != 0) == pytest.approx(1 / 3, abs=0.011)


@pytest.mark.parametrize(
    ("rewards", "words"),
    [
        (np.ones((4, 4)), "never differ"),
        (np.ones((4, 1)), "2 or more samples"),
        (np.ones(4), "2 or more samples"),
        (np.full((4, 4), np.nan), "not finite"),
    ],
)  # fmt: skip
def test_calibration_refuses_what_it_cannot_fit(rewards, words):
    with pytest.raises(UsageError, match=words):
        calibrate(rewards, 2, seed=0)
    with pytest.raises(UsageError, match="cannot agree"):
        calibrate(base_rewards(), 2, seed=0, target=0.5)


def test_the_harder_panels_are_harder():
    rewards = base_rewards()
    beta = calibrate(rewards, 8, seed=0).beta
    raters = {name: members(name, beta, 5) for name in PANELS}
    assert {len(panel) for panel in raters.values()} == {5}
    gaps = batch_gaps(rewards, 8, derive(9, "questions"))
    gaps = gaps[gaps != 0]
    assert agreement(raters["half-beta"][0], gaps) == pytest.approx(0.59, abs=0.02)
    # A lapse of λ leaves (1 − λ)² of the agreement above ½: .5 + .81 · .2 = .662.
    lapsing = drawn_agreement(rewards, 8, raters["lapse10"][0], seed=2)
    assert lapsing == pytest.approx(0.662, abs=0.01)
    assert [rater.beta for rater in raters["hostile"]] == [beta] * 4 + [-beta]
    assert raters["hostile"][:4] == raters["bt70"][:4]
    assert [rater.beta for rater in raters["hostile2"]] == [beta] * 3 + [-beta] * 2
    assert raters["mtbench"][0].tie > 0
    for name, size in (("bt70", 0), ("hostile", 1), ("hostile2", 2), ("bt80", 5)):
        with pytest.raises(UsageError):
            members(name, beta, size)


def base_answers() -> tuple[Sequence[Prompt], Sequence[Sequence[Answer]]]:
    words = ("sea", "land", "sky", "sun")
    u = uniform(derive(0, "answers"), 30 * 6 * 3).reshape(30, 6, 3)
    texts = [[" ".join(words[int(4 * x)] for x in row) for row in prompt] for prompt in u]
    prompts = [Prompt.user(f"Prompt {i}") for i in range(30)]
    return prompts, [[Answer(text) for text in row] for row in texts]


def test_a_panel_is_built_printed_recorded_and_built_again():
    panel = build(
        bt70.name, reward="keyword:sea,sun", size=3, rows=4, start=StartingPolicy(base_answers)
    )
    assert panel.calibration
    assert panel.calibration.agreement == pytest.approx(0.70, abs=0.01)
    assert "beta" in str(panel)
    assert f"two panelists agree on {panel.calibration.agreement:.1%} of pairs" in str(panel)
    again = from_spec(json.loads(json.dumps(panel.spec)))
    assert replace(again, judges=panel.judges) == panel
    rows = (Row(Prompt.user("?"), Answer("sea sun"), Answer("land")),)
    for i in range(50):
        asked = Comparison(f"c{i}", 0, 0, i, rows)
        key = derive(0, "vote", step=i)
        answers = {
            p.judges[1].judge(asked, panelist="p", plus_side="B", key=key) for p in (panel, again)
        }
        assert len(answers) == 1


def test_a_known_beta_needs_no_answers():
    def never() -> tuple[Sequence[Prompt], Sequence[Sequence[Answer]]]:
        raise AssertionError

    panel = build("half-beta", reward="sentiment", beta=8.0, start=StartingPolicy(never))
    assert {rater.beta for rater in panel.raters} == {4.0}
    assert str(panel) == "panel half-beta: 5 simulated panelists, reward sentiment, " + (
        "sharpness beta 4, given"
    )
    with pytest.raises(UsageError, match="needs base answers"):
        build("bt70", reward="sentiment")
    with pytest.raises(UsageError, match="no simulated panel on record"):
        from_spec({"panel": "people"})
