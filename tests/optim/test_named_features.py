"""Votes regressed on named features: what is found and refused, and where is asked along."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy import special

from szpo.config.optimizer import make_settings, record_settings
from szpo.errors import UsageError
from szpo.optim import all_votes, named_features, optimizer, parameters
from szpo.optim.informative import (
    CHANCE_UNITS,
    LARGEST_WEIGHT,
    NOISE,
    draw_direction,
    explanations_of,
)
from szpo.optim.named_features import NamedFeatures
from szpo.optim.optimizer import State
from szpo.optim.rule import StepInputs, perturbations
from szpo.optim.settings import Settings
from szpo.optim.sparse_regression import Kept, SparseFit
from szpo.types import FEATURE_GRID, Asked, Explanation, Floats, Query, Shift
from tests.support.tallies import one_vote
from tests.support.weighted_votes import in_turns

DIM, COUNT, COMPONENTS, ROWS = 24, 16, 4, 8
LAYOUT = (("z", (DIM,)),)
WANTED = 5
"""The voters like less of this feature."""


def table(seed: int = 0) -> NamedFeatures:
    """Features whose natural gradients lie in random directions, each of R² about a half."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((COUNT, DIM))
    rows *= 0.7 / np.linalg.norm(rows, axis=1, keepdims=True)
    return NamedFeatures(
        tuple(f"f{i}" for i in range(COUNT)),
        tuple(range(COUNT)),
        (FEATURE_GRID,) * COUNT,
        tuple(tuple(round(v * FEATURE_GRID) for v in row.tolist()) for row in rows),
        COMPONENTS,
        "0" * 64,
    )


def settings_of(features: NamedFeatures | None = None, **more: object) -> Settings:
    own = features or table()
    return make_settings(3, LAYOUT, rule="regression", features=own, D=ROWS, **more)


def texts(settings: Settings, query: Query, rng: np.random.Generator) -> tuple[StepInputs, Floats]:
    """What a step's texts show: the moves of both sides, and the luck of eight texts a side."""
    named, o = settings.features, settings.section
    moves = perturbations(settings, query, None).displacements(settings.distance)
    gradients = named_features.directions(named)[:, :COUNT]
    luck = rng.standard_normal((o.K, DIM)) * np.sqrt(2 / ROWS)
    rest = np.sqrt(1 - 0.7**2) * rng.standard_normal((o.K, COUNT)) * np.sqrt(2 / ROWS)
    shown = (moves + luck) @ gradients + rest
    grid = np.round(shown * FEATURE_GRID).astype(np.int64)[:, None]
    scores, centre = (moves + luck)[:, None], np.zeros(DIM)
    return StepInputs(scores=scores, centre=centre, text_differences=grid), shown


def less_of_wanted(shown: Floats) -> Floats:
    return -3.0 * shown[:, WANTED]


def walk(
    settings: Settings, steps: int, seed: int, logit=less_of_wanted, shows: Settings | None = None
) -> State:
    """Steps whose voter has this logit of the shown differences.

    ``shows``: the settings of the texts, where a rule sees their moves alone.
    """
    state, rng = optimizer.init(settings), np.random.default_rng(seed)
    for _ in range(steps):
        query = optimizer.ask(state)
        inputs, shown = texts(shows or settings, query, rng)
        plus = rng.random(settings.section.K) < special.expit(logit(shown))
        if shows:
            inputs = StepInputs(centre=inputs.centre)
        state, _, _ = optimizer.tell(state, query, one_vote(plus), inputs=inputs)
    return state


def cosine(a: Floats, b: Floats) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_forty_votes_find_the_feature_and_go_along_its_natural_gradient():
    settings = settings_of()
    way = -named_features.directions(settings.features)[:, WANTED]
    found = []
    for seed in range(3):
        state = walk(settings, 5, seed)
        fit = all_votes.fit_named(settings, state.carried).named
        assert fit.less[WANTED] == max(*fit.less, *fit.more)
        found.append(cosine(state.carried.recommended, way))
    assert np.mean(found) > 0.9
    # A flat fit of the coordinates, from the same votes' moves alone, stays behind.
    flat = make_settings(3, LAYOUT, rule="regression", D=ROWS)
    behind = [walk(flat, 5, seed, shows=settings).carried.recommended for seed in range(3)]
    assert np.mean([cosine(each, way) for each in behind]) < np.mean(found) - 0.2


