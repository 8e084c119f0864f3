"""Runs without coordinates: features read behind the first sheet, and votes that are explained."""

import json
from collections.abc import Sequence
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from szpo import seeds
from szpo.analysis import run_taste, taught_taste
from szpo.analysis.improvement import why_at_start
from szpo.cli.app import call
from szpo.cli.run import say_result
from szpo.config import settings_file
from szpo.config.optimizer import make_settings
from szpo.errors import IntegrityError, UsageError
from szpo.failpoints import InjectedError, arm
from szpo.features.dictionary import BY_NAME
from szpo.features.user_features import Description, choose
from szpo.ledger import canonical, theta
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import FEATURES, recorded_settings
from szpo.optim import named_features, regression
from szpo.optim.named_features import NamedFeatures
from szpo.optim.parameters import NO_COORDINATES
from szpo.optim.settings import Settings
from szpo.optim.state_regression import StateScale
from szpo.replay import replay, verification
from szpo.runs import budget, pair_choice, start_features, states_again, taste_files
from szpo.taste import Direction, Explanation, Feature, Taste
from szpo.types import FEATURE_GRID, Answer, Comparison, Prompt, Row
from szpo.voting import shown_states
from szpo.voting.panel_evaluator import PanelEvaluator
from szpo.voting.recorded_step import read_step
from szpo.voting.service import VoteService
from tests.support import folder_run
from tests.support.named_run import MARKS, Likes
from tests.support.quadratic import QuadraticPolicy, go, history, new_ledger, panel_of
from tests.support.tampering import change_event, failure_of, forge, rewrite

ENTRIES = [BY_NAME[name] for name in MARKS]
PROMPTS = [Prompt.user(f"Question {i}?") for i in range(40)]


class Still(QuadraticPolicy):
    """Answers with marks in random numbers, whatever the weights are."""

    def rollout(self, prompts: Any, shifts: Any, *, seed: int) -> Any:
        assert all(shift.sign == 0 for shift in shifts), "nothing may be perturbed"
        batches = []
        for asked, shift in zip(prompts, shifts, strict=True):
            key = seeds.derive(seed, "marks", k=shift.k)
            counts = (4 * seeds.uniform(key, len(asked) * len(MARKS))).astype(int)
            batches.append(tuple(
                Answer("Well" + "".join(m * n for m, n in zip(MARKS.values(), row, strict=True)))
                for row in counts.reshape(len(asked), -1)
            ))  # fmt: skip
        return batches


class SeesNone(Likes):
    """Says "same" where both have as many, or always."""

    def judge(self, comparison: Any, *, panelist: str, plus_side: Any, key: bytes) -> Any:
        (row,) = comparison.rows
        same = row.plus.text.count("!") == row.minus.text.count("!")
        said = super().judge(comparison, panelist=panelist, plus_side=plus_side, key=key)
        return "tie" if same or comparison.step < 2 else said


def begin(folder: Path, name: str = "run.db") -> tuple[Settings, Ledger]:
    settings = make_settings(7, NO_COORDINATES, rule="regression", K=4, N=1, D=1)
    return settings, new_ledger(folder / name, settings)


def drive(settings: Settings, ledger: Ledger, judge: Any = None, **how: Any) -> Still:
    policy = Still(settings)
    panel = panel_of(ledger, judge=judge or Likes())
    drawn = lambda: start_features.draw(policy, PROMPTS, settings.root_seed, ENTRIES)  # noqa: E731
    go(settings, ledger, policy, panel, features=drawn, **{"until_step": 12, **how})
    return policy


class Coin(Likes):
    """Votes whatever the texts are."""

    def judge(self, comparison: Any, *, panelist: str, plus_side: Any, key: bytes) -> Any:
        return "A" if seeds.uniform(key, 1)[0] < 0.5 else "B"


class Against(Likes):
    """Likes what the others dislike."""

    def judge(self, comparison: Any, *, panelist: str, plus_side: Any, key: bytes) -> Any:
        said = super().judge(comparison, panelist=panelist, plus_side=plus_side, key=key)
        return {"A": "B", "B": "A"}.get(said, said)


