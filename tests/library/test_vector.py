"""`szpo.Optimizer`: what it finds, that it repeats to the bit, and what it refuses."""

import contextlib
import json
import math
import os
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import szpo
from szpo.errors import IntegrityError, StorageError, UsageError
from szpo.optim import optimizer, parameters
from szpo.types import Tally
from szpo.vector_optimizer import make_space
from tests.support.cases import case

TARGET = np.array([1.0, -2.0])


def nearer(pair: szpo.Pair, target: Any = TARGET) -> str:
    a, b = (float(np.linalg.norm(point - target)) for point in pair)
    return "a" if a < b else "b"


def tune(opt: szpo.Optimizer, votes: int, target: Any = TARGET) -> szpo.Optimizer:
    for _ in range(votes):
        opt.tell(nearer(opt.ask(), target))
    return opt


def test_a_vector_of_two_is_tuned_in_sixty_votes():
    opt = tune(szpo.Optimizer(dim=2), 60)
    assert np.linalg.norm(opt.best - TARGET) < 0.15 * np.linalg.norm(TARGET)


def errors_after(votes: int, wrong: float, **options: Any) -> list[float]:
    """Distances from 200 random optima in [−2, 2]³, by a judge who errs in this share of votes."""
    found, draw = [], np.random.default_rng(7)
    for seed in range(200):
        goal, opt = draw.uniform(-2, 2, 3), szpo.Optimizer(dim=3, seed=seed, **options)
        for _ in range(votes):
            a, b = opt.ask()
            nearer = np.linalg.norm(a - goal) < np.linalg.norm(b - goal)
            opt.tell("a" if nearer != (draw.random() < wrong) else "b")
        found.append(float(np.linalg.norm(opt.best - goal)))
    return found


@pytest.mark.slow
def test_the_default_does_not_circle_and_bears_wrong_votes():
    assert np.median(errors_after(60, 0.0)) <= 0.1
    wrong = errors_after(60, 0.2)  # .33 and .63 by steps that fall with the root of the votes
    assert np.median(wrong) <= 0.25 and np.quantile(wrong, 0.9) <= 0.6


@pytest.mark.parametrize("rule", ["known", "sign", "regression"])
def test_every_rule_moves_towards_what_is_preferred(rule):
    opt = tune(szpo.Optimizer(dim=2, rule=rule), 15)
    with warned(rule):
        assert np.linalg.norm(opt.best - TARGET) < np.linalg.norm(TARGET)


def warned(rule: str) -> contextlib.AbstractContextManager[object]:
    """The rule's recommended point comes with a warning where it is not for vectors."""
    if rule != "regression":
        return contextlib.nullcontext()
    return pytest.warns(UserWarning, match="goes on past an optimum.*rule='known'")


def test_the_point_is_what_the_optimizers_own_functions_give():
    """The holder adds nothing: the same votes by `szpo.optim` alone lead to the same bits."""
    opt, state = szpo.Optimizer(dim=3, seed=5), None
    state = optimizer.init(opt._first)
    theta = parameters.zeros(opt._first.layout)
    for _ in range(10):
        query = optimizer.ask(state)
        space = opt._first.space
        plus, minus = (parameters.shift(space, theta, each)["z"] for each in query.shifts[0])
        a, b = opt.ask()
        assert {tuple(a), tuple(b)} == {tuple(plus), tuple(minus)}
        plus_wins = float(plus[0] > minus[0])
        opt.tell("a" if a[0] > b[0] else "b")
        zero = np.zeros((1, 1))
        votes = Tally(zero + plus_wins, zero + 1 - plus_wins, zero, zero.astype(bool))
        state, updates, _ = optimizer.tell(state, query, votes)
        theta = parameters.apply_update(opt._first.space, theta, updates[0])
    assert opt.best.tolist() == theta["z"].astype(float).tolist()