def test_votes_by_chance_keep_the_recommendation_at_the_start():
    settings = settings_of()
    nats = []
    for seed in range(5):
        state = walk(settings, 5, 100 + seed, lambda shown: 0 * shown[:, 0])
        nats.append(float((state.carried.recommended**2).sum()) / 2)
    assert np.median(nats) < 0.15  # .14 nats while nothing is shown


def test_the_posterior_in_coordinates_predicts_what_the_weights_predict():
    settings = settings_of()
    state = walk(settings, 5, 1)
    whole = all_votes.fit_named(settings, state.carried).named
    found, _ = all_votes.fit_votes(settings, state.carried)
    A = named_features.directions(settings.features)
    x = np.random.default_rng(0).standard_normal((5, DIM))
    np.testing.assert_allclose(x @ found.w, x @ A @ whole.w)
    np.testing.assert_allclose(found.covariance, A @ whole.covariance @ A.T)
    assert found.log_factor == whole.log_factor and found.signal == whole.signal


@pytest.mark.full
def test_a_hostile_voter_weighs_less_than_one_who_votes_as_the_others():
    settings = settings_of(weighting="skill")
    state, rng = optimizer.init(settings), np.random.default_rng(4)
    for step in range(12):
        query = optimizer.ask(state)
        inputs, shown = texts(settings, query, rng)
        likes = rng.random(settings.section.K) < special.expit(-4.0 * shown[:, WANTED])
        voter = (np.arange(settings.section.K) + step) % 4
        cast = in_turns(voter, likes ^ (voter == 3), 4)
        state, _, _ = optimizer.tell(state, query, cast.tally(), by_voter=cast, inputs=inputs)
    weights = all_votes.learn_weights(settings, state.carried, state.history)
    assert weights[3] < 0.2 * weights[:3].min()


def test_what_does_not_fit_is_refused():
    settings = settings_of()
    state = optimizer.init(settings)
    with pytest.raises(UsageError, match="features of its texts"):
        query = optimizer.ask(state)
        optimizer.tell(state, query, one_vote(np.ones(8, bool)), inputs=StepInputs())
    own = table()
    for wrong in (
        lambda: replace(own, names=own.names[1:]),
        lambda: replace(own, scales=(0, *own.scales[1:])),
        lambda: replace(own, map=(own.map[0][1:], *own.map[1:])),
        lambda: replace(own, components=DIM + 1),
        lambda: replace(own, names=(3, *own.names[1:])),
        lambda: replace(own, own=((1, 2, 3, 4, 5),)),
        lambda: replace(own, groups=(*own.groups[:-1], 500)),
        lambda: replace(own, groups=(*own.groups[:-1], -1)),
        lambda: replace(own, scales=(10**400, *own.scales[1:])),
        lambda: replace(own, map=((0.5, *own.map[0][1:]), *own.map[1:])),
    ):
        with pytest.raises(UsageError, match="features"):
            wrong()


def test_a_group_is_called_by_the_feature_that_its_direction_moves_most():
    own = table()
    rows = (own.map[0], tuple(2 * v for v in own.map[0]), *own.map[2:])
    near = replace(own, groups=(0, 0, *range(1, COUNT - 1)), map=rows)
    assert named_features.group_heads(near)[:2] == (1, 2)
    fit = all_votes.fit_named(settings_of(), walk(settings_of(), 5, 0).carried).named
    chances = np.zeros_like(fit.less)
    chances[:2] = 0.6, 0.3
    (claim,) = named_features.claims(replace(fit, less=chances, more=0 * chances), near)
    assert (claim.feature, claim.group, claim.chance) == ("f0", "f1", pytest.approx(0.9))
    assert claim.share == pytest.approx(2 / 3)


def test_the_users_own_features_are_together_as_likely_as_all_others():
    own = replace(table(), own=(("f0", "keyword", "", "", "a"), ("f1", "regex", "", "", "b")))
    assert NamedFeatures.from_json(record_settings(settings_of(own))["features"]) == own
    chances = named_features.prior_of(own, ROWS).features()[:COUNT]
    np.testing.assert_allclose(chances[:2], 1 / 4)
    np.testing.assert_allclose(chances[2:], 1 / 2 / (COUNT - 2))
    with pytest.raises(UsageError, match="five facts"):
        replace(own, own=(("f0",),))
    said = named_features.with_said(own, ["f1", "f3", "f2", "no such"])
    assert said.said == ("f1", "f2", "f3")
    assert NamedFeatures.from_json(record_settings(settings_of(said))["features"]) == said
    chances = named_features.prior_of(said, ROWS).features()[:COUNT]
    np.testing.assert_allclose(chances[:4], 1 / 6)
    np.testing.assert_allclose(chances[4:], 1 / 3 / (COUNT - 4))