@pytest.mark.parametrize(
    ("judges", "weighting", "followed"),
    [
        ([Coin()], "equal", None),
        ([Coin()] * 3, "equal", "that of all 3 voters alike"),
        ([Likes("!", 20.0)] * 3 + [Against("!", 20.0)], "skill", "by weight panel-0 "),
    ],
)
def test_the_end_says_what_was_found_whose_taste_it_is_and_only_commands_that_work(
    tmp_path, capsys, judges, weighting, followed
):
    more = {"rule": "regression", "K": 4, "N": 1, "D": 1, "weighting": weighting}
    settings = make_settings(7, NO_COORDINATES, **more)
    sets = [f"optimizer.{name}={value}" for name, value in more.items()]
    sets += ["panel.kind=people", "subspace.kind=none", "run.votes=32"]
    spec = {"config": settings_file.load(sets=sets).model_dump(mode="json")}
    with new_ledger(tmp_path / "my run.db", settings, spec=spec) as ledger:
        policy = Still(settings)
        drawn = lambda: start_features.draw(policy, PROMPTS, 7, ENTRIES)  # noqa: E731
        panel = PanelEvaluator(VoteService(ledger), judges)
        go(settings, ledger, policy, panel, features=drawn, until_step=8)
        say_result(ledger)
        said, why = capsys.readouterr().out, "guard by fresh answers: distinct-2"
        ledger.record_event(theta.KEPT, "controller", {"stopped": why})
        assert f"improving found nothing to adopt ({why})" in (why_at_start(ledger) or "")
    assert "nothing has moved" in said and "once they show a taste, szpo improve moves" in said
    where = f"'{tmp_path / 'my run.db'}'"
    offered = [line.split()[1] for line in said.splitlines() if line.startswith("  szpo ")]
    if followed is None:
        assert "whose taste" not in said
    else:
        assert f"whose taste is followed: {followed}" in said
        assert f"szpo taste {where} --several says whether" in said
    if isinstance(judges[0], Coin):  # three coins passed the threshold once, and fell behind it
        shown = (
            "not clear any more: it may be chance (" if followed else "no taste shown (odds of "
        )
        assert f"32 votes: {shown}" in said
        assert call(["taste", str(tmp_path / "my run.db")]) == 1
        assert "its votes show no taste " in capsys.readouterr().err
        assert offered == ["report", "verify", "vote"]
        assert f"szpo vote {where} --votes +" in said
    else:
        assert "32 votes: more exclamation marks (" in said and offered[0] == "taste"


def test_a_run_goes_on_with_the_votes_it_has_left_before_more_are_added(tmp_path):
    more = {"rule": "regression", "K": 4, "N": 1, "D": 1}
    settings = make_settings(7, NO_COORDINATES, **more)
    sets = [f"optimizer.{name}={value}" for name, value in more.items()]
    sets += ["panel.kind=people", "subspace.kind=none", "run.votes=16"]
    spec = {"config": settings_file.load(sets=sets).model_dump(mode="json")}
    with new_ledger(tmp_path / "run.db", settings, spec=spec) as ledger:
        drawn = lambda: start_features.draw(policy, PROMPTS, 7, ENTRIES)  # noqa: E731
        policy, said = Still(settings), []
        for until in (3, 4):
            panel = PanelEvaluator(VoteService(ledger), [Coin()])
            go(settings, ledger, policy, panel, features=drawn, until_step=until)
            said.append(budget.describe_more(ledger))
    begin = f"szpo vote {tmp_path / 'run.db'}"
    assert said == [begin, f"{begin} --votes +40"]


def body_of(ledger: Ledger) -> Any:
    (event,) = ledger.events(FEATURES)
    return event["body"]


@pytest.mark.parametrize("lag", [0, 1])
def test_votes_are_explained_and_nothing_moves(tmp_path, lag):
    settings, ledger = begin(tmp_path)
    with ledger:
        policy = drive(settings, ledger, lag=lag)
        found = replay.replay_state(ledger, recorded_settings(ledger)).carried.fit.named
        named = recorded_settings(ledger).features
        assert recorded_settings(ledger).features is named  # read and checked once
        assert named is not None and set(named.names) == {*MARKS}
        top = named_features.claims(found, named)[0]
        assert (top.feature, top.more) == ("exclamations", True) and top.chance > 0.9
        assert policy.theta_now["none"].tolist() == [0.0]
        assert len({theta for _, _, theta in history(ledger)}) == 1
        # The sheets before the features are known show pairs by chance, of fewer candidates.
        sizes = [{*map(len, e["body"]["pool"]["candidates"])} for e in ledger.events("generated")]
        first = 1 + lag
        rest = len(sizes) - first
        assert sizes == [{pair_choice.FEWER}] * first + [{pair_choice.ANSWERS}] * rest
        assert verification.verify(ledger).ok


