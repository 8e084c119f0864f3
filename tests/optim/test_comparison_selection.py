"""Selection inside a run: exact expectations of the estimate, and what early stops would do."""

from __future__ import annotations

import itertools
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import special

from szpo.aggregation import estimators
from szpo.errors import UsageError
from szpo.optim import comparison_selection, optimizer
from szpo.optim.checked_settings import defaults, settings_from_json, settings_to_json
from szpo.optim.settings import Selection
from szpo.seeds import derive
from szpo.types import Answer, Comparison, Floats, Prompt, Row, Tally
from tests.support.tallies import coefficients

LAYOUT = (("z", (4,)),)


def intervals(q: Floats) -> list[tuple[float, float]]:
    """The starts u between which systematic sampling changes nothing."""
    cuts = sorted({0.0, 1.0, *(float(end % 1) for end in np.cumsum(q))})
    return [(low, high) for low, high in itertools.pairwise(cuts) if high - low > 1e-12]


scores = st.lists(st.floats(0.01, 10), min_size=2, max_size=7)


# ---- the design ----


@hypothesis.given(scores, st.integers(1, 7), st.floats(0.05, 1))
def test_probabilities_add_up_and_keep_their_floor(
    score: list[float], count: int, floor: float
) -> None:
    q = comparison_selection.inclusion(np.array(score), count, floor)
    room = min(count, len(score))
    assert q.sum() == pytest.approx(room)
    assert (q <= 1).all() and (q >= floor * room / len(score) - 1e-9).all()
    for (a, b), (p, r) in zip(
        itertools.combinations(score, 2), itertools.combinations(q, 2), strict=True
    ):
        assert (a - b) * (p - r) >= -1e-9  # who may teach more is not asked less


@hypothesis.given(scores, st.integers(1, 6))
def test_systematic_sampling_takes_each_with_its_probability(
    score: list[float], count: int
) -> None:
    """Exactly: over all starts u, by the intervals on which the sample is constant."""
    q = comparison_selection.inclusion(np.array(score), count, 0.2)
    found = np.zeros(len(q))
    for low, high in intervals(q):
        taken = comparison_selection.systematic(q, (low + high) / 2)
        assert len(taken) == min(count, len(q))
        found[taken] += high - low
    assert found == pytest.approx(q, abs=1e-9)


def test_a_draw_fills_up_with_identical_ones() -> None:
    q = np.array([0.0, 1.0, 0.0, 1.0, 0.0])
    assert comparison_selection.draw(q, 4, derive(0, "t")) == (0, 1, 2, 3)
    assert comparison_selection.draw(np.zeros(3), 2, derive(0, "t")) == (0, 1)


def test_draws_by_key_meet_the_probabilities() -> None:
    q = comparison_selection.inclusion(np.array([1.0, 2.0, 3.0, 6.0]), 2, 0.2)
    draws = [comparison_selection.draw(q, 2, derive(1, "draw", step=i)) for i in range(4000)]
    share = np.bincount([i for d in draws for i in d], minlength=4) / len(draws)
    assert share == pytest.approx(q, abs=4 * 0.5 / math.sqrt(len(draws)))


def comparison(*pairs: tuple[str, str]) -> Comparison:
    rows = tuple(Row(Prompt.user("Well?"), Answer(a), Answer(b)) for a, b in pairs)
    return Comparison("c", 0, 0, 0, rows)


def test_content_by_hand() -> None:
    one = comparison(("warm tea", "warm tea"), ("cold wet rain", "warm rain"))
    assert comparison_selection.content(one, "rows") == 0.5
    assert (
        comparison_selection.content(one, "words") == (3 / 4) / 2
    )  # cold, wet, warm of four different words
    assert comparison_selection.content(one, "uniform") == 1
    assert (
        comparison_selection.content(comparison(("so", "so!")), "words") == 0.5
    )  # equal words, unlike texts


def test_identical_candidates_are_not_asked() -> None:
    same, other = comparison(("x", "x")), comparison(("x", "y"))
    found = comparison_selection.choose(
        [same, other, same, other], Selection(4), 2, derive(0, "t")
    )
    assert found.q == (0, 1, 0, 1) and found.index == (1, 3)


# ---- unbiasedness, by enumeration ----


def expected(
    delta: Floats, identical: np.ndarray[tuple[int], np.dtype[np.bool_]], q: Floats, votes: int,
    rule: str, weighted: bool,
) -> float:  # fmt: skip
    """E of the estimate over all starts u of the sample and all votes of those asked."""
    settings = defaults(1, LAYOUT, rule=rule, N=2, M=votes, alpha=1.0, warmup=0, mu=0.5)
    total = 0.0
    for low, high in intervals(q):
        index = comparison_selection.systematic(q, (low + high) / 2)
        for plus in itertools.product(range(votes + 1), repeat=len(index)):
            k = np.array(plus, dtype=float)
            p = special.expit(delta[index])
            chance = np.prod(special.comb(votes, k) * p**k * (1 - p) ** (votes - k))
            share = comparison_selection.shares(q, index)[None] if weighted else None
            tally = Tally(
                k[None], (votes - k)[None], np.zeros((1, len(k))), identical[index][None], share
            )
            found = coefficients(settings, tally, mu=0.5, alpha=1.0)
            total += (high - low) * float(chance) * float(found.coef[0])
    return total


