"""What a search reads and records, and how policies that score alike are told apart."""

import math
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest

from szpo import seeds
from szpo.config.schema import Config
from szpo.data.prompts import PromptSet
from szpo.features import dictionary
from szpo.improvement import between_rounds, policy_gradient, policy_search
from szpo.improvement.policy_gradient import Ascent, Pace, Step
from szpo.improvement.policy_search import (
    COMPARED,
    MOST_READ,
    SPENT_ALL,
    START_ANSWERS,
    Beginning,
    Best,
    Checked,
    Improved,
    Search,
    _add,
    _are_close,
    _climb,
    _compare,
    _draw_back,
    _find_beginning,
    _why_stopped,
    split_prompts,
)
from szpo.ledger import theta
from szpo.ledger.database import Ledger
from szpo.optim import parameters
from szpo.policies import text_guards
from szpo.policies.protocol import moved
from szpo.policies.text_guards import Guard, TextFigures
from szpo.replay import replay
from szpo.runs.services import set_aside
from szpo.taste import Explanation, Feature, Taste
from szpo.types import FEATURE_GRID, Answer, Prompt, unseen
from szpo.voting import lease
from tests.support import named_run, quadratic, toy_policy, wide_guards, yard_run
from tests.support.toy_policy import ToyForced, ToyPolicy

FIGURES = TextFigures(-1.0, 0.9, 20.0)
PROMPTS = 32


def read(means):
    """A policy whose two answers to each prompt score so on average."""
    return Checked(float(np.mean(means)), 1.0, 0.1, FIGURES, COMPARED, tuple(means))


def searching(seed):
    """A search whose policies answer with scores of spread 1 around what they are worth."""
    rng, told = np.random.default_rng(seed), []

    def again(worth, found, seed):
        told.append(seed)
        search.drawn.append(COMPARED)
        return _add(found, worth + rng.normal(size=PROMPTS) / np.sqrt(2), COMPARED)

    search = SimpleNamespace(
        fresh=seed, drawn=[COMPARED], _again=again, told=told, progress=lambda *what: None
    )
    return search


def alike(seed=0):
    rng = np.random.default_rng(seed)
    return read(rng.normal(size=PROMPTS)), read(rng.normal(size=PROMPTS))