def test_sides_are_drawn_and_ties_move_nothing():
    opt = szpo.Optimizer(dim=2)
    plus_is_a = []
    for _ in range(40):
        pair = opt.ask()
        plus = parameters.shift(
            opt._first.space, {"z": np.zeros(2, np.float32)},
            optimizer.ask(opt._state).shifts[0][0],
        )["z"]  # fmt: skip
        plus_is_a.append(pair.a.tolist() == plus.tolist())
        opt.tell("tie")
    assert 10 <= sum(plus_is_a) <= 30
    assert opt.best.tolist() == [0.0, 0.0]
    assert (opt.votes, opt.steps) == (40.0, 40)


def test_pairs_stay_until_they_are_answered_and_single_ones_come_again():
    opt = szpo.Optimizer(dim=2)
    first, again = opt.ask(3), opt.ask(3)
    assert all(np.array_equal(x.a, y.a) for x, y in zip(first, again, strict=True))
    with pytest.raises(UsageError, match="3 pairs await votes; give them with tell"):
        opt.ask()
    with pytest.raises(UsageError, match="2 votes for 3 pairs"):
        opt.tell(["a", "b"])
    opt.tell(["a", None, 0.25])
    assert opt.votes == 2.0  # nobody answered one of them


def test_pairs_are_told_in_any_order_and_by_two_raters_at_once():
    votes = ["a", None, 0.25, "b", "tie"]
    whole = szpo.Optimizer(dim=3, seed=2)
    whole.ask(5)
    whole.tell(votes, weight=[1, 1, 4, 1, 2])
    for order in ((4, 0, 3, 1, 2), (2, 1, 0, 4, 3)):
        opt = szpo.Optimizer(dim=3, seed=2)
        pairs = opt.ask(5)
        for i in order[:3]:
            opt.tell(votes[i], weight=[1, 1, 4, 1, 2][i], pair=pairs[i])
        assert opt.steps == 0 and len(opt.waiting) == 2 == len(opt.ask(5)) - 3
        with pytest.raises(UsageError, match="3 of 5 pairs have their vote"):
            opt.tell(votes)
        for wrong in (pairs[order[0]], szpo.Optimizer(dim=3).ask(), 0):
            with pytest.raises(UsageError, match="this pair awaits no vote"):
                opt.tell("a", pair=wrong)
        opt = szpo.Optimizer.from_dict(json.loads(json.dumps(opt.to_dict())))
        with ThreadPoolExecutor(2) as pool:
            told = [pool.submit(opt.tell, votes[i], weight=[1, 1, 4, 1, 2][i], pair=pairs[i])
                    for i in order[3:]]  # fmt: skip
        assert [each.exception() for each in told] == [None, None]
        assert opt.digest() == whole.digest() and opt.votes == whole.votes
        assert opt.waiting == ()


@pytest.mark.parametrize("weight", [5000.0, 1e8, 1e300])
def test_the_weight_of_a_vote_takes_no_memory(weight):
    opt = szpo.Optimizer(dim=2)
    opt.ask()
    tracemalloc.start()
    try:
        opt.tell(0.75, weight=weight)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert opt.info is not None and opt.votes == weight
    assert opt.info.stderr[0] == pytest.approx(math.sqrt(1 / (0.1875 * weight)), rel=1e-3)


def test_a_weight_counts_as_that_many_votes():
    points = []
    for vote, weight in ((0.75, 4.0), (0.75, 1.0), (0.5, 1.0)):
        opt = szpo.Optimizer(dim=2)
        opt.ask()
        opt.tell(vote, weight=weight)
        points.append(float(np.linalg.norm(opt.best)))
        assert opt.votes == weight
    # known: log((3 + 1/2) / (1 + 1/2)) against log((3/4 + 1/2) / (1/4 + 1/2)), and log 1 = 0
    assert points[0] / points[1] == pytest.approx(math.log(7 / 3) / math.log(5 / 3), rel=1e-3)
    assert points[2] == 0.0