def test_rows_that_look_the_same_are_no_evidence(tmp_path):
    settings, ledger = begin(tmp_path)
    with ledger:
        drive(settings, ledger, SeesNone(), until_step=2)
        carried = replay.replay_state(ledger, recorded_settings(ledger)).carried
        assert carried.votes.up.tolist() == carried.votes.down.tolist() == [0.0] * 8
        assert carried.log_factor == pytest.approx(0, abs=1e-9)
        drive(settings, ledger, SeesNone(), until_step=6)
        votes = replay.replay_state(ledger, recorded_settings(ledger)).carried.votes
        sided = ledger.query("SELECT count(*) AS n FROM votes WHERE choice <> 'tie'")[0]["n"]
        assert {*(votes.up + votes.down).tolist()} == {0.0, 1.0}
        assert (votes.up + votes.down).sum() == sided < len(votes.up) - 8
        assert verification.verify(ledger).ok


@pytest.mark.full
def test_features_follow_from_the_seed_alone_also_after_a_kill(tmp_path):
    found = []
    for name, judge, cut in (
        ("a.db", Likes(), ""), ("b.db", Likes(","), ""),
        ("c.db", Likes(), "cp9:raise"), ("d.db", Likes(), "cp3:raise"),
    ):  # fmt: skip
        settings, ledger = begin(tmp_path, name)
        with ledger:
            if cut:  # before the first update, and before the first sheet
                with arm(cut), pytest.raises(InjectedError):
                    drive(settings, ledger, judge, lag=1)
            drive(settings, ledger, judge, lag=1)
            found.append((body_of(ledger), history(ledger)))
    bodies, votes = zip(*found, strict=True)
    assert bodies[0] == bodies[1] == bodies[2] == bodies[3]
    assert votes[0] == votes[2] == votes[3] != votes[1]


def test_own_features_are_drawn_with_the_others_and_belong_to_the_taste(tmp_path):
    loud = "loud = regex:!"
    entries, described = choose([loud, "keyword:zebra"], entries=ENTRIES)
    settings, ledger = begin(tmp_path)
    with ledger:
        policy = Still(settings)
        draw = partial(
            start_features.draw, policy, PROMPTS, settings.root_seed, entries, described
        )
        go(
            settings, ledger, policy, panel_of(ledger, judge=Likes()), until_step=12,
            features=draw, entries={each.name: each for each in entries},
        )  # fmt: skip
        named = recorded_settings(ledger).features
        assert named is not None and named.names[-1] == loud
        assert named.own == (astuple(described[0]),)  # no answer has a zebra
        assert verification.verify(ledger).ok
        made = run_taste.read(ledger, [loud])[0]
        assert made.own == named.own and made.claims[0][0] == "more of loud"
        assert made.score(["?"] * 2, ["Well!!", "Well"], given=[loud])[0] > 0
        with pytest.raises(UsageError, match="give them again"):
            run_taste.read(ledger)


def test_a_features_event_of_another_shape_is_a_failure_and_no_crash(tmp_path):
    settings, ledger = begin(tmp_path)
    with ledger:
        drive(settings, ledger, until_step=2)
        (drawn,) = ledger.events(FEATURES)
    changed = canonical.canonical({**drawn["body"], "states": 7})
    where = "UPDATE events SET body = ? WHERE event = ?"
    forge(tmp_path / "run.db", where, (changed, drawn["event"]))
    rewrite(tmp_path / "run.db")
    assert failure_of(tmp_path / "run.db") is not None


def test_features_that_come_twice_or_late_do_not_verify(tmp_path):
    settings, ledger = begin(tmp_path)
    with ledger:
        drive(settings, ledger, until_step=2)
        event = ledger.query("SELECT event FROM events WHERE kind = ?", (FEATURES,))[0]["event"]
        last = ledger.query("SELECT max(event) AS n FROM events")[0]["n"]
    assert forge(tmp_path / "run.db", "UPDATE events SET event = -1 WHERE event = ?", (event,))
    forge(tmp_path / "run.db", "UPDATE events SET event = event - 1 WHERE event > ?", (event,))
    forge(tmp_path / "run.db", "UPDATE events SET event = ? WHERE event = -1", (last,))
    rewrite(tmp_path / "run.db")
    assert "before the first fit" in str(failure_of(tmp_path / "run.db"))


