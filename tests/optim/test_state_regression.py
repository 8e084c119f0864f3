"""The fit in the dual: against the fit in coordinates, a quadrature, and its own symmetries."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from szpo.errors import UsageError
from szpo.optim import state_regression, vote_regression
from szpo.optim.joint_fit import fit_joint
from szpo.optim.sparse_prior import SparsePrior
from szpo.optim.state_regression import SIDE, fit_states
from szpo.optim.vote_regression import Rows, Votes


def draw(seed: int, rows: int, dims: int) -> tuple[np.ndarray, ...]:
    """Differences, verdicts for plus and for minus, and sides."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, dims)) / np.sqrt(dims)
    up = (rng.random(rows) < special.expit(3 * x[:, 0] * np.sqrt(dims))).astype(float)
    return x, up, 1 - up, np.where(rng.random(rows) < 0.5, 1.0, -1.0)


@pytest.mark.parametrize("numbers", [(1, 2**14 + 1, 1), (1, 2**40, 1), (0, 9, 1), (1, 9, True)])
def test_a_record_cannot_ask_for_states_of_any_width(numbers):
    """Packed zeros of a stranger's ledger are unpacked up to the width that it says."""
    with pytest.raises(UsageError, match="states: "):
        state_regression.StateScale(*numbers)
    state_regression.StateScale(1, 2**14, 1)
    for earlier in (((1, 2), (3,)), ((1.0, 2.0),), ((2**41, 0),), ((1, 2),) * 17):
        with pytest.raises(UsageError, match="earlier directions, each of 2 whole numbers"):
            state_regression.StateScale(1, 2, 1, earlier)
    found = state_regression.StateScale(1, 2, 1, ((4096, -2048),))
    assert found.known.tolist() == [[1.0, -0.5]]
    assert state_regression.StateScale.from_json(json.loads(json.dumps(asdict(found)))) == found
    # A state of 1, where the scale is 2: half of 1,024; and no further than 16 bits go.
    rounded = state_regression.StateScale(1, 4, 2048).rounded(np.array([1.0, -3.001, 99, -99]))
    assert rounded.tolist() == [512, -1537, 32767, -32767] and rounded.dtype == np.int16


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 6), st.sampled_from([1.0, 10.0]))
def test_the_dual_is_the_fit_in_coordinates(seed, rows, dims, width):
    """Newton in the number of rows and Newton in that of weights find one posterior."""
    x, up, down, side = draw(seed, rows, dims)
    found = fit_states(x, up, down, side, widths=(width,))
    design = np.column_stack([x, side])
    precision = np.diag([1 / width] * dims + [SIDE**-2])
    known = vote_regression.approximate(Rows(design, up, up + down), np.zeros(dims + 1), precision)
    np.testing.assert_allclose(found.w, known.coef[:-1], atol=1e-7)
    assert found.side == pytest.approx(known.coef[-1], abs=1e-7)
    assert found.evidence == pytest.approx(float(known.evidence), abs=1e-7)
    other = np.random.default_rng(seed).normal(size=(3, dims))
    means, variances = found.logits(other)
    covariance = known.covariance()[:-1, :-1]
    np.testing.assert_allclose(means[0], other @ known.coef[:-1], atol=1e-7)
    np.testing.assert_allclose(
        variances[0], np.einsum("ni,ij,nj->n", other, covariance, other), atol=1e-7
    )