def test_bounds_hold_and_an_optimum_on_the_edge_is_found():
    opt = szpo.Optimizer(bounds=[(0, 4), (10, 20)], seed=2)
    assert opt.best.tolist() == [2.0, 15.0]
    for _ in range(60):
        pair = opt.ask()
        for x in pair:
            assert 0 <= x[0] <= 4 and 10 <= x[1] <= 20
        opt.tell(nearer(pair, [4, 11]))
    assert abs(opt.best - [4, 11]).max() < 1


@pytest.mark.parametrize("target", [0.2, 0.5, 0.8])
def test_an_optimum_near_a_bound_is_not_taken_for_the_bound(target):
    for seed in range(3):
        opt = szpo.Optimizer(dim=1, bounds=(0, 1), seed=seed)
        for _ in range(60):
            opt.tell(nearer(opt.ask(), [target]))
        assert abs(opt.best - target).max() < 0.05


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=2))
def test_mirroring_keeps_points_inside_and_what_is_inside_unchanged(z):
    space = make_space(None, None, 1.0, [(-3, 1), (0, 5)])
    x = space.to_vector(z)
    assert (x >= [-3, 0]).all() and (x <= [1, 5]).all()
    free = space.start + np.array(z)
    inside = (free >= [-3, 0]) & (free <= [1, 5])
    assert x[inside] == pytest.approx(free[inside], abs=1e-9)


def test_two_points_coincide_only_where_all_their_coordinates_do():
    space = make_space(None, [0, 0], 1.0, [(-1, 1), (-9, 9)])
    assert space.to_vector([0.5, 0]) == pytest.approx(space.to_vector([1.5, 0]))
    assert space.coincide([0.5, 0], [1.5, 0])  # the first is mirrored at 1
    assert not space.coincide([0.5, 0], [1.5, 2])


NAMED = {"rate": (1e-4, 1.0, "log"), "width": (0, 4)}


def test_named_parameters_are_found_within_their_bounds(tmp_path):
    opt = szpo.Optimizer(bounds=NAMED, start={"width": 1}, seed=3)
    assert opt.best == {"rate": pytest.approx(1e-2), "width": 1.0} and opt.dim == 2

    def cost(point):
        return abs(math.log10(point["rate"]) + 3) + abs(point["width"] - 4)

    def better(a, b):
        assert all(1e-4 <= each["rate"] <= 1 and 0 <= each["width"] <= 4 for each in (a, b))
        return cost(a) < cost(b)

    best = opt.run(better, 60)
    assert best["width"] > 3.5 and 2e-4 < best["rate"] < 5e-3
    one, other = opt.ask(2)
    opt.tell("b", pair=other)
    opt.save(tmp_path / "state.json")
    again = szpo.Optimizer.load(tmp_path / "state.json")
    assert again.best == best and again.waiting == (one,) and again.digest() == opt.digest()
    assert opt.history[-1].best == best


SAVED: list[dict[str, Any]] = [
    {"dim": 3, "seed": 4},
    {"bounds": [(0, 1), (-5, 5)], "rule": "sign", "scale": 0.2},
    {"start": [1.0, 2.0], "rule": "regression"},
]


@pytest.mark.parametrize("how", SAVED, ids=str)
def test_a_saved_state_goes_on_at_the_same_bits(how, tmp_path):
    opt = szpo.Optimizer(**how)
    for i in range(6):
        opt.ask(1 + i % 2)
        votes = [["a", "tie", 0.3, None][i % 4], "b"]
        opt.tell(votes[: 1 + i % 2], weight=[1.0, 0.1 * i][: 1 + i % 2])
    waiting = opt.ask()
    opt.save(tmp_path / "state.json")
    again = szpo.Optimizer.load(tmp_path / "state.json")
    assert again.to_dict() == opt.to_dict()
    assert [p.tolist() for p in again.ask()] == [p.tolist() for p in waiting]
    for each in (opt, again):
        each.tell("b")
    assert again.digest() == opt.digest()
    with warned(how.get("rule", "known")):
        assert again.best.tolist() == opt.best.tolist()


