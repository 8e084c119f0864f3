"""Coordinates with names, as of adapters: the evidence, the step, and what is said of them."""

import itertools
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from szpo.config import settings_file
from szpo.config.optimizer import make_settings, read_settings, record_settings
from szpo.errors import UsageError
from szpo.features import dictionary
from szpo.optim import all_votes, informative, named_features, optimizer, regression
from szpo.optim.informative import NOISE, draw_direction
from szpo.optim.named_features import BY_SQUARE, FEW, NamedFeatures
from szpo.optim.rule import StepInputs, perturbations
from szpo.optim.settings import Settings
from szpo.optim.sparse_prior import SparsePrior
from szpo.optim.sparse_regression import SparseFit, fit_sparse
from szpo.optim.vote_regression import Votes
from szpo.types import FEATURE_GRID, Answer, Comparison, Explanation, Prompt, Row
from szpo.voting import shown_features
from tests.support.tallies import one_vote

DIM = 5
TEXTS = ("f0", "f1", "f2")
CARRIED = 0.6
"""Spreads by which a unit along the first two coordinates moves the first two features."""


def table(names: tuple[str, ...] = TEXTS, side: float = 0.1) -> NamedFeatures:
    """Five coordinates, of which the first carries more of f0, and the second less of f1."""
    rows = np.full((3, DIM), side)
    rows[0, 0], rows[1, 1], rows[2] = CARRIED, -CARRIED, 0.02
    grid = np.rint(rows * FEATURE_GRID).astype(int).tolist()
    return NamedFeatures(
        names, tuple(range(len(names))), (FEATURE_GRID,) * len(names),
        tuple(map(tuple, grid))[: len(names)], 0, "0" * 64,
        coordinates=tuple("abcde"),
        axes=tuple(map(tuple, (FEATURE_GRID * np.eye(DIM, dtype=int)).tolist())),
    )  # fmt: skip


def settings_of(features: NamedFeatures | None = None, **more: object) -> Settings:
    own = table() if features is None else features
    return make_settings(
        3, (("z", (DIM,)),), rule="regression", kl_radius=2.0, features=own,
        **{"D": 1, "asking_noise": NOISE, **more},
    )  # fmt: skip


def walk(settings: Settings, steps: int, seed: int, taste, hidden: float = 0.0):
    """Steps whose voter's logit is ``taste`` of the texts' differences and of the move.

    ``hidden``: weight of what no feature shows and the third coordinate moves.
    """
    named, rng = settings.features, np.random.default_rng(seed)
    state = optimizer.init(settings)
    gradients = named_features.directions(named)[:, : len(named.names)]
    for _ in range(steps):
        query = optimizer.ask(state)
        moves = perturbations(settings, query, None).displacements(settings.distance)
        luck = rng.standard_normal((settings.section.K, len(named.names))) * math.sqrt(
            2 / settings.section.D
        )
        shown = moves @ gradients + luck
        logits = shown @ np.asarray(taste)[: len(named.names)] + hidden * moves[:, 2]
        plus = rng.random(settings.section.K) < special.expit(logits)
        texts = np.rint(shown * FEATURE_GRID).astype(np.int64)[:, None]
        inputs = StepInputs(centre=np.zeros(DIM), text_differences=texts if named.names else None)
        state, _, _ = optimizer.tell(state, query, one_vote(plus), inputs=inputs)
    return state