@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 5), st.integers(1, 3))
def test_earlier_tastes_are_a_wider_prior_along_their_directions(seed, rows, dims, count):
    """In coordinates: a Gaussian of covariance t·I + .3·Σ vvᵀ, as likely as the plain one."""
    x, up, down, side = draw(seed, rows, dims)
    known = np.random.default_rng(seed).normal(size=(count, dims))
    found = fit_states(x, up, down, side, widths=(3.0,), known=known)
    plain = fit_states(x, up, down, side, widths=(3.0,))
    covariance = 3.0 * np.eye(dims) + 0.3 * known.T @ known
    precision = np.zeros((dims + 1, dims + 1))
    precision[:dims, :dims], precision[dims, dims] = np.linalg.inv(covariance), SIDE**-2
    design = np.column_stack([x, side])
    like = vote_regression.approximate(Rows(design, up, up + down), np.zeros(dims + 1), precision)
    both = np.array([plain.evidence, float(like.evidence)])
    assert found.evidence == pytest.approx(np.logaddexp(*both) - math.log(2), abs=1e-7)
    weights = special.softmax(both)
    np.testing.assert_allclose(
        found.w, weights[0] * plain.w + weights[1] * like.coef[:-1], atol=1e-6
    )
    other = np.random.default_rng(seed + 1).normal(size=(3, dims))
    means, variances = found.logits(other)
    np.testing.assert_allclose(means[1], other @ like.coef[:-1], atol=1e-6)
    spread = np.einsum("ni,ij,nj->n", other, like.covariance()[:-1, :-1], other)
    np.testing.assert_allclose(variances[1], spread, atol=1e-6)


def test_a_taste_like_an_earlier_one_is_known_from_fewer_verdicts_and_another_costs_a_bit():
    rng = np.random.default_rng(1)
    x, w = rng.normal(size=(400, 200)) / np.sqrt(200), np.zeros(200)
    w[0] = 20.0  # two answers differ by 1.4 logits
    up = (rng.random(400) < special.expit(x @ w)).astype(float)
    seen, asked = slice(0, 30), slice(30, 400)
    none, like, other = (
        fit_states(x[seen], up[seen], 1 - up[seen], known=known)
        for known in (None, w[None], np.roll(w, 1)[None])
    )
    alike = [np.corrcoef(x[asked] @ each.w, x[asked] @ w)[0, 1] for each in (none, like, other)]
    assert alike[1] > alike[0] + 0.3 and alike[2] > alike[0] - 0.1
    assert like.log_factor > none.log_factor + 1
    assert other.log_factor > none.log_factor - math.log(2) - 1e-9  # half of the prior is plain


def test_the_evidence_is_the_mean_of_the_widths_and_not_the_best():
    x, up, down, _ = draw(3, 30, 5)
    each = [fit_states(x, up, down, widths=(t,)).evidence for t in state_regression.WIDTHS]
    found = fit_states(x, up, down)
    assert found.evidence == pytest.approx(np.log(np.exp(each).mean()), abs=1e-9)
    assert found.evidence < max(each) - 0.1
    # Nothing but a coin explains 30 verdicts with 30 log ½.
    assert found.log_factor == pytest.approx(found.evidence + 30 * math.log(2), abs=1e-9)
    np.testing.assert_allclose(found.chances, special.softmax(each))


@given(st.integers(0, 10**6))
def test_which_side_is_plus_the_order_and_the_axes_of_states_make_no_difference(seed):
    x, up, down, side = draw(seed, 20, 4)
    found = fit_states(x, up, down, side)
    rng = np.random.default_rng(seed)
    turned = np.where(rng.random(20) < 0.5, -1.0, 1.0)
    swapped = fit_states(
        x * turned[:, None], np.where(turned > 0, up, down), np.where(turned > 0, down, up),
        side * turned,
    )  # fmt: skip
    np.testing.assert_allclose(swapped.w, found.w, atol=1e-8)
    order, axes = rng.permutation(20), np.linalg.qr(rng.normal(size=(4, 4)))[0]
    other = fit_states((x @ axes)[order], up[order], down[order], side[order])
    np.testing.assert_allclose(other.w, found.w @ axes, atol=1e-8)
    assert other.log_factor == pytest.approx(found.log_factor, abs=1e-8)


def test_fractions_of_a_verdict_add_up_and_rows_without_any_are_ignored():
    x, up, down, side = draw(5, 12, 4)
    whole = fit_states(x, up, down, side)
    parts = fit_states(
        np.concatenate([x, x, x[:3]]),
        np.concatenate([0.25 * up, 0.75 * up, np.zeros(3)]),
        np.concatenate([0.25 * down, 0.75 * down, np.zeros(3)]),
        np.concatenate([side, side, side[:3]]),
    )
    np.testing.assert_allclose(parts.w, whole.w, atol=1e-8)
    assert parts.evidence == pytest.approx(whole.evidence, abs=1e-8)