def test_what_is_no_saved_state_or_was_changed_is_refused(tmp_path):
    saved = tune(szpo.Optimizer(dim=2), 5).to_dict()
    saved["votes"][2][0][0] = "tie"
    with pytest.raises(IntegrityError, match="another point than was saved"):
        szpo.Optimizer.from_dict(saved)
    for name, other in (("start", [0.0, 1e3]), ("scale", [1.0, 2.0]), ("bounds", [[-9, 9]] * 2)):
        moved = {**saved, "votes": [], "space": {**saved["space"], name: other}}
        empty = szpo.Optimizer(dim=2).to_dict() | {"space": moved["space"]}
        with pytest.raises(IntegrityError, match="another point than was saved"):
            szpo.Optimizer.from_dict(empty)
    many = szpo.Optimizer(dim=2).to_dict() | {"waiting": [10_000_000, False]}
    for words, state in (
        ("not a saved state", {"format": 6}),
        ("take the szpo that saved it", {**saved, "format": 99}),
        ("10,000", many),
    ):
        with pytest.raises(UsageError, match=words):
            szpo.Optimizer.from_dict(state)
    for words, text in (
        (r"x\.json: Optimizer: not a saved state", '{"format": 6}'),
        ("no saved Optimizer", "[1]"),
        ("no saved Optimizer", "[" * 100_000),
    ):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(UsageError, match=words):
            szpo.Optimizer.load(tmp_path / "x.json")
    os.mkfifo(tmp_path / "pipe")
    for name in ("none.json", "pipe"):
        with pytest.raises(StorageError, match="cannot be read"):
            szpo.Optimizer.load(tmp_path / name)
    with pytest.raises(StorageError, match="cannot be written"):
        szpo.Optimizer(dim=1).save(tmp_path / "none" / "x.json")
    json.dumps(saved, allow_nan=False)


HUGE = math.factorial(200)
REFUSED = (
    ({}, "number of coordinates is missing"),
    ({"dim": 0}, "dim is 0"),
    ({"dim": True}, "dim is True"),
    ({"dim": 2.0}, "dim is 2.0"),
    ({"dim": 2, "seed": "1"}, "seed '1' is no whole number"),
    ({"dim": 2, "start": [1, 2, 3]}, "dim has 2, start has 3"),
    ({"dim": 2, "scale": 0}, "scale must be a positive number"),
    ({"dim": 2, "scale": math.nan}, "scale nan is not finite"),
    ({"dim": 1, "scale": math.inf}, "not finite, or beyond"),
    ({"start": []}, "start is empty"),
    ({"dim": 2, "start": "ab"}, "start 'ab' is not made of numbers"),
    ({"start": [HUGE]}, "not finite, or beyond"),
    ({"start": [1e20]}, "differ by rounding"),
    ({"start": [5.0], "bounds": [(0, 1)]}, "outside its bounds"),
    ({"dim": 2, "bounds": (1, 0)}, "low must be below high"),
    ({"bounds": (0, 1)}, "these bounds hold for every one; give dim=3"),
    ({"bounds": [(-1e308, 1e308)]}, "not finite, or beyond"),
    ({"bounds": [(0, HUGE)]}, "not finite, or beyond"),
    ({"bounds": [(1e16, 1e16 + 4)]}, "differ by rounding"),
    ({"bounds": {}}, "name no parameter"),
    ({"bounds": {"x": 3}}, r"bounds\['x'\] is 3; give \(low, high\)"),
    ({"bounds": {"x": (0, 1, int)}}, r'give \(low, high\) or \(low, high, "log"\)'),
    ({"bounds": {"x": ["a", "b"]}}, r"is \['a', 'b'\]; give \(low, high\)"),
    ({"bounds": {"x": (0, True)}}, "give .low, high."),
    ({"bounds": {"x": (np.array([0]), 1)}}, "give .low, high."),
    ({"bounds": {"x": (0, 1, "log")}}, "low must be below high, above 0"),
    ({"bounds": {"n": (1, HUGE)}}, r"bounds\['n'\] go beyond 1e\+300"),
    ({"bounds": {"n": (-math.inf, 0)}}, "go beyond"),
    ({"bounds": {"n": (math.nan, 0)}}, "go beyond"),
    ({"bounds": {"n": (1, 1 + 1e-12)}}, "differ by rounding"),
    ({"bounds": {"x": (0, 1)}, "start": {"y": 1}}, "start names 'y'; give a dictionary of x"),
    ({"bounds": {"x": (0, 1)}, "start": [1.0]}, "start has no names"),
    ({"bounds": {"x": (0, 1)}, "start": {"x": 2}}, "give a number from 0 to 1"),
    ({"dim": 2, "lr": 0.1}, 'unknown option "lr"; there are alpha, .*, rule'),
    ({"dim": 2, "seed": -1}, "seed: -1 is out of range"),
    ({"dim": 2, "rule": "best"}, 'rule must be one of .*"known"'),
    ({"dim": 2, "N": 4}, "N is not an option"),
    ({"dim": 2, "kl_stepp": 4}, 'did you mean "kl_step"'),
    ({"dim": 2, "rule": "regression", "centre_step": 0}, "must be a finite number > 0"),
    ({"dim": 2, "mu_decay": 0.5}, 'unknown option "mu_decay"'),
    ({"dim": 2, "weighting": "skill"}, "weigh votes yourself"),
)