def test_evidence_of_coordinates_agrees_with_integrals():
    """Four coordinates, 14 votes: one, two, three and all of them by quadrature, one width."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(14, 4))
    up = (rng.random(14) < special.expit(x @ [2.0, -1.0, 0.0, 0.5])).astype(float)
    prior = SparsePrior(np.full(4, -1), np.full(4, 1.3), few=FEW, widths=(2.0,))
    found = fit_sparse(Votes(x, up, 1 - up), prior)
    nodes, weights = np.polynomial.hermite_e.hermegauss(24)
    weights = weights / weights.sum()
    likelihoods = {}
    for size in (1, 2, 3, 4):
        grid = np.stack(np.meshgrid(*[nodes] * size, indexing="ij"), -1).reshape(-1, size)
        mass = np.prod(np.stack(np.meshgrid(*[weights] * size, indexing="ij"), -1), -1).ravel()
        each = []
        for support in itertools.combinations(range(4), size):
            eta = grid * 2.0 / (math.sqrt(size) * 1.3) @ x[:, support].T
            each.append(np.exp((up * eta - np.logaddexp(0, eta)).sum(-1)) @ mass)
        likelihoods[size] = np.mean(each)
    whole = sum(chance * likelihoods[n + 1] for n, chance in enumerate(FEW)) / sum(FEW)
    assert found.log_factor == pytest.approx(math.log(whole) + 14 * math.log(2), abs=0.1)
    assert {len(each.support) for each in found.kept} == {0, 1, 2, 3, 4}
    assert sum(each.chance for each in found.kept) == pytest.approx(1)
    three = sum(each.chance for each in found.kept if len(each.support) == 3)
    wanted = found.signal * FEW[2] * likelihoods[3] / sum(FEW) / whole
    assert three == pytest.approx(wanted, abs=0.02)


def test_half_of_the_prior_is_for_coordinates_and_no_support_mixes_them_with_features():
    prior = named_features.prior_of(table(), 1, 2.0)
    chances, dense = prior.log_chances()
    upper = np.exp(np.where(np.triu(np.ones_like(chances)), chances, -np.inf))
    assert upper[:3, :3].sum() == pytest.approx(0.5) and not upper[:3, 3:].any()
    few = upper[3:, 3:].sum() + 10 * math.exp(prior.log_triples()[0]) + math.exp(dense)
    assert few == pytest.approx(0.5)
    assert np.diag(upper)[3:].sum() == pytest.approx(0.5 * FEW[0])
    assert prior.features() == pytest.approx([1 / 6] * 3 + [0.1] * 5)
    said = named_features.with_said(table(), [table().coordinates[1]])
    raised = named_features.prior_of(said, 1, 2.0)
    assert raised.features()[3:] == pytest.approx([1 / 16, 1 / 4, 1 / 16, 1 / 16, 1 / 16])
    own, dense = raised.log_chances()
    single = np.exp(np.diag(own)[3:])
    assert single == pytest.approx(FEW[0] * raised.features()[3:])
    assert np.exp(own[4, [3, 5]]) == pytest.approx(FEW[1] / 2 * 4 / (4 * 4 + 6))
    triples = np.exp(raised.log_triples())
    assert triples.sum() == pytest.approx(FEW[2] / 2)
    assert triples[0] == pytest.approx(4 * triples[-1])
    assert dense == pytest.approx(math.log(FEW[3] / 2))
    assert prior.precision((4,), 2.0) == pytest.approx(1.0)  # a logit of 2 at 2 units apart


def test_triples_that_are_screened_are_what_exact_fits_say():
    from szpo.optim import sparse_regression

    for seed in range(6):
        rng = np.random.default_rng(seed)
        rows = (10, 40, 160)[seed % 3]
        x, side = rng.normal(size=(rows, 9)), rng.choice([-1.0, 1.0], rows)
        w = np.where(np.arange(9) < 3, rng.normal(size=9) * (0, 1, 3)[seed // 2], 0.0)
        up = (rng.random(rows) < special.expit(x @ w)).astype(float)
        votes = Votes(x, up, 1 - up, side if seed % 2 else None)
        prior = SparsePrior(np.full(9, -1), np.ones(9), few=FEW)
        with pytest.MonkeyPatch.context() as patch:
            screened = fit_sparse(votes, prior)
            patch.setattr(sparse_regression, "REFITS", 1000)
            exact = fit_sparse(votes, prior)
        assert screened.log_factor == pytest.approx(exact.log_factor, abs=0.02), seed
        assert screened.kept[0].support == exact.kept[0].support
        assert screened.w == pytest.approx(exact.w, abs=0.02)
        assert screened.covariance == pytest.approx(exact.covariance, abs=0.03)


def look_again(seed: int, prior: SparsePrior, x, up) -> tuple[np.ndarray, SparseFit | None]:
    """Four more rows, each the one of six that the votes so far make most worth asking."""
    found = fit_sparse(Votes(x, up, 1 - up), prior) if len(up) else None
    rows = np.random.default_rng((seed, len(up))).normal(size=(4, 6, 8)) * prior.scale
    rows[::2, :, 3:] = 0.0
    chosen = [each[informative.worth(each, found, prior).argmax()] for each in rows]
    return np.concatenate([x, chosen]), found


@pytest.mark.full
def test_over_all_votes_the_factor_is_one_on_average_though_rows_follow_the_votes():
    prior = named_features.prior_of(table(), 1, 2.0)
    start, _ = look_again(0, prior, np.zeros((0, 8)), np.zeros(0))
    outcomes = np.array(list(itertools.product((0.0, 1.0), repeat=4)))
    factors = []
    for first in outcomes:
        x, _ = look_again(0, prior, start, first)
        for second in outcomes:
            up = np.append(first, second)
            factors.append(math.exp(fit_sparse(Votes(x, up, 1 - up), prior).log_factor))
    assert np.mean(factors) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("rows", [1, pytest.param(8, marks=pytest.mark.full)])
def test_a_taste_goes_along_the_coordinate_that_carries_it_by_moves_and_by_texts(rows):
    """Likes f0, which the first coordinate moves: each kind of regressor finds it, and both do."""
    both = settings_of(D=rows)
    moves = settings_of(table(()), D=rows)
    for settings in (both, moves):
        cosines = []
        for seed in range(3):
            state = walk(settings, 12, seed, (3.0, 0.0, 0.0), 0.0 if settings is both else 1.5)
            way = state.carried.recommended / np.linalg.norm(state.carried.recommended)
            cosines.append(way[0] if settings is both else way[2])
        assert np.mean(cosines) > 0.85


def test_a_taste_that_no_feature_shows_is_learned_from_moves_alone():
    settings = settings_of()
    state = walk(settings, 16, 1, (0.0, 0.0, 0.0), hidden=1.5)
    top = regression.findings_of(settings, state.carried)
    assert (top.taught[0].feature, top.taught[0].more) == ("c", True) and top.shown
    assert dict(top.mix)["c"] > 1.0 and abs(dict(top.mix)["a"]) < 0.3
    # By its curve, from twice |z|²/2 at |z| = 1 to four times at 2, the same weights cost more.
    dear = replace(table(), curves=((2048, 8192, FEATURE_GRID, 8 * FEATURE_GRID),) * DIM)
    measured = dict(regression.findings_of(settings_of(dear), state.carried).mix)
    length = math.sqrt(2 * dict(top.mix)["c"])
    assert 1 < length < 4
    cost = length**3 if length <= 2 else 8 * (length / 2) ** 2  # a square beyond what was measured
    assert measured["c"] == pytest.approx(cost)


nats = st.floats(0.01, 20)


@given(curve=st.tuples(nats, nats, nats, nats), length=st.floats(-5, 5))
def test_a_curve_rises_through_what_was_measured_and_can_be_read_both_ways(curve, length):
    curve = (*named_features.rising(*curve[:2]), *named_features.rising(*curve[2:]))
    at = partial(named_features.nats_at, curve)
    assert [at(x) for x in (-1, -2, 1, 2)] == pytest.approx(np.multiply(curve, (-1, -1, 1, 1)))
    assert named_features.length_at(curve, at(length)) == pytest.approx(length)
    assert at(length / 2) == pytest.approx(at(length) / 4) if abs(length) <= 1 else True
    assert at(2 * abs(length)) <= 4.001 * at(abs(length)) if abs(length) >= 2 else True
    assert at(abs(length) * 1.1) >= 1.09 * at(abs(length)) >= 0 >= at(-abs(length))
    assert named_features.nats_at(BY_SQUARE, length) == pytest.approx(length * abs(length) / 2)


def test_a_word_said_often_enough_says_no_more_where_coordinates_have_names():
    """One "I" in two words and four in five are both beyond two spreads: they do not differ."""
    named = table(("i", "commas", "length"))
    named = replace(named, scales=(82, 82, 82), dictionary=dictionary.digest())
    often, once, never = "I, I, I, I write", "I write", "We write"
    spread = 82 / FEATURE_GRID
    for features, much in ((named, 2.0), (replace(named, coordinates=(), axes=()), None)):
        entries = shown_features.entries_of(features)
        rows = [Row(Prompt.user("?"), Answer(a), Answer(b)) for a, b in ((often, never),
                (often, once), (never, once))]  # fmt: skip
        shown = [Comparison(f"{k:032x}", 0, k, 0, (row,)) for k, row in enumerate(rows)]
        x = shown_features.differences_of(features, shown, entries)[:, 0] / FEATURE_GRID
        by_share = [much or 0.8 / spread, 0.0 if much else 0.3 / spread, -(much or 0.5 / spread)]
        np.testing.assert_allclose(x[:, 0], by_share, rtol=1e-3)
        np.testing.assert_allclose(x[:, 1], [0.6 / spread, 0.6 / spread, 0], rtol=1e-3)
        np.testing.assert_allclose(x[:, 2], [3 / spread, 3 / spread, 0], rtol=1e-3)


def test_every_other_row_is_of_the_policys_own_answers_and_says_nothing_of_moves():
    settings = settings_of(K=4)
    state = optimizer.init(settings)
    for step in (0, 1):
        query = optimizer.ask(state)
        still = [all(s.radius == 0 and s.sign == 0 for s in pair) for pair in query.shifts]
        assert still == [(step + k) % 2 == 1 for k in range(4)]
        moved = perturbations(settings, query, None).displacements(2)
        x = all_votes.regressors_of_step(
            settings,
            perturbations(
                settings, query, None,
                StepInputs(text_differences=np.full((4, 1, 3), FEATURE_GRID)),
            ),
        )  # fmt: skip
        np.testing.assert_allclose(x[:, 0, 3:], moved)
        assert not x[still, 0, 3:].any() and (x[..., :3] == 1).all()
        state = walk(settings, 1, 0, (0.0, 0.0, 0.0))
    batches = optimizer.ask(optimizer.init(settings_of(K=4, D=8)))
    assert all(plus.radius > 0 for plus, _ in batches.shifts)


def test_what_lies_along_slanted_axes_is_measured_and_followed_along_them():
    slanted = np.eye(DIM)
    slanted[1] = [0.8, 0.6, 0, 0, 0]
    grid = np.rint(slanted * FEATURE_GRID).astype(int).tolist()
    own = replace(table(()), axes=tuple(map(tuple, grid)))
    x = named_features.along(own, np.array([[1.0, 1.0, 0, 0, 0]]))
    np.testing.assert_allclose(x[0], [1, 1.4, 0, 0, 0], atol=1e-3)
    np.testing.assert_allclose(named_features.directions(own)[:, 1], slanted[1], atol=1e-3)
    z = 1.5 * slanted[1] - 0.4 * slanted[2]
    found = named_features.nats_along(own, z)
    np.testing.assert_allclose(found, [0, 1.125, -0.08, 0, 0], atol=1e-3)
    space = settings_of(own).space
    along = np.array(draw_direction(space, own, [Explanation(1, (1,), (5,))], 1e-6, 0, 0))
    cosine = along @ slanted[1] / np.linalg.norm(along)
    assert abs(cosine) > 0.999


def test_a_coordinate_and_the_feature_that_it_carries_are_said_once_in_the_names_sense():
    own = table()
    assert [each.name for each in named_features.groups(own)] == ["a", "b", "f2", "c", "d", "e"]
    less, more = np.zeros(8), np.zeros(8)
    more[0], more[3] = 0.3, 0.5  # f0, a
    less[1], more[4], less[2] = 0.25, 0.35, 0.1  # less of f1 is more of b
    fit = SparseFit(np.zeros(8), np.eye(8), 1.0, 3.0, less, more, 0.0, ())
    said = [(c.group, c.more, round(c.chance, 9)) for c in named_features.claims(fit, own)]
    assert said == [("a", True, 0.8), ("b", True, 0.6), ("f2", False, 0.1)]
    assert named_features.members(own, "a") == named_features.members(own, "f0") == (0, 3)
    assert named_features.groups_of(own)["b"] == ("f1", "b")
    # Where coordinates carry little, both have groups of their own.
    weak = replace(own, map=tuple(tuple(v // 3 for v in row) for row in own.map))
    assert len(named_features.groups(weak)) == 8
    # What a set says of an adapter comes before what moves most, in the sense that it says.
    made = replace(weak, made_for=(("f2", 1), ("f1", 0), ("f1", 1), ("commas", 1), ("", 1)))
    assert named_features.groups_of(made) == {
        "f0": ("f0",), "b": ("f1", "b"), "a": ("f2", "a"), "c": ("c",), "d": ("d",), "e": ("e",)
    }  # fmt: skip
    assert named_features.group_of(made, 1).senses == (-1, 1)
    # One name for both: the group has both columns, whatever moves most.
    same = replace(own, coordinates=(*own.coordinates[:-1], "f0"))
    assert named_features.members(same, "f0") == (0, 7)
    assert named_features.members(same, "a") == (3,)


def test_a_taste_that_no_coordinate_carries_is_told_and_not_followed_far():
    settings = settings_of()
    state = walk(settings, 12, 2, (0.0, 0.0, 3.0))
    found = regression.findings_of(settings, state.carried)
    assert found.taught[0].feature == "f2" and found.lacking[0] == "f2" and found.shown
    assert regression.Findings.from_json(found.to_json()) == found
    made = replace(settings.features, made_for=(("f2", 1),) * DIM)
    found = regression.findings_of(replace(settings, features=made), state.carried)
    assert found.lacking == () and found.taught[0].group == "a"


def test_settings_without_names_are_written_as_before_and_with_names_read_back():
    measured = replace(table(), curves=((2048, 8192, 1500, 9000),) * DIM)
    plain = replace(measured, coordinates=(), axes=(), curves=())
    body = record_settings(settings_of(plain, asking_noise=None))
    assert not {"coordinates", "axes", "curves"} & {*body["features"]}
    named = settings_of(replace(measured, made_for=(("f0", 1), ("f1", 0), *(("", 1),) * 3)))
    assert read_settings(record_settings(named), named.root_seed, named.layout) == named
    for wrong in (
        {"coordinates": ("a",)}, {"components": 1}, {"axes": ((0,) * DIM, *table().axes[1:])},
        {"axes": (table().axes[0][1:], *table().axes[1:])}, {"curves": ((1, 2, 3),) * DIM},
        {"curves": ((1, 2, 0, 2),) * DIM}, {"curves": ((1, 2, 1, 2),)},
        {"made_for": (("f0", 1),)},
    ):  # fmt: skip
        with pytest.raises(UsageError, match="features: "):
            replace(table(), **wrong)


def test_rows_too_are_asked_about_along_what_votes_say_where_policies_are_perturbed():
    """Batches are wherever features have names, rows where coordinates have."""
    layout, bare = (("z", (DIM,)),), replace(table(), coordinates=(), axes=(), components=1)
    rows, batches = (
        settings_file.load(sets=["subspace.kind=features", *more])
        for more in ((), ("optimizer.D=8",))
    )
    assert rows.optimizer.D == 1
    for config, features, noise in (
        (rows, table(), NOISE), (rows, bare, None), (batches, bare, NOISE), (batches, None, None)
    ):  # fmt: skip
        assert config.optimizer_settings(layout, 1.0, features).asking_noise == noise