def test_what_prompts_have_in_common_is_no_error_of_the_difference():
    hard = np.linspace(-3, 3, PROMPTS)
    noise = np.tile([0.01, -0.01], PROMPTS // 2)
    assert not _are_close(read(hard), read(hard + 0.1 + noise))
    one, other = alike()
    assert _are_close(one, other) and not _are_close(one, one)


def test_what_is_told_apart_by_the_first_answers_is_not_read_again():
    search, (one, _) = searching(0), alike()
    clear = read(np.array(one.by_prompt) + np.tile([0.5, 1.5], PROMPTS // 2))
    assert Search.tell_apart(search, 0.0, one, 1.0, clear) == (one, clear)
    assert not search.told


def test_two_that_score_alike_are_read_anew_by_the_same_seeds_at_most_three_times():
    search, (one, other) = searching(1), alike(1)
    found = Search.tell_apart(search, 0.0, one, 0.0, other)
    times = 1 + len(search.told) // 2
    assert 1 < times <= MOST_READ and len({*search.told}) == times - 1
    assert search.told[::2] == search.told[1::2]
    for before, after in zip((one, other), found, strict=True):
        assert after.answers == times * COMPARED and after.by_prompt != before.by_prompt
        assert after.score == pytest.approx(np.mean(after.by_prompt))
        assert (after.nats, after.figures) == (before.nats, before.figures)


def test_who_was_read_less_catches_up():
    search, (one, other) = searching(2), alike(2)
    many = _add(_add(one, np.array(one.by_prompt), COMPARED), np.array(one.by_prompt), COMPARED)
    assert many.score == pytest.approx(one.score) and many.answers == MOST_READ * COMPARED
    first, second = Search.tell_apart(search, 0.0, many, 0.0, other)
    assert first == many and second.answers > other.answers


def test_more_answers_more_often_find_the_better_one():
    """.35 apart, spread 1: 64 answers find it with probability Φ(.35 · √32) = .976, 192 .9997."""
    rng, right, first = np.random.default_rng(2), 0, 0
    for seed in range(400):
        low, high = (w + rng.normal(size=PROMPTS) / np.sqrt(2) for w in (0.0, 0.35))
        one, other = Search.tell_apart(searching(seed), 0.0, read(low), 0.35, read(high))
        right += other.score > one.score
        first += high.mean() > low.mean()
    assert right > first and right >= 395


def test_what_may_spend_half_a_nat_so_far_is_drawn_back_to_half_a_nat():
    """Whatever the whole budget is: it has not been shown to gain by more."""

    def measure(theta, what, number=0):
        return replace(level, nats=2 * float(theta["b"][0]) ** 2)

    level = replace(read([0.0] * PROMPTS), stderr=0.0)
    here, there = ({"b": np.float32([at])} for at in (0, 1))
    search = SimpleNamespace(
        nats=4.0, start=here, measure=measure, guards=lambda *of: (), failed=lambda held: []
    )
    best = _draw_back(search, Improved(Ascent(there), "", 0.5))
    assert best.scale == pytest.approx(0.5) and best.nats == pytest.approx(0.5)


def stopped(*steps, nats=2.0):
    at = Ascent({}, steps=tuple(Step(32, score, far, 0.1, cost) for score, far, cost in steps))
    return _why_stopped(Improved(at, "", nats))


def test_a_score_that_never_grows_ends_soon_and_one_that_grows_goes_on():
    rising = [(0.1 * n, 0.05 * n, 0.05) for n in range(14)]
    level = [(0.3 - 0.2 * (n % 2), 0.05 * n, 0.05) for n in range(12)]
    assert stopped(*rising) == "" and stopped(*level[:11]) == ""
    assert stopped(*level) == "the score does not rise"
    assert "no answer scores more" in stopped(*[(1.0, 0.0, 0.0)] * 3)


def test_a_step_that_would_leave_the_budget_is_not_taken():
    """√1.3 + √.05 = 1.364 and √(.9 · 2) = 1.342."""
    assert stopped((0.5, 1.2, 0.05)) == "" and stopped((0.5, 1.3, 0.05)) == SPENT_ALL
    assert stopped((0.5, 1.3, 0.05), nats=3.0) == ""


def test_what_is_on_record_as_kept_is_not_looked_for_again(tmp_path):
    with Ledger.open(yard_run.finished(tmp_path)) as ledger:
        begun = between_rounds.begin(ledger)
        file, said = theta.improving_file(ledger.path), []
        state = Improved(Ascent({"x": np.zeros(2)}), "", 1.0)
        policy_search.save(state, file, (begun.head, begun.event))
        body = {"begun": {"steps": begun.steps, "event": begun.event}}
        ledger.record_event(theta.KEPT, "controller", body)
        parts = SimpleNamespace(config=Config(improve={"nats": 3}))
        between_rounds.Improving(ledger, parts, said.append).look()
        assert not file.exists() and said == []


@pytest.mark.parametrize(
    "arrays",
    [
        {"theta": {"b": np.zeros(3, np.float32)}},
        {"theta": {"c": np.zeros(2, np.float32)}},
        {"theta": {"b": np.array([0.0, np.nan], np.float32)}},
        {"theta": {"b": np.zeros(2)}},
        {"mean": {"b": np.array(["x", "y"])}},
        {"mean": {"b": np.zeros((2, 2))}},
        {"square": {"b": np.zeros(2), "c": np.zeros(2)}},
    ],
)
def test_a_state_of_other_weights_is_left_and_looked_for_anew(arrays):
    """Such a state comes with a stranger's run, and claims to have begun where this one does."""
    weights = {"b": np.zeros(2, np.float32)}
    began = SimpleNamespace(first=weights, nats=0.0)
    own = {"theta": weights, "mean": {"b": np.ones(2)}, "square": {"b": np.ones(2)}}

    def begin_anew(state):
        raise InterruptedError

    sound = Improved(Ascent(**own), theta.adopted_digest(weights), 1.0, stopped="enough")
    assert _climb(SimpleNamespace(nats=2.0), began, sound, begin_anew) is sound
    other = replace(sound, at=Ascent(**{**own, **arrays}))
    with pytest.raises(InterruptedError):
        _climb(SimpleNamespace(nats=2.0), began, other, begin_anew)


def beginning(here, base=0.0, mix=None, ok=True):
    """Where it begins by (score, nats) of the run's policy and of the votes' mix; 4 nats."""
    told = {0.0: (base, 0.0), 1.0: here, 2.0: mix}

    def measure(theta, what):
        at = float(theta["b"][0])
        score, nats = told.get(at, (here[0], 2 * at * at))
        return replace(read([score] * PROMPTS), nats=nats, stderr=0.0)

    places = {
        place: {"b": np.float32([at])}
        for place, at in ((theta.START, 0), (theta.RECOMMENDED, 1), (theta.UPDATED, 2))
        if at < 2 or mix
    }
    search = SimpleNamespace(
        nats=4.0, base=measure(places[theta.START], ""), measure=measure,
        tell_apart=lambda one, there, other, here: (there, here),
        guards=lambda theta, there: ("a guard",), failed=lambda held: [] if ok else [*held],
    )  # fmt: skip
    found = _find_beginning(search, places)
    assert found.guards == (("a guard",) if found.place == theta.UPDATED else ())
    return found.place, found.there.score, float(found.first["b"][0]), found.nats


def test_it_begins_at_what_scores_highest_of_what_may_be_begun_at():
    mine, mixed = theta.RECOMMENDED, theta.UPDATED
    assert beginning((1.0, 1.0)) == (mine, 1.0, 1.0, 1.0)
    assert beginning((-0.5, 1.0)) == (mine, -0.5, 0.0, 0.0)  # less than the start: from there
    assert beginning((1.0, 1.0), mix=(2.0, 1.5)) == (mixed, 2.0, 2.0, 1.5)
    assert beginning((1.0, 1.0), mix=(1.0, 1.5))[0] == mine
    assert beginning((1.0, 1.0), mix=(2.0, 4.5))[0] == mine  # beyond the budget
    assert beginning((1.0, 1.0), mix=(2.0, 1.5), ok=False)[0] == mine
    assert beginning((-0.5, 1.0), mix=(-0.2, 1.5))[0] == mine  # better, and below the start
    assert beginning((1.0, 9.0), mix=(0.5, 1.5))[0] == mixed  # mine is beyond the budget
    share = math.sqrt(0.5 * 4 / 3)  # of 3 nats, where half of 4 may be spent
    found = beginning((1.0, 3.0))
    assert found[2:] == pytest.approx((share, 2 * share**2))


def test_what_was_found_is_adopted_if_it_scores_more_within_the_nats_and_its_guards():
    now, end = ({"b": np.float32([at])} for at in (1, 3))
    told = []

    def tell_apart(one, there, other, here):
        told.append((one, other))
        return replace(there, answers=128), replace(here, answers=128)

    search = SimpleNamespace(
        nats=4.0, tell_apart=tell_apart, waived=("about it",),
        failed=lambda held: Search.failed(search, held),
    )  # fmt: skip

    def compared(score, nats=1.0, before=(0.5, 1.0), place=theta.RECOMMENDED, guards=()):
        at = [
            replace(read([s] * PROMPTS), nats=n, stderr=0.25) for s, n in ((score, nats), before)
        ]
        held = tuple(Guard(name, 0.0, "", ok) for name, ok in guards)
        began = Beginning(place, at[1], (), now, 0.0)
        *both, why = _compare(search, now, began, Best(end, at[0], held, 1.0), 2.0)
        return [each.there.answers for each in both], why

    assert compared(0.6, guards=[("about it", False), ("kept", True)]) == ([128, 128], "")
    assert told == [(now, end)]
    assert compared(0.6, guards=[("kept", False)])[1] == "guard by fresh answers: kept"
    assert compared(0.6, nats=2.1)[1] == "fresh answers are 2.10 nats away where 2.00 are allowed"
    assert compared(-9.0, before=(0.5, 4.6)) == ([COMPARED] * 2, "")  # two errors beyond 4 nats
    assert compared(0.5, before=(0.5, 4.5))[1] == (
        "the run's policy scores +0.50 at 4.5 nats, and the last step +0.50"
    )
    assert compared(0.2, place=theta.UPDATED)[1].startswith("the votes' mix scores +0.50")


@pytest.mark.parametrize("gain", [0.01, 0.0])
def test_it_goes_half_a_nat_farther_and_the_rest_once_it_has_gained(monkeypatch, gain):
    search = SimpleNamespace(
        policy="policy", score="score", taught="taught", nats=3.0, seed=7,
        answers=lambda theta, each, seed: (theta, (each, seed)),
        gain=lambda prompts, answers: gain if answers == (2, 7) else None,
    )  # fmt: skip

    def step(policy, score, prompts, pace, at, *, seed):
        assert (policy, score, prompts, pace, seed) == (
            "policy", "score", "taught", policy_search.PACE, 7,
        )  # fmt: skip
        far = 1.0 + 0.2 * len(at.steps)
        return replace(at, steps=(*at.steps, Step(32, far, far, 0.1, 0.05)))

    monkeypatch.setattr(policy_gradient, "take_step", step)
    weights, told = {"b": np.zeros(2, np.float32)}, []
    end = _climb(search, SimpleNamespace(first=weights, nats=1.0), None, told.append)
    # (√1 + √.05)² = 1.5 is more than .9 · 1.5; then (√2.2 + √.05)² = 2.9, not that of 2, than 2.7.
    assert (
        told[-1] is end and told[0].nats == 1.5 and told[0].first == theta.adopted_digest(weights)
    )
    if gain:
        assert (end.nats, end.stopped, len(end.at.steps)) == (3.0, SPENT_ALL, 7)
    else:
        assert (end.nats, end.stopped, len(end.at.steps)) == (1.5, policy_search.UNSURE, 1)


LIKED = Taste(
    (Feature("commas", FEATURE_GRID // 4, 0, 4 * FEATURE_GRID, 0),),
    (Explanation(3, ((0, FEATURE_GRID),)), Explanation(1, ())),
    (("more commas", FEATURE_GRID),), dictionary.digest(),
)  # fmt: skip


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A run of two rounds, what asked for its taste, and policies of a few numbers that search."""
    asked = []

    def taste(*given, **how):
        asked.append((given, how))
        return LIKED, None

    monkeypatch.setattr(policy_gradient, "Forced", ToyForced)
    made = []
    monkeypatch.setattr(
        policy_search, "LoraPolicy",
        lambda *given, **how: made.append(ToyPolicy(*given, **how)) or made[-1],
    )  # fmt: skip
    monkeypatch.setattr(policy_search.run_taste, "read", taste)
    settings = named_run.settings_of()
    spec = {"space": {"sites": ["as in the toy"]}}
    ledger = quadratic.new_ledger(tmp_path / "run.db", settings, spec=spec)
    named_run.drive(settings, ledger, until_step=2)
    host = SimpleNamespace(at=lambda subspace, space, run: ("at", run))
    prompts = PromptSet(toy_policy.PROMPTS, (Prompt.user("held out"),))
    parts = SimpleNamespace(
        config=Config(), prompts=prompts, base=SimpleNamespace(loaded="loaded", host=host),
        language=ToyPolicy("loaded", toy_policy.in_z(5)), given=(),
    )  # fmt: skip
    with ledger, lease.hold(ledger):
        yield ledger, parts, asked, made


def split(ledger):
    """The prompts that steps learn from, and those to measure on."""
    return split_prompts(set_aside(toy_policy.PROMPTS, ledger.root_seed)[0], ledger.root_seed)


def scored(policy, prompts, drawn, seed):
    """Scores (prompts, answers) against what the start answers, by the taste itself."""
    starts = policy.sample(prompts, START_ANSWERS, seed=seed, base=True)
    known = LIKED.starts(*zip(*((p.text, a.text) for p, row in zip(prompts, starts, strict=True)
                                for a in row), strict=True))  # fmt: skip
    pairs = [(p.text, a.text) for p, row in zip(prompts, drawn, strict=True) for a in row]
    return LIKED.score(*zip(*pairs, strict=True), starts=known).reshape(len(prompts), -1)


def by_fresh(ledger, at, *, adopted=0, number=0):
    """Score, nats and their error of a policy by the answers that it is compared by."""
    seed = seeds.as_seed(seeds.derive(ledger.root_seed, "improve", step=2))
    fresh = seeds.child_seed(seed, adopted, "compared")
    fresh = seeds.child_seed(fresh, number, "drawn back") if number else fresh
    aside, policy = split(ledger)[1], ToyPolicy(None, toy_policy.moving())
    policy.move_to(at)
    each = math.ceil(COMPARED / len(aside))
    rows = policy.sample_tokens(aside, each, seed=fresh)
    drawn = policy.sample(aside, each, seed=fresh)
    return scored(policy, aside, drawn, seed).mean(), *policy.kl_of(aside, rows)


def drawn_back(ledger, state, **which):
    """Share of its way and policy at which fresh answers tell it within its nats; all readings."""
    share, there, told = 1.0, state.at.theta, [by_fresh(ledger, state.at.theta, **which)]
    while told[-1][1] > state.nats:
        share *= math.sqrt(state.nats / (told[-1][1] + told[-1][2]))
        there = parameters.between(toy_policy.B, state.at.theta, share)
        told.append(by_fresh(ledger, there, number=len(told), **which))
    return share, there, told


def test_all_numbers_of_an_adoption_are_those_of_its_weights_by_fresh_answers(toy, monkeypatch):
    """From the run's point by a climb to its last step, and what the record says of it."""
    ledger, parts, asked, made = toy
    monkeypatch.setattr(policy_search, "PACE", Pace(4, 8, 0.1, 6))
    event, told = ledger.next_event(), []
    with wide_guards.wide():
        found = between_rounds.improve_run(
            ledger, parts, nats=6.0, given=("mine",), report=told.append
        )
    assert asked == [((ledger, ("mine",)), {"present": True, "before": event})]
    (policy,), (taught, aside) = made, split(ledger)
    seed = seeds.as_seed(seeds.derive(ledger.root_seed, "improve", step=2))
    start, held = toy_policy.B, parts.language.subspace
    first = replay.improved_from(ledger, held, 2, 0)[theta.RECOMMENDED]
    score, _ = policy_search.scorer(LIKED, policy, aside, seed)
    count, each = len(found.state.at.steps), math.ceil(COMPARED / len(aside)) * len(aside)
    with moved(policy, first):
        climbed = policy_gradient.climb(policy, score, taught, Pace(4, 8, 0.1, count), seed=seed)
    body, name = found.body, toy_policy.SITE.b
    np.testing.assert_array_equal(found.adopts[name], climbed.theta[name])
    numbers = [body[key] for key in ("score", "nats", "nats_stderr")]
    assert numbers == pytest.approx(by_fresh(ledger, found.adopts), rel=1e-9)
    assert body["score_before"] == pytest.approx(by_fresh(ledger, start)[0], rel=1e-9)
    assert body["score"] > body["score_before"] + 0.3 and 0.2 < body["nats"] <= 6.0
    assert body["answers"] == 32 * count + 3 * each  # of start, run's policy and last step
    assert {guard["name"]: guard["ok"] for guard in body["guards"]} == dict.fromkeys(
        text_guards.NAMES[:3], True
    )
    assert [len(state.at.steps) for state in told] == [*range(count + 1), count]
    assert told[-1].stopped == body["stopped"] != ""
    fixed = {
        "seed": seed, "nats_allowed": 6.0, "taken": count, "scale": 1.0, "mix": False,
        "taste": LIKED.to_json(), "taste_sha256": LIKED.sha256,
        "began_sha256": theta.adopted_digest(first),
        "begun": {"steps": 2, "event": event, "from": theta.RECOMMENDED},
    }  # fmt: skip
    assert {key: body[key] for key in fixed} == fixed
    adopted = theta.read_adopted(ledger)
    np.testing.assert_array_equal(adopted.theta[name], found.adopts[name])
    assert body.items() <= adopted.body.items() and adopted.body["steps"] == 2
    assert (parts.language.backend, parts.language.asked) == (("at", True), [])
    prompts = {prompt for call in policy.asked for prompt in call[0]}
    assert {*aside} < prompts <= {*taught, *aside} < {*toy_policy.PROMPTS}
    # The next one is compared by other answers, and with the votes' own mix as well.
    with wide_guards.wide():
        again = between_rounds.improve_run(ledger, parts, nats=6.0)
    share, _, told = drawn_back(ledger, again.state, adopted=1)
    assert again.body["scale"] == pytest.approx(share)
    assert again.body["nats"] == pytest.approx(told[-1][1], rel=1e-9)


def test_what_went_too_far_is_recorded_where_answers_that_chose_nothing_tell_it_within(
    toy, monkeypatch
):
    ledger, parts, *_ = toy
    monkeypatch.setattr(policy_search, "PACE", Pace(4, 8, 1.0, 9))
    with wide_guards.wide():
        found = between_rounds.improve_run(ledger, parts, nats=1.0)
    share, there, told = drawn_back(ledger, found.state)
    body = found.body
    assert len(told) > 1 and body["scale"] == pytest.approx(share)
    np.testing.assert_array_equal(there[toy_policy.SITE.b], found.adopts[toy_policy.SITE.b])
    assert (body["nats"], body["nats_stderr"]) == pytest.approx(told[-1][1:], rel=1e-9)


def test_where_all_answers_score_alike_the_record_says_that_nothing_was_adopted(toy, monkeypatch):
    ledger, parts, *_ = toy
    alike = replace(LIKED, features=(replace(LIKED.features[0], name="questions"),))
    monkeypatch.setattr(policy_search.run_taste, "read", lambda *given, **how: (alike, None))
    found = between_rounds.improve_run(ledger, parts, nats=1.0)
    assert found.adopts is None and theta.read_adopted(ledger) is None
    (event,) = ledger.events(theta.KEPT)
    assert event["body"] == {**found.body, "steps": 2} and found.body["taken"] == 3
    assert found.body["stopped"].startswith("no answer scores more than another")
    assert (found.body["score"], found.body["guards"]) == (0.0, [])


def test_two_policies_that_are_not_told_apart_answer_anew_by_seeds_of_their_own():
    """Their scores are means over three times as many answers, all by the same seeds."""
    policy, aside = ToyPolicy(None, toy_policy.moving()), toy_policy.PROMPTS[:8]
    start = policy.start()
    with moved(policy, {toy_policy.SITE.b: np.float32([[0], [2], [0], [0]])}):
        score, _ = policy_search.scorer(LIKED, policy, aside, 5)  # beside the start, wherever
    near = {toy_policy.SITE.b: np.float32([[0.3], [0.0], [-0.3], [0.0]])}
    base = policy_search.measure(policy, score, aside, 8, seed=11, base=True)
    search = Search(
        policy, 2.0, (), 5, (), aside, score, None, tuple, 11, start, base, [64], unseen
    )
    here = search.measure(near, "near")
    told = search.tell_apart(start, base, near, here)
    drawn = [11, *(seeds.child_seed(11, at, "again") for at in (2, 4))]
    for found, at in zip(told, (start, near), strict=True):
        with moved(policy, at):
            each = [scored(policy, aside, policy.sample(aside, 8, seed=s), 5) for s in drawn]
        assert found.by_prompt == pytest.approx(np.concatenate(each, axis=1).mean(1))
        assert found.score == pytest.approx(np.mean(each)) and found.answers == 192
    assert search.drawn == [64] * 6 and (here.nats, here.stderr) == (told[1].nats, told[1].stderr)


class StopError(Exception):
    pass


def test_a_search_sets_out_from_the_places_the_guards_and_the_seeds_of_the_run(
    toy, monkeypatch, tmp_path
):
    """The votes' mix is a place beside adopted weights, unless what it rests on was taken back."""
    ledger, parts, *_ = toy
    file = tmp_path / "questions.jsonl"
    file.write_text('{"prompt": "Question x?", "completion": "so"}\n')
    parts.config = Config(guards={"keep": str(file)})
    seen = []

    def stop(search, places):
        seen.append((search, places))
        raise StopError

    monkeypatch.setattr(policy_search, "_find_beginning", stop)
    monkeypatch.setattr(policy_search, "waived_by", lambda taste: ("about it", taste.sha256))

    def begin(**changes):
        with pytest.raises(StopError):
            begun = replace(between_rounds.begin(ledger), **changes)
            policy_search.search_move(ledger, parts, begun, nats=1.5)
        assert parts.language.backend == ("at", True)
        return seen.pop()

    search, places = begin()
    seed = seeds.as_seed(seeds.derive(ledger.root_seed, "improve", step=2))
    assert [*places] == [theta.START, theta.RECOMMENDED] and search.nats == 1.5
    assert (search.waived, search.seed) == (("about it", LIKED.sha256), seed)
    assert (search.taught, search.aside) == split(ledger) and search.start is places[theta.START]
    measured = by_fresh(ledger, toy_policy.B)
    assert (search.base.score, search.base.nats) == (pytest.approx(measured[0]), 0.0)
    assert search.drawn == [search.base.answers]
    (kept,) = search.keep()
    assert (kept.name, kept.value) == (text_guards.RIGHT, 0.0)
    lower = LIKED.gain(["a"], ["so, so,"], starts={})  # compared with what was shown
    assert search.gain([Prompt.user("a")], [Answer("so, so,")]) == pytest.approx(lower)
    failed = [Guard(name, 0.0, "", ok) for name, ok in (("about it", 0), ("a", 0), ("b", 1))]
    assert search.failed(failed) == ["a"]

    weights = {toy_policy.SITE.b: np.float32([[0], [1], [0], [0]])}
    theta.append_adopted(ledger, weights, named_run.adoption(ledger, 2))
    search, places = begin()
    assert [*places] == [theta.START, theta.RECOMMENDED, theta.UPDATED]
    np.testing.assert_array_equal(
        places[theta.RECOMMENDED][toy_policy.SITE.b], weights[toy_policy.SITE.b]
    )
    mix = parts.language.subspace.factors(replay.fold_updates(ledger))[toy_policy.SITE.b]
    np.testing.assert_array_equal(places[theta.UPDATED][toy_policy.SITE.b], mix)
    assert [*begin(taken_back=True)[1]] == [theta.START, theta.RECOMMENDED]
    assert [*begin(adopted=0)[1]] == [theta.START, theta.RECOMMENDED]
    body = {"steps": 2, "theta_sha256": theta.theta_digests(ledger)[0]}
    ledger.record_event(theta.RETURNED, "controller", body)
    places = begin(taken_back=False)[1]  # the start is what the run recommends again
    assert [*places] == [theta.START, theta.RECOMMENDED]
    assert policy_search.are_equal(places[theta.RECOMMENDED], places[theta.START])


def test_where_no_step_gains_the_mix_is_adopted_if_it_was_begun_at_and_else_nothing(
    toy, monkeypatch
):
    ledger, parts, *_ = toy
    weights = {toy_policy.SITE.b: np.float32([[0], [1], [0], [0]])}
    theta.append_adopted(ledger, weights, named_run.adoption(ledger, 2))
    guards, there = (Guard("kept", 1.0, "", True),), replace(read([0.75] * PROMPTS), nats=0.5)
    begun_at = [theta.UPDATED, theta.RECOMMENDED]

    def find(search, places):
        return Beginning(begun_at[0], there, guards, places[begun_at[0]], 0.5)

    monkeypatch.setattr(policy_search, "_find_beginning", find)
    monkeypatch.setattr(policy_search, "PACE", Pace(4, 8, 0.1, 0))
    found = between_rounds.improve_run(ledger, parts, nats=2.0)
    held = parts.language.subspace
    mix = held.factors(replay.fold_updates(ledger))[toy_policy.SITE.b]
    np.testing.assert_array_equal(found.adopts[toy_policy.SITE.b], mix)
    body = found.body
    assert (body["mix"], body["score"], body["nats"], body["taken"]) == (True, 0.75, 0.5, 0)
    assert (body["begun"]["from"], body["stopped"]) == (theta.UPDATED, "0 steps were taken")
    assert body["guards"] == [asdict(guards[0])] and theta.read_adopted(ledger).body["mix"]
    begun_at.pop(0)
    for steps, why in ((0, "0 steps were taken"), (1, "worse")):
        monkeypatch.setattr(policy_search, "PACE", Pace(4, 8, 0.1, steps))
        monkeypatch.setattr(
            policy_search,
            "_compare",
            lambda search, now, began, best, nats: (began, best, "worse"),
        )
        with wide_guards.wide():
            found = between_rounds.improve_run(ledger, parts, nats=2.0)
        assert found.adopts is None and found.body["stopped"] == found.state.stopped == why
        assert (found.body["scale"], found.body["score"], found.body["mix"]) == (1.0, 0.75, False)