def test_bad_arguments_are_refused_in_one_line():
    for how, words in REFUSED:
        with case(how, words):
            with pytest.raises(UsageError, match=words) as caught, np.errstate(all="raise"):
                szpo.Optimizer(**how)
            assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    assert szpo.Optimizer(dim=2, rule="auto").to_dict() == szpo.Optimizer(dim=2).to_dict()


@pytest.mark.parametrize(
    ("vote", "weight", "words"),
    [
        ("c", 1.0, "the vote 'c' is unknown; give \"a\""),
        (1.5, 1.0, "from 0 to 1"),
        (math.nan, 1.0, "from 0 to 1"),
        ([True], 1.0, "not a list"),
        (["a"], 1.0, "not a list"),
        ("a", -1.0, "0 or more"),
        ("a", "x", "is no number"),
        ("a", 10**400, "0 or more, to 1e"),
        (10**400, 1.0, "from 0 to 1"),
    ],
)
def test_a_bad_vote_changes_nothing(vote, weight, words):
    opt = szpo.Optimizer(dim=2)
    with pytest.raises(UsageError, match=r"call ask\(\) first"):
        opt.tell("a")
    pair = opt.ask()
    with pytest.raises(UsageError, match=words):
        opt.tell(vote, weight=weight)
    assert opt.steps == 0 and opt.ask().a.tolist() == pair.a.tolist()
    with pytest.raises(UsageError, match="ask: n is 0"):
        opt.ask(0)


def test_one_answer_of_several_threads_is_counted():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for trial in range(40):
            opt = szpo.Optimizer(dim=2, seed=trial)
            opt.ask()
            with ThreadPoolExecutor(4) as pool:
                told = [pool.submit(opt.tell, "a") for _ in range(4)]
            refused = [each.exception() for each in told]
            assert sum(each is None for each in refused) == 1
            assert {type(each) for each in refused} == {type(None), UsageError}
            assert szpo.Optimizer.from_dict(opt.to_dict()).votes == 1
    finally:
        sys.setswitchinterval(before)


def test_true_and_false_say_whether_a_is_better():
    one, other = szpo.Optimizer(dim=2, seed=3), szpo.Optimizer(dim=2, seed=3)
    for n in range(6):
        one.ask(), other.ask()
        one.tell((n % 2 == 0) if n < 3 else np.bool_(n % 2 == 0))
        other.tell("a" if n % 2 == 0 else "b")
    assert one.digest() == other.digest()