def test_one_forged_value_among_a_step_s_true_ones_is_found(tmp_path):
    settings, ledger = begin(tmp_path)
    with ledger:
        drive(settings, ledger, until_step=3)

    def change(body: Any) -> None:
        body["features"][0][0][0] += 1

    change_event(tmp_path / "run.db", "regressors", 1, change)
    rewrite(tmp_path / "run.db")
    assert failure_of(tmp_path / "run.db").problem == "features are not those of its texts"


def test_groups_scales_and_what_is_left_out():
    """Twins correlate; the shipped spread of a feature counts as 64 answers beside the 128."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 4))
    values = np.stack([x, 2 * x + 1, rng.normal(size=x.shape), 0 * x, 0 * x + 3], axis=-1)
    usual = {"rare": round(0.5 * FEATURE_GRID), "other": FEATURE_GRID}
    found = start_features.read(values, ["one", "twin", "other", "rare", "never"], usual)
    assert found.names == ("one", "twin", "other", "rare") and found.groups == (0, 0, 1, 2)
    off = values[..., 2] - values[..., 2].mean(1, keepdims=True)
    square = (off**2).sum() / (32 * 3)
    wanted = np.sqrt([(128 * square + 64) / 192, 64 * 0.25 / 192])
    assert np.array(found.scales[2:]) / FEATURE_GRID == pytest.approx(wanted, abs=1e-3)
    assert (found.components, found.dim) == (0, 1)
    mine = start_features.read(
        values, ["one", "twin", "other", "rare", "never"], usual, [Description("twin", "regex")]
    )
    assert mine.groups == (0, 1, 2, 3) and mine.own == (("twin", "regex", "", "", ""),)


def test_shipped_spreads_are_those_of_the_dictionary():
    assert {*start_features.shipped_scales()} == {*BY_NAME}


def test_a_model_is_asked_without_set_up_and_has_nothing_to_export(tmp_path, capsys):
    path = folder_run.make(tmp_path, "subspace.kind=none", "optimizer.D=1", "run.votes=8")
    told = capsys.readouterr()
    assert "votes are explained, and the model does not move" in told.err
    assert "szpo improve moves the model" in told.out
    assert call(["verify", str(path)]) == 0
    assert call(["export", str(path), "--out", str(tmp_path / "adapter")]) == 2
    assert not (tmp_path / "adapter").exists()
    capsys.readouterr()
    assert call(["show", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["improvement"]["verdict"] == "unknown"
    for sets in (["optimizer.D=8"], ["optimizer.rule=sign"]):
        with pytest.raises(UsageError, match=r"subspace\.kind"):
            settings_file.load(sets=["subspace.kind=none", *sets])
    people = settings_file.load(preset_name="people")
    assert people.picks_pairs and replace(recorded(path), features=None).picks_pairs


def recorded(path: Path) -> Settings:
    with Ledger.open(path, readonly=True) as ledger:
        return recorded_settings(ledger)


HIDDEN = 6
"""Dimensions of the states of `Feels`."""


class Feels(Still):
    """Its states know a mark that no named feature counts; the other dimensions are noise."""

    usual_layer = 3

    def rollout(self, prompts: Any, shifts: Any, *, seed: int) -> Any:
        key = seeds.derive(seed, "moods")
        every = super().rollout(prompts, shifts, seed=seed)
        moods = iter(seeds.uniform(key, sum(map(len, every))) < 0.5)
        return [
            tuple(Answer(f"{'Oh' if next(moods) else 'Ah'}{each.text[4:]}") for each in batch)
            for batch in every
        ]

    def mean_states(self, prompts: Any, answers: Any, layer: int) -> np.ndarray:
        assert layer == 3
        found = []
        for prompt, answer in zip(prompts, answers, strict=True):
            key = seeds.derive(0, "states", name=prompt.text + answer.text)
            mood = 4.0 if answer.text.startswith("Oh") else -4.0
            found.append([mood, *(seeds.uniform(key, HIDDEN - 1) - 0.5)])
        return 10 + np.array(found)


def drive_on_states(
    settings: Settings, ledger: Ledger, until_step: int = 16, prior: Sequence[str] = ()
) -> Feels:
    policy = Feels(settings)
    panel = panel_of(ledger, judge=Likes("Oh", 20.0))

    def drawn() -> NamedFeatures:
        found = start_features.draw(
            policy, PROMPTS, settings.root_seed, ENTRIES, layer=policy.usual_layer
        )
        return taste_files.with_prior(found, taste_files.read_directions(prior))

    go(settings, ledger, policy, panel, features=drawn, until_step=until_step)
    return policy


def test_an_earlier_taste_is_recorded_with_the_features_and_found_again_sooner(tmp_path):
    settings, ledger = begin(tmp_path, "first.db")
    saved = tmp_path / "taste.json"
    with ledger:
        drive_on_states(settings, ledger)
        assert call(["taste", str(ledger.path), "--out", str(saved), "--yes"]) == 0
        earlier = run_taste.read(ledger)[0].direction
    evidence = []
    for name, prior in (("without.db", ()), ("with.db", (str(saved),))):
        settings, ledger = begin(tmp_path, name)
        with ledger:
            drive_on_states(settings, ledger, 3, prior)
            named = recorded_settings(ledger).features
            carried = replay.replay_state(ledger, recorded_settings(ledger)).carried
            evidence.append(carried.fit.log_factor)
    assert evidence[1] > evidence[0] + 0.05
    # The same start, hence the same scale; half a unit of rounding.
    assert named is not None and named.states is not None
    np.testing.assert_allclose(named.states.known[0] * 4096, earlier.weights, atol=0.5)
    saved.unlink()  # the run has all it needs
    with Ledger.open(ledger.path, readonly=True) as again:
        assert verification.verify(again).ok


def test_earlier_tastes_of_other_states_are_refused_by_name(tmp_path):
    def write(name: str, **changes: Any) -> str:
        way = Direction("digest", "mine", 3, 1024, (4096, 0), -9, 9, 0)
        liked = Taste(
            (Feature("commas", 1, 0, 1, 0),), (Explanation(4096, ((0, 1),)),), (), "",
            direction=replace(way, **changes) if changes else None,
        )  # fmt: skip
        (tmp_path / name).write_text(json.dumps(liked.to_json()))
        return str(tmp_path / name)

    def read(file: str) -> None:
        loaded = SimpleNamespace(sha256="digest", name="mine")
        ways = taste_files.read_directions([file])
        taste_files.require_fitting([file], ways, SimpleNamespace(loaded=loaded), 3)

    def refuse(file: str, words: str) -> None:
        with pytest.raises(UsageError, match=words):
            read(file)

    read(write("a.json", layer=3))
    refuse(write("b.json"), r"prior: .*b\.json is about named features alone")
    refuse(write("c.json", model="0"), r"c\.json: .* mine is another model, or has other weights")
    refuse(write("d.json", layer=4), r"d\.json is of layer 4, the run of layer 3; set features\.l")
    # Logits for h/s: in a scale twice as large a unit of h/s is twice as much.
    wide = StateScale(3, 2, 2048)
    ways = taste_files.read_directions([str(tmp_path / "a.json")])
    assert taste_files.in_scale(ways, wide) == ((8192, 0),)


def test_a_taste_without_a_name_is_found_in_hidden_states_and_follows_from_the_record(
    tmp_path, capsys
):
    settings, ledger = begin(tmp_path)
    with ledger:
        policy = drive_on_states(settings, ledger)
        named = recorded_settings(ledger).features
        assert named is not None and named.states is not None
        # Two answers differ by 8 half of the time: s² = 32 and a little noise of five dimensions.
        assert (named.states.layer, named.states.width) == (3, HIDDEN)
        assert named.states.scale / 1024 == pytest.approx(np.sqrt(32.8), rel=0.1)
        carried = replay.replay_state(ledger, recorded_settings(ledger)).carried
        assert carried.fit.share > 0.9
        # In logits: two moods are 8 apart, two draws of noise at most 1.
        assert 8 * carried.fit.states.w[0] > 5 * np.abs(carried.fit.states.w[1:]).max()
        said = regression.findings_of(recorded_settings(ledger), carried)
        assert said.shown and said.unnamed > 0.9
        assert all(claim.chance < 0.1 for claim in said.taught)
        assert verification.verify(ledger).ok
        assert "read again: at most 0 off" in states_again.check(ledger, policy, "fp32")
        other = SimpleNamespace(mean_states=lambda *asked: policy.mean_states(*asked) + 0.1)
        with pytest.raises(IntegrityError, match=r"of text \d+ are 0\.04\d* from what the model"):
            states_again.check(ledger, other, "fp32")

        found = run_taste.read(ledger)[0]
        way = found.direction
        assert way is not None and found.claims == ()
        assert found.unsaid > 0.9 and found.words.startswith("a direction of the hidden states")
        most, least = run_taste.extremes(ledger, found)
        assert [each.text[:2] for each in (*most, *least)] == ["Oh"] * 3 + ["Ah"] * 3
        assert most[0].value > most[2].value > least[2].value > least[0].value
        capsys.readouterr()
        assert call(["taste", str(ledger.path)]) == 0
        told = capsys.readouterr().out
        assert "it likes most:" in told and "hidden states; " in told
        prompts, texts = [PROMPTS[0]] * 2, [Answer("Ah!!!"), Answer("Oh")]
        states = policy.mean_states(prompts, texts, 3)
        asked = [prompt.text for prompt in prompts], [text.text for text in texts]
        worse, better = found.score(*asked, states=states)
        assert better - worse > 2
        # Beyond what was shown it counts no further.
        way_to = states[1] - states[0]
        far, farther = found.score(*asked, states=states[1] + np.outer([1, 9], way_to))
        assert far == farther
        assert Taste.from_json(json.loads(json.dumps(found.to_json()))) == found
        with pytest.raises(UsageError, match="texts alone do not show"):
            found.score(*asked)
        with pytest.raises(UsageError, match=f"it is of {HIDDEN} hidden states"):
            found.score(*asked, states=states[:, 1:])
        with pytest.raises(UsageError, match="mine is another model"):
            found.require_model("0" * 64, "mine")


def test_what_no_words_say_takes_a_name_that_stays(tmp_path, capsys):
    settings, ledger = begin(tmp_path)
    with ledger:
        drive_on_states(settings, ledger)
        before = run_taste.read(ledger)[0]
        assert str(taught_taste.read(ledger)).endswith(f": {taught_taste.UNEXPLAINED} (100 %)")
        for wrong in ("", "two\nlines", "x" * 81):
            assert call(["taste", str(ledger.path), "--name", wrong]) == 2
            assert "--name: give one line of 1 to 80" in capsys.readouterr().err
        for name in ("sighing", " sighs of wonder "):
            assert call(["taste", str(ledger.path), "--name", name]) == 0
        assert "votes of programs: sighs of wonder (100 %)" in capsys.readouterr().out
        assert str(taught_taste.read(ledger)).endswith(": sighs of wonder (100 %)")
        found = run_taste.read(ledger)[0]
        assert found.instruction() == "Write answers that are liked here: sighs of wonder."
        assert Taste.from_json(json.loads(json.dumps(found.to_json()))) == found
        assert replace(found, called="") == before and "called" not in before.to_json()
        # What was before a name does not know it: an improvement's taste is computed again so.
        (first, _) = ledger.events(taught_taste.NAMED)
        assert run_taste.read(ledger, before=first["event"])[0] == before
        assert taught_taste.recorded_taste(ledger, {"taste": before.to_json()}) == found
        assert verification.verify(ledger).ok


def test_states_of_a_comparison_are_means_over_all_its_rows_of_which_equal_ones_are_nothing():
    same, a, b = (Answer(text) for text in ("same", "Oh", "Ah"))
    rows = (Row(PROMPTS[0], a, b), Row(PROMPTS[1], same, same))
    asked = [Comparison("c", 0, 0, 0, rows)]
    assert shown_states.shown_of(asked) == [(PROMPTS[0], "Oh"), (PROMPTS[0], "Ah")]
    found = shown_states.differences_of(asked, np.array([[1024, 0], [0, -512]], np.int16))
    assert found.tolist() == [[[1 / 2, 1 / 4]]]  # (1, ½) over two rows
    ends = np.array([[2**15 - 1, 0], [1 - 2**15, 0]], np.int16)  # as far as a record goes
    assert shown_states.differences_of(asked, ends).tolist() == [[[32 - 2**-10, 0]]]


def test_recorded_states_that_are_not_of_their_texts_are_told(tmp_path):
    settings, ledger = begin(tmp_path)
    with ledger:
        drive_on_states(settings, ledger, until_step=3)
        body = read_step(ledger, 1).body("regressors")
        texts = len(shown_states.shown_of(ledger.comparisons(1)))
        whole = shown_states.unpacked(body["states"], texts, HIDDEN)
        assert shown_states.packed(whole) == body["states"]
        bomb = shown_states.packed(np.zeros((10**6, HIDDEN), np.int16))
        for wrong in ("no states", body["states"][:-8], shown_states.packed(whole[1:]), bomb):
            with pytest.raises(IntegrityError, match="states"):
                shown_states.unpacked(wrong, texts, HIDDEN)
        with pytest.raises(UsageError, match=r"features\.layer to 0"):
            shown_states.read_of(Still(settings), [], recorded_settings(ledger).features.states)