def test_verdicts_of_a_side_alone_are_no_taste():
    """All A: the side explains it, so that the odds of a direction of states stay below one."""
    x, _, _, side = draw(7, 60, 40)
    found = fit_states(x, (side > 0) * 1.0, (side < 0) * 1.0, side)
    assert found.side > 0.8
    assert found.log_factor < 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, up, down: (x[:, 0], up, down), "states"),
        (lambda x, up, down: (x, up[:-1], down), "counts"),
        (lambda x, up, down: (np.where(x == x[0, 0], np.nan, x), up, down), "finite"),
        (lambda x, up, down: (x, up - 2, down), "at least 0"),
    ],
)
def test_what_cannot_be_fitted_is_refused_by_name(change, words):
    x, up, down, _ = draw(0, 6, 3)
    with pytest.raises(UsageError, match=words):
        fit_states(*change(x, up, down))


def test_the_likelier_explanation_weighs_more_and_both_count_against_nothing():
    """Verdicts follow a direction of states that no named feature has."""
    rng = np.random.default_rng(2)
    states, named = rng.normal(size=(80, 6)) / np.sqrt(6), rng.normal(size=(80, 5))
    up = (rng.random(80) < special.expit(8 * states[:, 0])).astype(float)
    prior = SparsePrior(np.arange(5), np.ones(5))
    found = fit_joint(Votes(named, up, 1 - up), prior, states)
    assert found.share > 0.99
    assert found.log_factor == pytest.approx(found.states.log_factor - math.log(2), abs=0.02)
    # Prior odds of anything are .65 to .35.
    odds = math.exp(found.log_factor) * 0.65 / 0.35
    assert found.signal == pytest.approx(odds / (1 + odds))
    told, _ = found.moments(named, states)
    assert np.corrcoef(told, states[:, 0])[0, 1] > 0.8
    with pytest.raises(UsageError, match="79 of states"):
        fit_joint(Votes(named, up, 1 - up), prior, states[:79])


def test_a_pair_s_logit_is_that_of_the_mixture_of_both_explanations():
    """By the law of total variance over the named features and each width of the states."""
    rng = np.random.default_rng(5)
    states, named = rng.normal(size=(14, 4)) / 2, rng.normal(size=(14, 3))
    up = (rng.random(14) < special.expit(2 * states[:, 0] + named[:, 1])).astype(float)
    side = np.where(rng.random(14) < 0.5, 1.0, -1.0)
    known = np.array([[3.0, 0, 0, 0]])
    prior = SparsePrior(np.arange(3), np.ones(3))
    found = fit_joint(Votes(named, up, 1 - up, side), prior, states, known)
    alone = fit_states(states, up, 1 - up, side, known=known)
    assert found.states.log_factor == alone.log_factor and 0.1 < found.share < 0.9
    means, spread = alone.logits(states[:5])
    parts = [(1 - found.share, named[:5] @ found.named.w,
              np.diag(named[:5] @ found.named.covariance @ named[:5].T))]  # fmt: skip
    parts += zip(found.share * alone.chances, means, spread, strict=True)
    assert sum(chance for chance, *_ in parts) == pytest.approx(1.0)
    mean = sum(chance * each for chance, each, _ in parts)
    square = sum(chance * (own + each**2) for chance, each, own in parts)
    np.testing.assert_allclose(found.moments(named[:5], states[:5]), [mean, square - mean**2])
    np.testing.assert_allclose(found.moments(named[:5], None), parts[0][1:])
    odds = [math.exp(each.log_factor) for each in (found.named, alone)]
    assert found.share == pytest.approx(odds[1] / sum(odds))
    assert found.log_factor == pytest.approx(math.log(sum(odds) / 2), abs=2**-20)
    assert found.kept == found.signal * (1 - found.share) / found.named.signal
    assert found.signal == pytest.approx(special.expit(found.log_factor + math.log(0.65 / 0.35)))
    assert fit_joint(Votes(named, up, 1 - up, side), prior, None).share == 0.0
