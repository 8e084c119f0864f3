"""A taste: read from a run without its model, cautious, bounded, the same on file and off it."""

import contextlib
import functools
import hashlib
import json
import math
import shutil
import sqlite3
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from szpo.analysis import run_taste, vote_rows
from szpo.analysis.run_taste import Shown
from szpo.cli.app import call
from szpo.cli.taste import best
from szpo.config.schema import Config
from szpo.data.prompts import PromptSet
from szpo.errors import RunError, UsageError
from szpo.features import dictionary
from szpo.improvement import aims
from szpo.ledger import theta
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_settings
from szpo.models import loading
from szpo.optim import named_features
from szpo.optim.joint_fit import fit_joint
from szpo.optim.state_regression import StateScale
from szpo.optim.vote_regression import Votes
from szpo.replay import record_checks, replay
from szpo.replay.record_checks import Broken, Examination
from szpo.runs import assemble
from szpo.taste import Direction, Explanation, Feature, Taste
from szpo.types import FEATURE_GRID, Answer, Comparison, Prompt, Row
from szpo.voting.panel_evaluator import PanelEvaluator
from szpo.voting.service import VoteService
from tests.support import named_run, toy_policy
from tests.support.quadratic import go

ONE = FEATURE_GRID  # 1, on the grid
COMMAS = Feature("commas", scale=ONE // 10, low=-ONE, high=2 * ONE, mean=0)
QUESTIONS = Feature("questions", scale=ONE, low=0, high=ONE, mean=ONE // 2)


def made(*explanations: Explanation, people: int = 3) -> Taste:
    return Taste(
        (COMMAS, QUESTIONS), explanations, (("fewer commas", ONE * 9 // 10),),
        dictionary.digest(), verdicts=40, people=people,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Sixteen steps, in coordinates that all have names, of a panel that likes fewer commas."""
    named = replace(named_run.features(), components=0)
    settings, ledger = named_run.start(tmp_path_factory.mktemp("runs"), features=named)
    named_run.drive(settings, ledger, until_step=16)
    yield ledger
    ledger.close()


def test_the_score_is_the_mean_over_explanations_and_the_gain_is_cautious():
    # Weights per spread: −2 at 3/4, none at 1/4. One comma in ten words is 1/10, one spread.
    taste = made(Explanation(3, ((0, -2 * ONE),)), Explanation(1, ()))
    text = "one, two three four five six seven eight nine ten"
    logit = -2 * 4096 / 409 / 10  # the scale is rounded to 409 of 4096
    mean, deviation = 0.75 * logit, math.sqrt(0.75 * 0.25) * abs(logit)
    assert taste.score(["?"], [text])[0] == pytest.approx(mean, abs=1e-3)
    assert taste.gain(["?"], [text]) == pytest.approx(mean - deviation, abs=1e-3)


def test_values_count_within_their_bounds_and_against_the_starts_answers():
    taste = made(Explanation(1, ((1, ONE),)))
    prompts, answers = ["a"] * 3, ["no", "one?", "three???"]
    assert taste.score(prompts, answers).tolist() == [-0.5, 0.5, 0.5]
    starts = taste.starts(["a", "a"], ["no", "one?"]) | taste.starts(["b"], ["one?"])
    found = taste.score([*prompts, "b", "c"], [*answers, "no", "no"], starts=starts)
    assert found.tolist() == [-0.5, 0.5, 0.5, -1.0, -0.5]
    for wrong in (("a", ["no"]), (["a"], "no"), (prompts, ["no"])):
        with pytest.raises(UsageError, match="list of prompts and a list of as many answers"):
            taste.score(*wrong)


def test_the_gain_of_several_answers_is_of_their_mean_and_as_cautious():
    taste = made(Explanation(3, ((1, ONE),)), Explanation(1, ()))
    starts = taste.starts(["a", "a"], ["no", "one?"])
    # As many questions as the start's, or half a one more, which a quarter does not care for.
    gains = [taste.gain(["a"] * 2, [one, "one?"], starts=starts) for one in ("no", "one?")]
    assert gains == pytest.approx([0.0, 0.5 * (0.75 - math.sqrt(0.75 * 0.25))])
    # Half of a question less and half of one more: each alone would lose its deviation.
    assert taste.score(["a"] * 2, ["no", "one?"], starts=starts).tolist() == [-0.375, 0.375]


def test_trls_trainers_can_call_it_with_texts_and_messages():
    taste = made(Explanation(1, ((1, ONE),)))
    texts = taste(prompts=["a"], completions=["one?"], step=3)
    messages = taste(
        prompts=[[{"role": "user", "content": "a"}]],
        completions=[[{"role": "assistant", "content": "one?"}]],
    )
    assert texts == messages == [0.5]


def test_a_run_says_what_its_votes_like_without_its_model(run):
    found = run_taste.read(run)[0]
    assert found.words.startswith("fewer commas (")
    assert found.instruction().startswith("Write answers that are liked here: fewer commas")
    assert (found.verdicts, found.people) == (64, 0)
    few, many = found.score(["?", "?"], ["Well, it is", "Well, it is, you, see"])
    assert few > many
    assert sum(each.chance for each in found.explanations) == pytest.approx(ONE, abs=2)
    assert run_taste.read(run)[0] == found

    settings = recorded_settings(run)
    fit, compared = replay.replay_state(run, settings).carried.fit.named, 0
    at = [settings.features.names.index(feature.name) for feature in found.features]
    for said, kept in zip(found.explanations, fit.kept, strict=False):
        exact = dict(zip(kept.support, kept.w, strict=True))
        for place, weight in said.weights:
            assert abs(weight - ONE * exact[at[place]]) <= 0.5  # the nearest unit
            compared += 1
    assert compared > 4


def test_its_people_are_those_who_voted(tmp_path):
    settings, ledger = named_run.start(tmp_path)
    with ledger:
        service = VoteService(ledger)
        for name in ("ann", "bea", "cid"):
            service.enroll("person", name)
        named_run.drive(settings, ledger, until_step=1)
        found, _ = run_taste.read(ledger, anyway=True)
        assert found.people == 0
        sql = "UPDATE panelists SET kind = 'person' WHERE pseudonym IN ('panel-0', 'panel-3')"
        ledger.execute(sql)
        found, _ = run_taste.read(ledger, anyway=True)
        assert (found.people, found.verdicts) == (2, settings.section.K)
        some, _ = run_taste.read(ledger, anyway=True, only=frozenset({"panel-0"}))
        cast = vote_rows.read_judged(ledger).panelist.count("panel-0")
        assert (some.people, some.verdicts) == (bool(cast), cast) and cast < found.verdicts


def test_bounds_cover_what_was_shown_and_no_more(run):
    feature = next(f for f in run_taste.read(run)[0].features if f.name == "commas")
    rows = [row for step in range(16) for c in run.comparisons(step) for row in c.rows]
    texts = {side.text for row in rows if not row.identical for side in (row.plus, row.minus)}
    shown = [dictionary.ratios("", text, [dictionary.BY_NAME["commas"]])[0] for text in texts]
    values = np.array([ONE * a / b for a, b in shown]) * ONE / feature.scale
    assert values.min() - 1 <= feature.low < feature.high <= values.max() + 1


def test_a_file_is_data_only_and_says_what_is_wrong_with_it(tmp_path, capsys):
    taste = made(Explanation(1, ((1, ONE),)))
    body = json.loads(json.dumps(taste.to_json()))
    assert Taste.from_json(body) == taste
    assert Taste.from_json(body).sha256 == taste.sha256
    assert taste.sha256 != replace(taste, verdicts=41).sha256
    wrong = [
        ({"szpo_taste": 2}, "no taste of szpo"),
        ({"verdicts": 1.5}, "no integer"),
        ({"explanations": [{"chance": 1, "weights": [[2, 1]]}]}, "a feature that is not there"),
        ({"explanations": []}, "explanations"),
        ({"features": [{"name": "commas"}]}, "damaged"),
        ({"dictionary": "other"}, "another version of the dictionary"),
        ({"own": [["questions", "function", "", "", "x"]]}, "never runs code"),
        ({"own": [["keyword:sea"]]}, "five facts"),
        ({"own": [[]]}, "five facts"),
        ({"explanations": [{"chance": 10**400, "weights": []}]}, "at most 2^40"),
        ({"explanations": [{"chance": 1, "weights": [[0, 1], [0, -1]]}]}, "a feature twice"),
        ({"features": [{**body["features"][0], "name": None}]}, "no text"),
        ({"claims": [["\ud800", 1]]}, "damaged"),
        ({"claims": [["fewer\ncommas", 1]]}, "more than one line"),
        ({"claims": [["fewer commas", ONE + 1]]}, "no probability"),
        ({"people": -1}, "numbers of votes and people must be 0 or more"),
    ]
    texts = tmp_path / "texts.jsonl"
    texts.write_text(
        '{"prompt": "a", "completion": "one?"}\n{"prompt": "a", "completion": "no"}\n'
    )
    file = tmp_path / "taste.json"
    for change, says in wrong:
        file.write_text(json.dumps({**body, **change}))
        assert call(["score", str(texts), "--taste", str(file)]) == 2
        assert says in capsys.readouterr().err
    file.write_text(json.dumps(body))
    assert call(["score", str(texts), "--taste", str(file)]) == 0
    said = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in said] == ["+0.500", "-0.500"]


def changed(body: dict[str, Any], *places: Any, by: Any) -> dict[str, Any]:
    """A copy of a JSON body in which the value at these keys is ``by`` of it."""
    made = json.loads(json.dumps(body))
    *way, last = places
    inner = functools.reduce(lambda found, key: found[key], way, made)
    inner[last] = by(inner[last])
    return made


def test_an_improvement_whose_taste_the_votes_do_not_give_is_found(run, tmp_path, monkeypatch):
    taste = run_taste.read(run)[0].to_json()
    weights = ("explanations", 0, "weights")
    assert taste["explanations"][0]["weights"][1][0] == 4
    assert len(taste["explanations"][1]["weights"]) == 1
    others = [
        changed(taste, *weights, 1, 0, by=lambda place: place - 1),  # of the next feature
        changed(taste, *weights, 0, 1, by=lambda weight: weight + 2),
        changed(taste, "claims", 0, 0, by=lambda said: "kinder"),
        changed(taste, "dictionary", by=lambda digest: "another"),
        changed(taste, "own", by=lambda own: [["colons", "function", "", "", ""]]),
        changed(taste, "features", 3, "name", by=lambda name: "no such feature"),
        changed(taste, "features", by=lambda features: []),
        taste,  # of other votes: said to come before one of the rounds
    ]
    near = changed(taste, *weights, 0, 1, by=lambda weight: weight + 1)  # another's rounding
    run.empty_log(0)
    found = run_taste.read(run)[0]
    monkeypatch.setattr(run_taste, "read", lambda ledger, before: (found, None))
    held = []
    for number, other in enumerate([near, *others]):
        path = tmp_path / f"{number}.db"
        shutil.copy(run.path, path)
        sha256 = hashlib.sha256(json.dumps(other, sort_keys=True).encode()).hexdigest()
        with Ledger.open(path) as ledger, contextlib.closing(sqlite3.connect("")) as hashes:
            steps = 15 if other is taste else 16
            last = ledger.last_event()["event"]
            body = {"steps": steps, "taste": other, "taste_sha256": sha256}
            body["begun"] = {"steps": 16, "event": last + 1}
            theta.append_adopted(ledger, replay.fold(ledger), body)
            look = Examination(ledger, hashes)
            try:
                record_checks.check_adopted(look)
                run_taste.check_recorded(look)
            except Broken as broken:
                assert broken.failure.table == "events"
            else:
                held.append(number)
    assert held == [0]


def test_it_is_saved_only_once_shown_and_of_few_people_only_when_they_agree(
    tmp_path, run, monkeypatch, capsys
):
    out = tmp_path / "taste.json"
    assert call(["taste", str(run.path), "--out", str(out)]) == 0
    assert Taste.from_json(json.loads(out.read_text())) == run_taste.read(run)[0]
    assert "64 votes of programs: fewer commas" in capsys.readouterr().out
    alone = replace(run_taste.read(run)[0], people=1)
    monkeypatch.setattr(run_taste, "read", lambda *_, **__: (alone, None))
    second = tmp_path / "second.json"
    for door in (["--as-prompt"], ["--json"], ["--out", str(second)]):
        assert call(["taste", str(run.path), *door]) == 2
        shown = capsys.readouterr()
        assert "describes one person" in shown.err and not shown.out and not second.exists()
        assert call(["taste", str(run.path), *door, "--yes"]) == 0 and capsys.readouterr().out
    unclear = replace(alone, people=0, claims=())
    monkeypatch.setattr(run_taste, "read", lambda *_, **__: (unclear, None))
    assert call(["taste", str(run.path), "--as-prompt"]) == 1
    assert "none of them likely; let its panel vote more" in capsys.readouterr().err
    monkeypatch.undo()
    settings, ledger = named_run.start(tmp_path, "short.db")
    named_run.drive(settings, ledger, until_step=1)
    with pytest.raises(RunError, match="show no taste yet"):
        run_taste.read(ledger)
    ledger.close()


def test_a_taste_that_later_votes_speak_against_is_not_there_to_improve_on(tmp_path):
    named = replace(named_run.features(), components=0)
    settings, ledger = named_run.start(tmp_path, features=named)
    fewer, more = (named_run.Likes(",", weight) for weight in (-2.0, 2.0))
    with ledger:
        for likes, until in ((fewer, 6), (more, 8)):
            panel = PanelEvaluator(VoteService(ledger), [likes, likes])
            go(settings, ledger, named_run.MarkedPolicy(settings), panel, until_step=until)
            assert run_taste.read(ledger)[0].claims[0][0] == "fewer commas"
            if until == 6:
                assert run_taste.read(ledger, present=True)[0] == run_taste.read(ledger)[0]
        with pytest.raises(RunError, match="show no taste any more"):
            run_taste.read(ledger, present=True)


@pytest.mark.full
def test_each_of_several_tastes_is_read_from_its_own_votes(tmp_path, capsys):
    named = replace(named_run.features(), components=0)
    settings, ledger = named_run.start(tmp_path, features=named)
    fewer, more = (named_run.Likes(",", weight) for weight in (-2.0, 2.0))
    panel = PanelEvaluator(VoteService(ledger), [fewer, fewer, more, more])
    go(settings, ledger, named_run.MarkedPolicy(settings), panel, until_step=40)
    with ledger:
        with pytest.raises(RunError, match="show no taste yet"):
            run_taste.read(ledger)
        said = []
        for number in ("1", "2"):
            asked = ["taste", str(ledger.path), "--cluster", number, "--features", "commas"]
            assert call(asked) == 0
            said.append(capsys.readouterr().out.partition(" commas")[0])
        assert sorted(said) == [f"80 votes of programs: {each}" for each in ("fewer", "more")]
    # All votes together are about no more commas than fewer.
    assert call(["taste", str(ledger.path), "--features", "commas"]) == 0
    assert "odds of 0." in capsys.readouterr().out


@pytest.mark.full
def test_what_only_coordinates_explain_cannot_be_read_in_texts(tmp_path, monkeypatch):
    named = named_run.with_names()
    settings, ledger = named_run.start(tmp_path, features=named, D=3, kl_radius=2.0)
    named_run.drive(settings, ledger, until_step=16)
    with ledger:
        assert dict(run_taste.read(ledger)[0].claims)["fewer commas"] > 0.5 * FEATURE_GRID
        unseen = (), (Explanation(FEATURE_GRID, ()),)
        monkeypatch.setattr(run_taste, "explain", lambda *_: unseen)
        with pytest.raises(RunError, match="follow the adapters themselves, fewer commas"):
            run_taste.read(ledger)


def test_a_direction_is_as_likely_as_the_votes_are_about_anything_and_about_it():
    """A few verdicts may be about nothing, and that much of it is left to nothing."""
    rng = np.random.default_rng(3)
    named = replace(named_run.features(), components=0, states=StateScale(2, 2, 1024))
    apart = rng.normal(size=(3, 2))
    won = (apart[:, 0] > 0).astype(float)
    votes = Votes(0.1 * rng.normal(size=(3, len(named.names))), won, 1 - won)
    joint = fit_joint(votes, named_features.prior_of(named, 1), apart)
    about = joint.signal * joint.share
    assert 0.2 < about < joint.share - 0.1
    asked = []
    way, explanations = run_taste.with_direction(
        ("0" * 64, "tiny"), named, joint, lambda w: asked.append(w) or [-ONE, 0, 4 * ONE], (),
        (Explanation(ONE, ()),),
    )  # fmt: skip
    weights = np.rint(ONE * joint.states.w).astype(int).tolist()
    assert way == Direction("0" * 64, "tiny", 2, 1024, tuple(weights), -ONE, 4 * ONE, ONE)
    assert asked[0].tolist() == weights
    taste = Taste((), explanations, (), "", direction=way)
    assert taste.unsaid == pytest.approx(about, abs=1 / ONE)
    assert sum(each.chance for each in explanations) == ONE
    named_too = Explanation(300, ((0, 5),))
    _, three = run_taste.with_direction(
        ("0" * 64, "tiny"), named, joint, lambda w: [0], (COMMAS,),
        (named_too, Explanation(ONE - 300, ())),
    )  # fmt: skip
    own = replace(explanations[0], weights=((1, ONE),))
    assert three == (named_too, own, Explanation(ONE - 300 - own.chance, ()))


@pytest.mark.parametrize("share", [0.09, 0.11])
def test_hidden_states_that_votes_hardly_follow_are_no_part_of_a_taste(share):
    """So a taste that has words is of texts of any model, and each token gets its own credit."""
    named = replace(named_run.features(), components=0, states=StateScale(2, 2, 1024))
    fit = SimpleNamespace(w=np.array([1.0, 0.0]))
    joint = SimpleNamespace(states=fit, share=share, signal=1.0)
    about = (Explanation(ONE // 2, ((0, ONE),)), Explanation(ONE - ONE // 2, ()))
    way, left = run_taste.with_direction(
        ("0" * 64, "tiny"), named, joint, lambda w: [0], (COMMAS,), about
    )
    taste = Taste((COMMAS,), left, (), dictionary.digest(), direction=way)
    assert (way is None) == (aims.decay_of(taste) is not None) == (share < 0.1)
    assert way is not None or left == about


def test_an_explanation_is_as_likely_as_its_fit_and_counts_within_what_was_shown():
    """Of four kept: two with weights, one that rounds to none, and one too unlikely to name."""
    named = replace(named_run.features(), components=0, scales=(ONE // 2,) * 5)
    kept = [
        SimpleNamespace(chance=0.5, support=(0, 2), w=(-1.0, 0.25)),
        SimpleNamespace(chance=0.2, support=(2,), w=(1e-5,)),
        SimpleNamespace(chance=0.125, support=(4, 7), w=(0.5, 3.0)),
        SimpleNamespace(chance=2e-4, support=(1,), w=(3.0,)),
    ]
    joint = SimpleNamespace(named=SimpleNamespace(kept=kept), kept=0.8)
    pairs = [("a, b", "a b"), ("a, b", "is it you?"), ("same, same", "same, same")]
    rows = [Row(Prompt.user("?"), Answer(plus), Answer(minus)) for plus, minus in pairs]
    shown = [Comparison("c", 0, 0, 0, tuple(rows))]
    entries = {name: dictionary.BY_NAME[name] for name in named.names}
    features, found = run_taste.explain(named, joint, shown, entries)
    assert found == (
        Explanation(1638, ((0, -ONE), (1, ONE // 4))), Explanation(410, ((2, ONE // 2),)),
        Explanation(ONE - 1638 - 410, ()),
    )  # fmt: skip
    # Three different texts were shown, one with a comma in two words, one with a question; a
    # spread is a half, so that one in two words is one spread.
    commas, questions, you = features
    assert commas == Feature("commas", ONE // 2, 0, ONE, round(ONE / 3))
    assert (questions.name, questions.low, questions.mean) == (
        "questions", 0, round(questions.high / 3),
    )  # fmt: skip
    assert you.name == "you" and you.high > 0


def test_the_ends_of_a_direction_are_one_answer_to_each_prompt():
    shown = [Shown(value, prompt, text) for value, prompt, text in (
        (3, "a", "x"), (5, "b", "y"), (4, "b", "z"), (1, "c", "u"), (2, "d", "v"), (0, "c", "w"),
    )]  # fmt: skip
    most, least = run_taste.ends(shown)
    assert [each.text for each in most] == ["y", "x", "v"]
    assert [each.text for each in least] == ["w", "v", "x"]


def test_the_best_of_several_answers_is_the_first_of_those_that_score_highest():
    taste, prompt = made(Explanation(1, ((1, ONE),))), Prompt.user("a")
    answers = [Answer(text) for text in ("no", "one?", "one??", "no")]
    policy = SimpleNamespace(loaded=SimpleNamespace(sha256="0" * 64, name="tiny"))
    assert best(taste, policy, prompt, answers, answers[:1]) is answers[1]
    # By states: of the answers' texts after this prompt, by the taste's own layer and model.
    way = Direction("0" * 64, "tiny", 2, 1024, (ONE, -ONE), -9 * ONE, 9 * ONE, 0)
    felt = Taste((), (Explanation(ONE, ((0, ONE),)),), (), "", direction=way)

    def mean_states(prompts, answers, layer):
        assert layer == 2 and {*prompts} == {prompt} and len(prompts) == len(answers)
        return np.array([[answer.text.count("?"), len(answer.text)] for answer in answers])

    policy.mean_states = mean_states
    assert best(felt, policy, prompt, answers, answers[:1]) is answers[0]
    policy.loaded.sha256 = "1" * 64
    with pytest.raises(UsageError, match="tiny is another model"):
        best(felt, policy, prompt, answers, answers[:1])


def shown_best(policy, asked, count, seed, taste):
    """The answers of the start and of the policy by one seed, and the best of each by hand."""
    found = {}
    drawn = {side: policy.sample(asked, count, seed=seed, base=side == "base")
             for side in ("base", "tuned")}  # fmt: skip
    for side, rows in drawn.items():
        for prompt, answers, start in zip(asked, rows, drawn["base"], strict=True):
            texts = [answer.text for answer in answers]
            usual = taste.starts([prompt.text] * count, [answer.text for answer in start])
            scores = taste.score([prompt.text] * count, texts, starts=usual)
            found.setdefault(prompt.text, {})[side] = texts[0], texts[int(np.argmax(scores))]
    return found


def test_the_commands_show_the_best_of_as_many_answers_as_they_are_asked_for(
    tmp_path, monkeypatch, capsys
):
    """Of a run's start and its policy by the same random numbers, or of a model alone."""
    taste, asked = made(Explanation(1, ((0, ONE),))), toy_policy.PROMPTS[:4]
    file = tmp_path / "taste.json"
    file.write_text(json.dumps(taste.to_json()))
    policy = toy_policy.ToyPolicy(SimpleNamespace(sha256="0", name="toy"), toy_policy.moving())
    policy.move_to({toy_policy.SITE.b: np.float32([[0], [1.5], [0], [0]])})
    parts = SimpleNamespace(
        language=policy, prompts=PromptSet((), asked), close=lambda: None
    )  # fmt: skip
    monkeypatch.setattr(assemble, "reopen", lambda ledger, **how: parts)
    monkeypatch.setattr(assemble, "build", lambda config, **how: parts)
    wanted = shown_best(policy, asked, 3, 5, taste)
    how = ["--best-of", "3", "--taste", str(file), "--seed", "5", "--json"]
    _, ledger = named_run.start(tmp_path)
    with ledger:
        named_run.drive(named_run.settings_of(), ledger, until_step=1)
    capsys.readouterr()
    assert call(["sample", str(ledger.path), "--prompts", "2", *how]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == [
        {"prompt": text, "base": [sides["base"][0]], "base, best of 3": [sides["base"][1]],
         "tuned, best of 3": [sides["tuned"][1]]}
        for text, sides in list(wanted.items())[:2]
    ]  # fmt: skip
    checked = SimpleNamespace(config=Config(), prompts=parts.prompts)
    monkeypatch.setattr(assemble, "check", lambda config: checked)
    assert call(["answer", "--set", "model.name=tiny", "--prompts", "4", *how]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == [
        {"prompt": text, "base": [sides["base"][0]], "base, best of 3": [sides["base"][1]]}
        for text, sides in wanted.items()
    ]
    assert any(sides["base"][0] != sides["base"][1] for sides in wanted.values())


def test_shown_answers_stand_as_far_above_the_mean_as_the_command_says(run, monkeypatch, capsys):
    way = Direction("0" * 64, "tiny", 2, 1024, (ONE,), -4 * ONE, 4 * ONE, mean=ONE // 2)
    liked = Taste((), (Explanation(ONE, ((0, ONE),)),), (), "", direction=way)
    ends = (Shown(2 * ONE, "?", "warm"),), (Shown(-ONE, "?", "cold"),)
    monkeypatch.setattr(run_taste, "read", lambda *_, **__: (liked, None))
    monkeypatch.setattr(run_taste, "extremes", lambda *_: ends)
    assert call(["taste", str(run.path)]) == 0
    said = capsys.readouterr().out
    assert "in logits above their mean" in said
    assert "  +1.5  warm" in said and "  -1.5  cold" in said  # of a mean of a half


def test_a_run_without_names_has_no_taste_to_save(tmp_path):
    from tests.support import quadratic

    _, ledger, *_ = quadratic.start(tmp_path)
    with pytest.raises(UsageError, match="named features"):
        run_taste.read(ledger)
    ledger.close()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("stranger/model", "stranger/model, which is not on this machine"),
        ("tiny", "it is about hidden states of tiny, and tiny is another model"),
    ],
)
def test_the_file_of_a_stranger_makes_no_model_come_or_load(
    name, why, tmp_path, capfd, monkeypatch
):
    monkeypatch.setattr(loading, "load", None)
    way = Direction("0" * 64, name, 2, 1024, (1,) * 8, -4096, 4096, 0)
    about = (Explanation(4096, ((0, 4096),)),)
    text = json.dumps(Taste((), about, (), "", (), 10, 1, way).to_json())
    (tmp_path / "taste.json").write_text(text, "utf-8")
    (tmp_path / "answers.jsonl").write_text('{"prompt": "?", "completion": "Hi."}\n', "utf-8")
    words = ["score", str(tmp_path / "answers.jsonl"), "--taste", str(tmp_path / "taste.json")]
    assert call(words) == 2
    assert why in capfd.readouterr().err


def test_a_name_or_claim_in_a_strangers_file_does_not_go_on_and_on():
    made = Taste((), (Explanation(1, ((0, 1),)),), (), "", (), 0, 0,
                 Direction("0" * 64, "x", 2, 1024, (1,), 0, 0, 0)).to_json()  # fmt: skip
    assert Taste.from_json(made)
    for change in ({"claims": [["x" * 9000, 1]]}, {"direction": {**made["direction"],
                                                                "name": "y" * 9000}}):  # fmt: skip
        with pytest.raises(UsageError, match="goes on for 9,000 characters"):
            Taste.from_json({**made, **change})