@pytest.mark.parametrize("votes", [1, 2])
@pytest.mark.parametrize("rule", ["known"])
def test_the_weighted_estimate_is_unbiased_under_selection(rule: str, votes: int) -> None:
    """Against the mean over all C of each candidate's expected estimate, to rounding.

    Candidate 4 is identical. Large differences are asked more often: without the weights the
    estimate is off by a third.
    """
    delta = np.array([0.2, -0.3, 1.5, 2.5, 0.0])
    identical = np.array([False, False, False, False, True])
    q = comparison_selection.inclusion(np.where(identical, 0.0, np.abs(delta)), 2, 0.3)
    settings = defaults(1, LAYOUT, rule=rule, N=1, M=votes, alpha=1.0, warmup=0, mu=0.5)
    each = []
    for d, same in zip(delta, identical, strict=True):
        k = np.arange(votes + 1.0)[:, None, None]
        chance = special.comb(votes, k) * special.expit(d) ** k * special.expit(-d) ** (votes - k)
        flat = np.full(k.shape, same)
        one = coefficients(
            settings, Tally(k, votes - k, 0 * k, flat), mu=np.full(votes + 1, 0.5), alpha=1.0
        )
        each.append(float((chance.ravel() * one.coef.ravel()).sum()))
    want = float(np.mean(each))
    assert expected(delta, identical, q, votes, rule, True) == pytest.approx(want, rel=1e-9)
    assert abs(expected(delta, identical, q, votes, rule, False) / want - 1) > 0.3


def test_with_equal_shares_the_sum_is_the_mean() -> None:
    rng = np.random.Generator(np.random.Philox(key=3))
    plus = rng.integers(0, 4, (3, 8)).astype(float)
    minus, tie = 3 - plus, np.zeros((3, 8))
    same = rng.random((3, 8)) < 0.2
    one = estimators.estimate(Tally(plus, minus, tie, same))
    other = estimators.estimate(Tally(plus, minus, tie, same, share=np.full((3, 8), 1 / 8)))
    assert other.delta == pytest.approx(one.delta)
    assert other.stderr == pytest.approx(one.stderr, rel=0.35)  # noise of identical ones aside


def test_votes_that_never_came_are_stood_for_by_the_others() -> None:
    share = np.array([[0.5, 0.25, 0.25]])
    counts = np.array([[True, False, True]])
    assert estimators.rescale_shares(share, counts).tolist() == [[2 / 3, 0, 1 / 3]]
    none = estimators.estimate(Tally(*np.zeros((3, 1, 3)), np.zeros((1, 3), bool), share=share))
    assert none.delta[0] == 0 and none.stderr[0] == math.inf


# ---- the standard error where votes may be ties ----

EIGHT = np.array([[1.0] * 8]), np.zeros((1, 8)), np.zeros((1, 8)), np.zeros((1, 8), bool)
"""Eight comparisons with one vote each, all of them for plus."""


def test_ties_widen_the_standard_error_of_a_selection_as_they_do_without_one() -> None:
    """Davidson: P(plus, minus, tie) = (e^{x/2}, e^{-x/2}, ν)/Z with Z = 2 cosh(x/2) + ν.

    The score of a vote is s − E s, with s = ½, −½, 0 for plus, minus, tie, so the information of a
    vote is I(x) = Var s; at x = 0, where E s = 0, I = ¼ · 2/(2 + ν) = 1/(2(2 + ν)). The variance
    of x̂ from M votes is therefore 2(2 + ν)/M: (1 + ν/2) times the 4/M of votes without ties. The
    factor is that of each Δ̂_n, so it is the factor of the variance Σ share² Var Δ̂_n as well.
    """
    nu = 1.5
    chance = np.array([1.0, 1.0, nu]) / (2 + nu)
    s = np.array([0.5, -0.5, 0.0])
    assert 1 / (chance @ s**2 - (chance @ s) ** 2) == pytest.approx(4 * (1 + nu / 2))

    plain = estimators.estimate(Tally(*EIGHT), nu=nu)
    share = np.full((1, 8), 1 / 8)
    found = estimators.estimate(Tally(*EIGHT, share=share), nu=nu)
    assert found.delta[0] == pytest.approx(plain.delta[0])
    assert found.stderr[0] == pytest.approx(plain.stderr[0], rel=1e-12)
    untied = estimators.estimate(Tally(*EIGHT, share=share), nu=0.0)
    assert found.stderr[0] == pytest.approx(untied.stderr[0] * math.sqrt(1 + nu / 2), rel=1e-12)


