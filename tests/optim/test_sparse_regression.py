"""The sparse regression of votes: evidence of all supports, honest names, exact order."""

import itertools
import math

import numpy as np
import pytest
from scipy import special

from szpo.errors import UsageError
from szpo.optim import bradley_terry, sparse_regression
from szpo.optim.bradley_terry import Rows
from szpo.optim.sparse_prior import KINDS, SparsePrior, group_features
from szpo.optim.sparse_regression import fit_sparse
from szpo.optim.vote_regression import Votes


def cast(x, up, down=None, side=None):
    up = np.asarray(up, dtype=float)
    down = 1 - up if down is None else down
    return Votes(x, up, down, side)


def problem(seed, k=12, count=None, side=False):
    """Votes on features in threes that correlate, of which up to two matter, and a prior."""
    rng = np.random.default_rng(seed)
    count = int(rng.choice([12, 40, 120])) if count is None else count
    alike = rng.choice([0.0, 0.7])
    common = np.repeat(rng.normal(size=(count, -(-k // 3))), 3, axis=1)[:, :k]
    x = math.sqrt(1 - alike) * rng.normal(size=(count, k)) + math.sqrt(alike) * common
    x *= rng.choice([0.4, 1.0, 2.0])
    w = np.zeros(k)
    w[rng.choice(k, 2, replace=False)] = rng.normal(size=2) * rng.choice([0.0, 1.0, 3.0])
    stood = rng.choice([-1.0, 1.0], count) if side else None
    up = rng.random(count) < special.expit(x @ w)
    return cast(x, up, side=stood), SparsePrior(np.arange(k) // 3, np.full(k, 0.5))


def enumerate_supports(votes, prior):
    """Log of prior (given that anything matters) times Laplace evidence, for every support."""
    k, table = len(prior.groups), prior.log_chances()[0]
    pairs = [(i, j) for i, j in itertools.combinations_with_replacement(range(k), 2)]
    pairs = [pair for pair in pairs if table[pair] > -np.inf]
    i, j = np.array(pairs).T
    single = i == j
    design = np.stack([votes.x[:, i], np.where(single, 0.0, votes.x[:, j])], -1).swapaxes(0, 1)
    total = np.broadcast_to(votes.up + votes.down, design.shape[:2])
    own = Rows(design, np.broadcast_to(votes.up, total.shape), total)
    evidence = []
    for width in prior.widths:
        precision = (prior.scale / width) ** 2 * np.where(single, 1, 2)[:, None]
        both = np.stack([precision[range(len(i)), i], precision[range(len(i)), j]], -1)
        start, prior_of = np.zeros(both.shape), both[:, :, None] * np.eye(2)
        found = bradley_terry.approximate(own, start, prior_of)
        evidence.append(found.evidence)
    joint = special.logsumexp(evidence, axis=0) - math.log(len(prior.widths)) + table[i, j]
    each = zip(pairs, joint, strict=True)
    return {pair[:1] if pair[0] == pair[1] else pair: e for pair, e in each}


def test_what_is_screened_is_what_all_exact_fits_say(monkeypatch):
    """In 60 problems the best of 66 supports is among the ten that are fitted exactly."""
    monkeypatch.setattr(sparse_regression, "REFITS", 10)
    for seed in range(60):
        votes, prior = problem(seed)
        found, every = fit_sparse(votes, prior), enumerate_supports(votes, prior)
        best = max(every, key=every.__getitem__)
        assert best in [each.support for each in found.kept], seed
        total = special.logsumexp(list(every.values()))
        factor = total + math.log(2) * len(votes.x)
        assert found.log_factor == pytest.approx(factor, abs=0.15), seed
        touched = np.zeros(len(prior.groups))
        for support, each in every.items():
            touched[list(support)] += found.signal * math.exp(each - total)
        assert found.less + found.more == pytest.approx(touched, abs=0.1), seed


def test_evidence_and_mean_agree_with_integrals():
    """Six features, 40 votes: all supports by quadrature over their coefficients."""
    votes, plain = problem(5, k=6, count=40)
    prior = SparsePrior(plain.groups, plain.scale, widths=(1.0, 2.0))
    found = fit_sparse(votes, prior)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    table, sums, means = prior.log_chances()[0], [], []
    for support in [each.support for each in found.kept if each.support]:
        grid = np.stack(np.meshgrid(*[nodes] * len(support), indexing="ij"), -1)
        mass = weights if len(support) == 1 else np.outer(weights, weights)
        for width in prior.widths:
            w = grid / np.sqrt(prior.precision(support, width))
            eta = w @ votes.x[:, list(support)].T
            like = np.exp((votes.up * eta - np.logaddexp(0, eta)).sum(-1)) * mass
            chance = math.exp(table[support[0], support[-1]]) / len(prior.widths)
            sums.append(chance * like.sum())
            mean = np.zeros(6)
            mean[list(support)] = chance * np.tensordot(like, w, axes=len(support))
            means.append(mean)
    assert len(sums) == 2 * (6 + 9)  # every single, every pair of two groups
    factor = math.log(sum(sums)) + math.log(2) * len(votes.x)
    assert found.log_factor == pytest.approx(factor, abs=0.1)
    off = found.w - np.sum(means, axis=0) / sum(sums)  # Laplace's: of modes instead of means
    assert (np.abs(off) < 0.4 * np.sqrt(np.diag(found.covariance))).all()


def test_chances_of_all_possible_votes_add_up_to_one():
    """Over all outcomes of six votes the Bayes factor is 1 on average, as a martingale's is."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(6, 6))
    prior = SparsePrior(np.array([0, 0, 1, 2, -1, -1]), np.full(6, 0.7))
    outcomes = np.array(list(itertools.product((0.0, 1.0), repeat=6)))
    factors = [math.exp(fit_sparse(cast(x, up), prior).log_factor) for up in outcomes]
    assert np.mean(factors) == pytest.approx(1.0, abs=0.05)


@pytest.mark.full
def test_names_are_right_as_often_as_they_claim():
    """With tastes drawn from the prior a claim of p is true in a share p of cases."""
    rng = np.random.default_rng(11)
    prior = SparsePrior(np.arange(12) // 2, np.full(12, 0.5))
    table = np.exp(prior.log_chances()[0])
    i, j = np.triu_indices(12)
    claims, truths = [], []
    for _ in range(100):
        w = np.zeros(12)
        if rng.random() < prior.signal:
            at = rng.choice(len(i), p=table[i, j])
            support = sorted({i[at], j[at]})
            width = rng.choice(prior.widths)
            deviation = 1 / np.sqrt(prior.precision(tuple(support), width))
            w[support] = rng.normal(size=len(support)) * deviation
        x = rng.normal(size=(30, 12))
        found = fit_sparse(cast(x, rng.random(30) < special.expit(x @ w)), prior)
        by_group = [np.bincount(prior.groups, side) for side in (found.more, found.less)]
        claims += [*np.concatenate(by_group), found.signal]
        signs = [np.bincount(prior.groups, 1.0 * (side * w > 0)) for side in (1, -1)]
        truths += [*np.concatenate(signs), float(w.any())]
    claims, truths = np.array(claims), np.array(truths)
    edges = [0.0, 0.05, 0.2, 0.5, 0.8, 0.95, 1.01]
    for low, high in itertools.pairwise(edges):
        inside = (claims >= low) & (claims < high)
        error = 3 * math.sqrt(claims[inside].mean() * (1 - claims[inside].mean()) / inside.sum())
        assert truths[inside].mean() == pytest.approx(claims[inside].mean(), abs=error + 0.01)


@pytest.mark.parametrize("side", [False, True])
def test_an_order_of_features_changes_nothing(side):
    votes, prior = problem(8, side=side)
    order = np.random.default_rng(0).permutation(12)
    labels = np.unique(prior.groups[order], return_inverse=True)[1]
    turned = cast(votes.x[:, order], votes.up, side=votes.plus_on_a)
    here = fit_sparse(votes, prior)
    there = fit_sparse(turned, SparsePrior(labels, prior.scale[order]))
    assert there.log_factor == pytest.approx(here.log_factor, abs=1e-5)
    assert there.w == pytest.approx(here.w[order], abs=1e-6)
    assert there.covariance == pytest.approx(here.covariance[np.ix_(order, order)], abs=1e-6)
    assert there.more == pytest.approx(here.more[order], abs=1e-6)


def test_the_same_votes_give_the_same_bits_and_absent_ones_none():
    votes, prior = problem(4, side=True)
    rows = len(votes.x)
    more = Votes(
        np.insert(votes.x, rows // 2, 5.0, axis=0),
        np.insert(votes.up, rows // 2, 0.0),
        np.insert(votes.down, rows // 2, 0.0),
        np.insert(votes.plus_on_a, rows // 2, 1.0),
    )
    first = fit_sparse(votes, prior)
    for again in (fit_sparse(votes, prior), fit_sparse(more, prior)):
        assert first.log_factor == again.log_factor
        assert (first.w == again.w).all() and (first.covariance == again.covariance).all()
        assert [each.evidence for each in first.kept] == [each.evidence for each in again.kept]


def test_weights_count_votes_and_a_tie_is_half_of_each():
    votes, prior = problem(4)
    twice = cast(np.concatenate([votes.x] * 2), np.concatenate([votes.up] * 2))
    weighted = cast(votes.x, 2 * votes.up, 2 * votes.down)
    assert fit_sparse(weighted, prior).log_factor == pytest.approx(
        fit_sparse(twice, prior).log_factor, abs=1e-5
    )
    both = cast(np.concatenate([votes.x] * 2), np.repeat([1.0, 0.0], len(votes.x)))
    tied = cast(votes.x, 0.5 + 0 * votes.up)
    half = cast(both.x, both.up / 2, both.down / 2)
    assert fit_sparse(tied, prior).w == pytest.approx(fit_sparse(half, prior).w, abs=1e-6)


def test_a_side_is_no_taste():
    """Everybody votes for what stands on the left, and one feature stands there too often."""
    rng = np.random.default_rng(2)
    stood = rng.choice([-1.0, 1.0], 60)
    x = rng.normal(size=(60, 10))
    x[:, 3] += 1.5 * stood
    up = rng.random(60) < special.expit(2.0 * stood)
    prior = SparsePrior(np.arange(10), np.full(10, 0.7))
    blind, seeing = fit_sparse(cast(x, up), prior), fit_sparse(cast(x, up, side=stood), prior)
    assert blind.more[3] > 0.9
    assert seeing.log_factor < 0.5
    assert seeing.more[3] < 0.3


def test_the_dense_block_takes_what_no_feature_explains():
    rng = np.random.default_rng(6)
    x = rng.normal(size=(300, 20))
    up = rng.random(300) < special.expit(x[:, 12:] @ np.full(8, 0.5))
    prior = SparsePrior(np.r_[np.arange(12), np.full(8, -1)], np.full(20, 0.7))
    found = fit_sparse(cast(x, up), prior)
    assert found.dense > 0.99 and found.kept[0].support == tuple(range(12, 20))
    assert found.w[12:] == pytest.approx(0.5, abs=0.3)
    assert np.abs(found.w[:12]).max() < 0.01


def test_groups_are_equally_likely_unless_features_are_given_chances():
    groups = np.array([0, 0, 1, 2, 3, -1])
    equal = SparsePrior(groups, np.ones(6)).features()
    assert equal == pytest.approx([0.125, 0.125, 0.25, 0.25, 0.25, 0.0])
    prior = SparsePrior(groups, np.ones(6), np.array([2.0, 2.0, 4.0, 1.0, 1.0, 7.0]))
    assert prior.features() == pytest.approx([0.2, 0.2, 0.4, 0.1, 0.1, 0.0])
    table, dense = prior.log_chances()
    whole = np.exp(table)[np.triu_indices(6)].sum() + math.exp(dense)
    assert whole == pytest.approx(1.0)
    nothing = fit_sparse(cast(np.zeros((0, 6)), np.zeros(0)), prior)
    assert nothing.signal == pytest.approx(prior.signal)
    assert nothing.dense == pytest.approx(prior.signal * KINDS[2])


def test_chains_of_near_gradients_are_groups():
    metric = np.diag([1.0, 4.0, 1.0, 9.0, 1.0])
    metric[0, 1] = metric[1, 0] = 0.9 * 2
    metric[1, 3] = metric[3, 1] = 0.85 * 6
    metric[2, 4] = metric[4, 2] = -0.99
    assert group_features(metric).tolist() == [0, 0, 1, 0, 2]
    assert group_features(metric, np.array([0, 0, 0, 1, 0])).tolist() == [0, 0, 1, 2, 3]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("groups", np.array([0, 2])), ("scale", np.array([1.0, 0.0])), ("scale", np.ones(3)),
        ("widths", ()), ("signal", 1.0), ("chances", np.array([1.0])),
        ("chances", np.array([0.0, 0.0])), ("chances", np.array([1.0, -1.0])),
    ],
)  # fmt: skip
def test_a_wrong_prior_is_refused(field, value):
    with pytest.raises(UsageError, match="prior of the features"):
        SparsePrior(**{"groups": np.array([0, 1]), "scale": np.ones(2), field: value})


def test_votes_that_do_not_fit_are_refused():
    prior = SparsePrior(np.arange(2), np.ones(2))
    for votes in (
        cast(np.zeros((4, 3)), np.ones(4)),
        cast(np.full((4, 2), np.nan), np.ones(4)),
        cast(np.zeros((4, 2)), -np.ones(4)),
    ):
        with pytest.raises(UsageError, match="votes: "):
            fit_sparse(votes, prior)