UNIT = FEATURE_GRID
GRID = ((UNIT, 0, 0, 0), (0, UNIT, 0, 0))
AXES = NamedFeatures(("f0", "f1"), (0, 1), (UNIT, UNIT), GRID, 1, "0" * 64)
SPACE = make_settings(3, (("z", (4,)),), rule="regression").space


def fit_of(*kept: tuple[tuple[int, ...], float, list[float]]) -> SparseFit:
    """A posterior of three regressors: two features and a component."""
    none, matrix = np.zeros(3), np.eye(3)
    ways = tuple(Kept(support, 0.0, chance, np.array(w)) for support, chance, w in kept)
    return SparseFit(none, matrix, 0.9, 1.0, none, none, 0.1, ways)


def test_the_draw_of_a_seed_is_these_numbers():
    # The seed turns the way (4, -3, 0, 0)/5 round. √.75 of that and √.25 of the seed's own unit
    # vector, here (-343, 72, 370, 54)/512.05, at length 2·256, end in (-424.37, 243.63, 149.09,
    # 21.76).
    own = parameters.direction_vector(SPACE, 1, 2) * 256
    assert own.tolist() == [-343, 72, 370, 54]
    way = Explanation(CHANCE_UNITS, (0, 1), (8, -6))
    assert draw_direction(SPACE, AXES, [way], 0.25, 1, 2) == (-424, 244, 149, 22)


def test_a_component_weighs_in_a_direction_as_a_feature_of_unit_gradient():
    way = Explanation(CHANCE_UNITS, (1, 2), (LARGEST_WEIGHT, LARGEST_WEIGHT))
    v = np.array(draw_direction(SPACE, AXES, [way], 1e-6, 0, 0), dtype=float)
    assert cosine(v, np.array([1.0, 1.0, 0.0, 0.0])) ** 2 == pytest.approx(1, abs=1e-2)


def test_a_direction_has_its_share_of_noise_and_the_laws_length():
    settings = settings_of()
    named, space = settings.features, settings.space
    way = Explanation(CHANCE_UNITS, (WANTED,), (LARGEST_WEIGHT,))
    along = named_features.directions(named)[:, WANTED]
    for noise in (0.1, NOISE, 1.0):
        cosines = []
        for k in range(DIM):
            v = np.array(draw_direction(space, named, [way], noise, 0, k)) / 256
            own = parameters.direction_vector(space, 0, k)
            assert np.linalg.norm(v) == pytest.approx(np.sqrt(DIM), abs=0.02)
            rest = v - own * (v @ own) / (own @ own)
            cosines.append(abs(cosine(v, along)))
            if noise == 1.0:
                assert np.linalg.norm(rest) < 0.02
        # A frame's own directions have a squared cosine of 1/d on average with any other.
        wanted = 1 - noise + noise / DIM
        assert np.mean(np.square(cosines)) == pytest.approx(wanted, abs=0.06)


