"""Named features: their values, their grammar, differences of batches; the votes by them."""

import json
import re
from pathlib import Path

import pytest

from szpo.analysis import vote_rows
from szpo.analysis.features import Feature, differences, parse
from szpo.cli.app import call
from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.types import Answer, Prompt
from tests.support import tiny_models
from tests.support.cases import case
from tests.support.judging import comparison
from tests.support.plugged import plug
from tests.support.quadratic import new_ledger, settings_of
from tests.support.tasting import Taster, voted

TEXT = "Thank you! Perhaps the sea, the sea?\n- 3 boats\n2) 14 gulls 🌊"


def value(name: str, text: str = TEXT) -> float:
    (one,) = parse(name)
    return one.score(Prompt.user("How was the sea?"), Answer(text))


def test_values():
    cases = {
        # thank you perhaps the sea the sea 3 boats 2 14 gulls
        "length": 12,
        "keyword:sea+sun": 0.5,
        "regex:sea": 2,
        "regex:a\\, the": 1,
        # of 11 word pairs "the sea" came before; of how, was, the, sea two are taken up
        "repetition": 1 / 11,
        "overlap": 0.5,
    }
    for name, expected in cases.items():
        with case(name, expected):
            assert value(name) == pytest.approx(expected)


def test_what_cannot_be_read_is_reported():
    cases = {
        "lngth": "no feature 'lngth'; did you mean \"length\"",
        "length,length": "'length' is named twice",
        "length:3": "'length:3': takes nothing after a colon",
        "keyword": "needs whole words joined by +",
        "regex": "needs a pattern",
        "tokens": "needs a model",
        "verify": "no verifier ''; there are",
        " , ": "no feature is named",
    }
    for text, words in cases.items():
        with case(text), pytest.raises(UsageError, match=re.escape(words)):
            parse(text)


def test_features_read_models_packages_and_checks_of_form(tmp_path, monkeypatch):
    assert value("verify:no_comma+question", "Rain again?") == 1
    tiny_models.tokenizer().save_pretrained(tmp_path)
    assert value(f"tokens:{tmp_path}", "w1 w2 w3") == 3

    plug(monkeypatch, features=("loudness", lambda times: lambda _, a: len(a.text) * float(times)))
    assert value("loudness:2", "abc") == 6
    with pytest.raises(UsageError, match='"loudness"'):
        parse("loudnes")


def test_a_batch_differs_by_the_mean_over_all_rows():
    # (2 − 1 + 0 + 0 − 3)/4 words: identical rows count among the four and add nothing.
    rows = [("a b", "a"), ("c", "c"), ("d e", "d e"), ("", "f g h")]
    swapped = comparison(*((minus, plus) for plus, minus in rows))
    asked = [comparison(*rows), swapped]
    assert differences(parse("length,questions"), asked).tolist() == [[-0.5, 0.0], [0.5, 0.0]]
    assert differences(parse("length"), []).shape == (0, 1)


@pytest.mark.parametrize("given", [float("nan"), float("inf"), None, "seven"])
def test_a_feature_that_is_no_number_is_named(given):
    odd = Feature("odd", lambda prompt, answer: given if answer.text == "a" else 0.0)
    with pytest.raises(UsageError, match=r"feature odd: .* in comparison c0"):
        odd.difference(comparison(("a", "b")))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """120 votes of five voters who like mood, and of whom the last likes short notes."""
    folder = tmp_path_factory.mktemp("features")
    judges = [Taster(2.0, 0.0)] * 4 + [Taster(2.0, -2.0)]
    return voted(folder, judges, 15, N=8, D=2, M=1)


def asked(run: Path, *words: str) -> list[str]:
    return ["taste", str(run), "--features", *words]


def test_a_taste_of_features_that_are_named_is_what_voters_like(run, capsys):
    assert call(asked(run, "numbers,sentiment,length", "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    mood, length = found["features"]
    assert (mood["feature"], length["feature"], found["still"]) == (
        "sentiment", "length", ["numbers"],
    )  # fmt: skip
    assert mood["more"] > 0.9 > 0.1 > mood["less"] and mood["weight"] > 0.5 > length["more"]
    assert found["shown"] and found["odds"] > 9 and found["votes"] == 120
    assert call(asked(run, "sentiment,numbers")) == 0
    message = capsys.readouterr()
    assert "numbers: the same on both sides" in message.err
    assert "120 votes: odds of" in message.out and "more is liked" in message.out


def test_what_may_be_named_is_listed(capsys):
    assert call(["taste", "--list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"length", "keyword", "tokens"} <= found.keys()
    assert found["commas"] == "more commas; commas per word (commas)"


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["numbers,emoji"], 1, "numbers, emoji: the same on both sides of every"),
        (["lngth"], 2, "no feature 'lngth'"),
        (["length", "--as-prompt"], 2, "fits votes, and writes no taste"),
    ],
)
def test_what_cannot_be_fitted_is_refused(run, capsys, words, code, line):
    assert call(asked(run, *words)) == code
    message = capsys.readouterr().err
    assert line in message and "Traceback" not in message


def test_a_run_without_votes_says_so(tmp_path, capsys):
    new_ledger(tmp_path / "new.db", settings_of()).close()
    assert call(asked(tmp_path / "new.db", "length")) == 2
    assert "new.db has no votes on a closed round yet" in capsys.readouterr().err


def test_open_rounds_are_not_read(run, tmp_path):
    copy = tmp_path / "copy.db"
    copy.write_bytes(run.read_bytes())
    with Ledger.open(copy) as ledger:
        whole = vote_rows.read_judged(ledger)
        ledger.execute("DROP TRIGGER IF EXISTS steps_forward")
        for trigger in ledger.query("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
            ledger.execute(f"DROP TRIGGER {trigger['name']}")
        ledger.execute("UPDATE steps SET state = 'open', counted = NULL WHERE step = 14")
        fewer = vote_rows.read_judged(ledger)
    assert len(whole.y) == 120 and len(fewer.y) == 112
    assert fewer.comparisons == whole.comparisons[:112]
    assert (fewer.which == whole.which[:112]).all()