def test_the_standard_error_under_shares_is_the_spread_of_the_estimate() -> None:
    """Unequal shares, ν = 1.5, no difference, one common rate: simulated against reported."""
    nu, rng = 1.5, np.random.default_rng(3)
    share = np.array([0.4, 0.1, 0.2, 0.3])
    votes = rng.multinomial(40, np.array([1, 1, nu]) / (2 + nu), size=(20_000, 4)).astype(float)
    plus, minus, tie = np.moveaxis(votes, -1, 0)
    none = np.zeros(plus.shape, bool)
    found = estimators.estimate(
        Tally(plus, minus, tie, none, share=np.tile(share, (20_000, 1))), nu=nu
    )
    # The report is the larger of spread and noise; the noise alone must not be too small.
    low = float(np.quantile(found.stderr, 0.05))
    assert found.delta.std() < 1.03 * low


TIED = {"rule": "known", "alpha": 0.1, "N": 8, "M": 1, "ties": "davidson", "tie_nu": 1.5,
        "selection": Selection(8, "uniform", 1.0)}  # fmt: skip


def test_new_runs_have_the_factor_and_recorded_runs_keep_their_figures() -> None:
    settings = defaults(1, LAYOUT, **TIED)  # type: ignore[arg-type]
    spec = settings_to_json(settings)
    assert settings_from_json(spec) == settings
    older = settings_from_json({k: v for k, v in spec.items() if k != "selection_noise"})
    tally = Tally(*EIGHT, np.full((1, 8), 1 / 8))
    errors = []
    for chosen in (settings, older):
        state = optimizer.init(chosen)
        _, updates, info = optimizer.tell(state, optimizer.ask(state), tally)
        errors.append((info.stderr[0], updates))
    assert [round(error, 3) for error, _ in errors] == [0.235, 0.178]
    assert errors[0][1] == errors[1][1]  # what moves θ is the same


def test_only_a_selection_with_davidson_ties_records_which_arithmetic() -> None:
    for name in ("selection", "ties"):
        rest = {key: value for key, value in TIED.items() if key not in (name, "tie_nu")}
        assert "selection_noise" not in settings_to_json(defaults(1, LAYOUT, **rest))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="selection_noise is 'half'"):
        defaults(1, LAYOUT, **{**TIED, "selection_noise": "half"})  # type: ignore[arg-type]


# ---- settings ----


def test_settings_without_selection_have_the_spec_they_always_had() -> None:
    plain = settings_to_json(defaults(1, LAYOUT))
    assert "selection" not in plain and "vote_price" not in plain
    chosen = defaults(1, LAYOUT, rule="known", selection=Selection(32, "words", 0.5))
    assert settings_from_json(settings_to_json(chosen)) == chosen
    assert (chosen.made, defaults(1, LAYOUT).made) == (32, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"selection": Selection(4), "rule": "known"}, "4 candidates for N = 8"),
        ({"selection": Selection(9), "rule": "sign", "weighting": "skill"}, "1/\\(C·q\\)"),
        ({"vote_price": 0.1, "rule": "known"}, "which biases known; use regression"),
        ({"vote_price": -0.1}, "vote_price is -0.1"),
    ],
)
def test_settings_that_do_not_go_together(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        defaults(1, LAYOUT, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "message"),
    [((0,), "0 candidates"), ((9, "luck"), "'luck' is unknown"), ((9, "rows", 0.0), "floor is")],
)
def test_selections_that_cannot_be(values: tuple[object, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Selection(*values)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="floor"):
        comparison_selection.inclusion(np.ones(3), 1, 0.0)
    with pytest.raises(UsageError, match="finite"):
        comparison_selection.inclusion(np.array([1.0, np.nan]), 1, 0.5)


# ---- stopping ----


@pytest.mark.parametrize(("x", "off"), [(0.5, 0.32), (2.0, -0.18)])
def test_the_naive_stop_is_biased_for_known(x: float, off: float) -> None:
    """Ask until one side leads by three, at most twelve votes, against twelve votes fixed before.

    Exact: all sequences of votes. Twelve votes fixed are right to 3 %; the stop exaggerates small
    differences by a third and shrinks large ones by a fifth, so it also turns a sum over several
    directions. Hence M_n is fixed beforehand but under regression.
    """
    most, lead = 12, 3
    rate = float(special.expit(x))
    votes = np.array(list(itertools.product((1, 0), repeat=most)))
    wins = np.cumsum(votes, axis=1)
    chance = rate ** wins[:, -1] * (1 - rate) ** (most - wins[:, -1])
    ahead = np.abs(2 * wins - np.arange(1, most + 1)) >= lead
    end = np.where(ahead.any(1), ahead.argmax(1), most - 1)
    k = wins[np.arange(len(wins)), end].astype(float)
    stopped = float(chance @ estimators.haldane(k, end + 1.0))
    fixed = float(chance @ estimators.haldane(wins[:, -1].astype(float), np.full(len(k), 12.0)))
    assert fixed == pytest.approx(x, rel=0.03)
    assert stopped / x - 1 == pytest.approx(off, abs=0.01)