def test_the_history_has_every_pair_in_order_also_of_a_loaded_state(tmp_path):
    opt, asked = szpo.Optimizer(dim=2, seed=5), []
    for votes in (["a"], ["b", None, 0.25], ["tie", "a"]):
        asked += opt.ask(len(votes))
        opt.tell(votes, weight=[2.0] * len(votes))
    opt.save(tmp_path / "state.json")
    for each in (opt, szpo.Optimizer.load(tmp_path / "state.json")):
        found = each.history
        one, other = ([(tuple(t.a), tuple(t.b)) for t in each] for each in (found, asked))
        assert one == other
        assert [t.vote for t in found] == ["a", "b", None, 0.25, "tie", "a"]
        assert {t.weight for t in found} == {2.0} and (found[-1].best == opt.best).all()
    assert szpo.Optimizer(dim=2).history == []


def test_run_asks_again_after_a_typo_and_not_for_ever(capsys):
    typed = iter(["x", "a", "b", "", "tie"])
    opt = szpo.Optimizer(dim=2, seed=5)
    best = opt.run(lambda a, b: next(typed), pairs=3)
    assert [t.vote for t in opt.history] == ["a", "b", "tie"] and (best == opt.best).all()
    assert capsys.readouterr().out.count('give "a", "b", "tie", True or False') == 2
    with pytest.raises(UsageError, match="the vote 'maybe' is unknown"):
        opt.run(lambda a, b: "maybe", pairs=1)
    assert opt.steps == 3 and len(opt.waiting) == 1


@pytest.mark.parametrize(
    "bounds",
    [
        {"bounds": [(0, 1)], "start": [0.0]},
        {"bounds": [(0, 1)] * 2, "start": [0.0, 1.0]},
        {"bounds": {"x": (0, 1), "y": (1e-3, 1.0, "log")}, "start": {"x": 0, "y": 1.0}},
    ],
)
def test_no_point_is_compared_with_itself_also_at_an_edge(bounds):
    """At a corner both sides of every direction are mirrored to one place."""
    opt, best = szpo.Optimizer(**bounds, seed=1), None

    def loss(point):
        values = np.array([*point.values()] if isinstance(point, dict) else point)
        return np.abs(values - 0.6).sum()

    for number in range(30):
        pair = opt.ask() if number % 2 else opt.ask(1)[0]
        a, b = (np.array([*p.values()] if isinstance(p, dict) else p) for p in pair)
        assert np.abs(a - b).max() > 1e-3, number
        opt.tell("a" if loss(pair.a) < loss(pair.b) else "b", pair=pair)
        best = opt.best
    assert loss(best) < loss(szpo.Optimizer(**bounds).best)
    assert szpo.Optimizer.from_dict(opt.to_dict()).digest() == opt.digest()
    assert all(not np.array_equal(told.a, told.b) for told in opt.history)


def test_numbers_of_numpy_are_taken_wherever_those_of_python_are():
    plain = szpo.Optimizer(bounds={"x": (0.5, 1.0), "n": (1, 9)}, start={"n": 4}, seed=3)
    named = {"x": (np.float32(0.5), np.float16(1)), "n": (np.int64(1), np.uint8(9))}
    numpy = szpo.Optimizer(
        bounds=named, start={"n": np.int32(4)}, seed=np.int64(3), rule=np.str_("known")
    )
    for votes, weights in ((np.array([1.0, 0.0]), np.array([1, 2])), ([True, None], [1.0, 1.0])):
        assert plain.ask(2) == numpy.ask(np.int64(2))
        numpy.tell(votes, weight=weights)
        plain.tell(list(votes), weight=list(map(float, weights)))
    for vote in (np.bool_(True), np.float32(0.25), np.array(1), np.str_("a")):
        assert plain.ask() == numpy.ask()
        plain.tell(vote.item())
        numpy.tell(vote, weight=np.int8(1))
    assert plain.digest() == numpy.digest()


HUGE = math.factorial(200)