def senses(quarters: dict[int, int], steps: int) -> Counter[tuple[int, bool]]:
    """How often a direction goes most along each axis, and whether to more of it.

    ``quarters``: the chances of the regressors, in quarters.
    """
    ways = [
        Explanation(share * CHANCE_UNITS // 4, (at,), (LARGEST_WEIGHT,))
        for at, share in quarters.items()
    ]
    seen = Counter[tuple[int, bool]]()
    for step in range(steps):
        v = draw_direction(SPACE, AXES, ways, 0.01, step, 0)
        axis = int(np.argmax(np.abs(v)))
        seen[axis, v[axis] > 0] += 1
    return seen


@pytest.mark.full
def test_both_ways_round_are_drawn_alike_and_each_way_as_often_as_it_says():
    seen = senses({0: 3, 2: 1}, 600)
    assert {axis for axis, _ in seen} == {0}  # the component is the first coordinate as well
    assert seen[0, True] == pytest.approx(300, abs=50)  # four standard errors
    axes = Counter(axis for axis, _ in senses({0: 3, 1: 1}, 600).elements())
    assert axes[0] == pytest.approx(450, abs=45) and axes[0] + axes[1] == 600


def test_whatever_way_is_drawn_its_sense_is_a_coin_of_its_own():
    """Else a voter who knows one way's sense would know which side is plus."""
    seen = senses({0: 2, 1: 2}, 100)
    # A quarter of a hundred each, give or take three standard errors of 4.3.
    assert len(seen) == 4 and all(12 <= count <= 38 for count in seen.values()), seen


def test_an_explanation_by_two_features_is_drawn_as_often_as_both():
    # Feature 0 has .64 in two explanations, feature 1 has .04 in one of these, the block .16.
    ways = ((), 0.2, []), ((0,), 0.6, [2.0]), ((0, 1), 0.04, [2.0, -1.0]), ((2,), 0.16, [0.5])
    found = fit_of(*ways)
    plain = {way.regressors: way.chance / CHANCE_UNITS for way in explanations_of(found, AXES)}
    whole = 0.64 + 0.04 + 0.16  # P of the features
    assert plain[0,] == pytest.approx(0.6 / whole, abs=1e-4)
    assert plain[0, 1] == pytest.approx((0.04 + 0.04) / whole, abs=1e-4)  # of either feature
    assert {way.weights for way in explanations_of(found, AXES)} == {
        (LARGEST_WEIGHT,), (LARGEST_WEIGHT, -round(LARGEST_WEIGHT / 2)),
    }  # fmt: skip


def test_all_named_coordinates_together_are_drawn_as_often_as_one():
    # Two features, then four coordinates with names: .3 of the first alone, .1 of all.
    eye = tuple(map(tuple, (UNIT * np.eye(4, dtype=int)).tolist()))
    named = replace(AXES, components=0, coordinates=("a", "b", "c", "d"), axes=eye)
    found = fit_of(((0,), 0.2, [1.0]), ((2,), 0.3, [1.0]), ((2, 3, 4, 5), 0.1, [1.0] * 4))
    plain = {way.regressors: way.chance / CHANCE_UNITS for way in explanations_of(found, named)}
    assert plain[2,] == pytest.approx(0.3 / 0.6, abs=1e-4)
    assert plain[2, 3, 4, 5] == pytest.approx(0.1 / 0.6, abs=1e-4)


def test_votes_that_say_nothing_leave_the_directions_of_the_seed():
    assert explanations_of(fit_of(((), 0.4, []), ((0,), 0.6, [1e-12])), AXES) == ()
    settings = replace(settings_of(), asking_noise=NOISE)
    query = optimizer.ask(optimizer.init(settings))
    assert query.asked == Asked(0, (), ())
    assert query.shifts == optimizer.ask(optimizer.init(settings_of())).shifts
    assert optimizer.ask(optimizer.init(replace(settings, asking_noise=1.0))).asked is None


def test_later_steps_ask_along_what_is_liked_and_lag_knows_one_step_less():
    settings = replace(settings_of(), asking_noise=NOISE)
    state, again = walk(settings, 4, 1), walk(settings, 4, 1)
    query = optimizer.ask(state)
    assert query == optimizer.ask(again)
    assert query.asked is not None and query.asked.after == 4
    way = named_features.directions(settings.features)[:, WANTED]
    v = np.array(query.asked.grids)
    plain = np.array([parameters.direction_vector(settings.space, 4, k) for k in range(8)])
    asked, chance = (np.mean([cosine(one, way) ** 2 for one in each]) for each in (v, plain))
    assert asked > 4 * chance
    ahead = optimizer.ask(state, 5)
    assert ahead.asked is not None and ahead.asked.after == 4
    assert ahead.asked.ways == query.asked.ways and ahead.asked.grids != query.asked.grids


def test_a_shift_goes_along_its_own_grid_with_the_radius_of_the_law():
    grid = (300, -100, 0, 25)
    asked = Asked(1, (Explanation(1, (0,), (LARGEST_WEIGHT,)),), (grid,) * 8)
    settings = make_settings(
        3, SPACE.layout, rule="regression", D=8, features=AXES, asking_noise=NOISE
    )
    query = optimizer.query(settings, 1, 0.5, asked=asked)
    theta = parameters.zeros(settings.layout)
    for plus, minus in query.shifts:
        z = parameters.shift(settings.space, theta, plus)["z"]
        assert np.linalg.norm(z) == pytest.approx(0.5 * 2, rel=2e-4)  # μ√d
        np.testing.assert_array_equal(z, -parameters.shift(settings.space, theta, minus)["z"])
        assert cosine(z.astype(float), np.array(grid, float)) == pytest.approx(1)
    for wrong in ((1, 2), (2**15, 0, 0, 0)):
        with pytest.raises(UsageError, match="4 integers of 16 bits"):
            parameters.shift(settings.space, theta, Shift(1, 0, 1, 0.5, wrong))
