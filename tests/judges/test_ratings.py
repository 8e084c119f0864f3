"""Features that a judge rates: from its replies to the record, which needs it no more."""

import json

import pytest

from szpo.cli.app import call
from szpo.config.tables import Judge
from szpo.errors import UsageError
from szpo.features import dictionary, user_features
from szpo.judges.judge_factory import Ratings
from szpo.judges.prompting import JudgeError, Reply
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_settings
from szpo.replay import verification
from szpo.voting import shown_features
from szpo.voting.recorded_step import read_step
from tests.support import folder_run
from tests.support.judging import Scripted
from tests.support.stub_endpoint import completion, stub_endpoint
from tests.support.tampering import forge, rewrite

FEATURE = "judge: sounds like w5"
PAIRS = [("Why?", "warm"), ("Why?", "cold"), ("How?", "warm")]


def ratings(reply, **settings):
    return Ratings(Scripted(reply), Judge(**settings))


def by_word(text):
    return f"So it is.\nGrade: {5 if '| warm' in text else 2}"


def test_every_answer_gets_a_grade_by_itself_and_is_rated_once():
    made = ratings(by_word)
    assert made("sounds warm", PAIRS) == [5, 2, 5]
    assert all("The sentence: sounds warm" in text for text in made.backend.asked)
    entry, recorded = user_features.build("judge: sounds warm", made)
    assert (recorded.kind, recorded.package) == ("judge", made.model)
    user_features.rate_ahead([entry], PAIRS)
    user_features.rate_ahead([entry], [*PAIRS, PAIRS[0]])
    assert len(made.backend.asked) == 6
    assert dictionary.ratios("Why?", "warm", [entry]) == ((5, 1),)


def test_odds_are_thousandths_and_what_cannot_be_read_is_asked_again_then_stops_the_run():
    assert ratings(lambda _: Reply(odds=(0.0, 0.0)), ask="soft")("x", PAIRS) == [500] * 3
    made = ratings(lambda text: "Grade: 4" if "not usable" in text else "Well.")
    assert made("x", PAIRS) == [4] * 3
    with pytest.raises(JudgeError, match="no clear verdict in the reply, as in each of 9 replies"):
        ratings(lambda _: "Well.")("x", PAIRS)


def test_a_feature_without_its_sentence_or_judge_is_refused():
    with pytest.raises(UsageError, match="needs what it rates"):
        user_features.build("judge: ")
    entry, _ = user_features.build(FEATURE)
    with pytest.raises(UsageError, match=r"only a run has it rated"):
        dictionary.ratios("a", "b", [entry])


def arguments(folder, model, *sets):
    return folder_run.arguments(
        folder, "subspace.kind=features", "subspace.samples=64", f'features.add=["{FEATURE}"]',
        'features.drop=["variety"]', "judge.model=stub", *sets, model_folder=model,
    )  # fmt: skip


def said(capsys):
    found = capsys.readouterr()
    return " ".join((found.out + found.err).split())


def by_digits(request, _):
    text = request["messages"][-1]["content"].split("Answer to request 1:")[1].split("5: it")[0]
    return completion(f"Grade: {1 + sum(c in '13579' for c in text) % 5}")


@pytest.mark.full
def test_a_run_records_what_the_judge_said_and_needs_it_for_new_answers_alone(tmp_path, capsys):
    model = folder_run.model(tmp_path)
    with stub_endpoint(by_digits) as stub:
        sets = (f"judge.base_url={stub.url}", "run.votes=8")
        assert call([*arguments(tmp_path, model, *sets), "--plan"]) == 0
        assert f"at most 96 answers, read by stub at {stub.url}" in said(capsys)
        assert not stub.requests
        assert call(arguments(tmp_path, model, *sets)) == 0
        assert "ratings" in said(capsys)
        assert 0 < len(stub.requests) <= 96
        run = tmp_path / "runs" / "folder.db"
        asked = len(stub.requests)
        assert call(["verify", str(run)]) == 0
        assert f"ratings of {FEATURE} are a judge's, as recorded" in said(capsys)
        assert len(stub.requests) == asked
        assert call(["run", "--resume", str(run), "--votes", "+8"]) == 0
        assert asked < len(stub.requests) <= asked + 32
    with Ledger.open(run) as ledger:
        named = recorded_settings(ledger).features
        assert FEATURE in named.names
        assert [FEATURE, "judge", "stub", "", ""] in [list(each) for each in named.own]
        inputs = read_step(ledger, 1).inputs(ledger, recorded_settings(ledger))
        shown = shown_features.pairs_of(ledger.comparisons(1))
        assert set(inputs.ratings[FEATURE]) <= {1, 2, 3, 4, 5}
        assert len(inputs.ratings[FEATURE]) == len(shown)
        assert inputs.text_differences[..., named.names.index(FEATURE)].any()
        event = next(e for e in ledger.events("regressors") if e["body"])
    values = event["body"]["ratings"][FEATURE]
    values[0] += 1
    forge(run, "UPDATE events SET body = ? WHERE event = ?",
          (json.dumps(event["body"]), event["event"]))  # fmt: skip
    rewrite(run)
    with Ledger.open(run, readonly=True) as ledger:
        failure = verification.verify(ledger).failure
    assert failure is not None and failure.problem == "features are not those of its texts"


@pytest.mark.full
def test_a_local_judge_rates_and_a_scorer_does_not(tmp_path, capsys):
    model = folder_run.model(tmp_path, words=("yes", "no"))
    sets = [f"judge.model={model}", "judge.ask=soft"]
    assert call(arguments(tmp_path, model, *sets, "judge.model=a.safetensors")) == 2
    assert "a scorer cannot rate single answers" in said(capsys)
    assert call(arguments(tmp_path, model, *sets)) == 0
    with Ledger.open(tmp_path / "runs" / "folder.db") as ledger:
        assert verification.verify(ledger).ok
        inputs = read_step(ledger, 0).inputs(ledger, recorded_settings(ledger))
        assert all(0 <= each <= 1000 for each in inputs.ratings[FEATURE])
        assert len(set(inputs.ratings[FEATURE])) > 1
