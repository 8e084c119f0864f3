"""Named features: their values, their grammar, differences of batches, and the command."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from szpo import seeds
from szpo.analysis import vote_rows
from szpo.analysis.feature_weights import FeatureVotes
from szpo.analysis.features import Feature, differences, parse
from szpo.analysis.taste_clusters import Clusters, find_clusters, fit_mixture
from szpo.cli.app import call
from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.ledger.theta import append_adopted
from szpo.optim.parameters import NO_COORDINATES
from szpo.types import Answer, Floats, Ints, Prompt
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
        "verify": "needs checks",
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
    return ["features", str(run), *words]


def test_the_command_finds_what_voters_like(run, capsys):
    assert call(asked(run, "--features", "sentiment,length,numbers", "--each", "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    mood, length, numbers = found["features"]
    assert mood["low"] > 0.5 and mood["deviation"] > 0
    assert length["low"] < 0 < length["high"]
    assert numbers["weight"] is None and numbers["more_won"]["of"] == 0
    assert (found["votes"], found["panelists"]) == (120, 5)
    assert found["intervals_over"] == "panelists"
    assert found["held_out"]["low"] > 0.5
    last = found["by_panelist"]["panel-4"]["features"][1]
    assert last["weight"] < min(
        found["by_panelist"][f"panel-{i}"]["features"][1]["weight"] for i in range(4)
    )


def test_the_command_shows_votes_that_the_named_features_get_wrong(run, capsys):
    """By length alone votes for the brighter note look wrong; with mood named fewer do."""

    def wrong(features: str) -> list[dict[str, Any]]:
        assert call(asked(run, "--features", features, "--wrong", "200", "--json")) == 0
        return json.loads(capsys.readouterr().out)["wrong"]

    found = wrong("length")
    chances = [one["chance"] for one in found]
    assert chances == sorted(chances) and chances[-1] < 0.5
    gaps = [
        np.mean([value("sentiment", row["preferred"]) - value("sentiment", row["other"])
                 for row in one["rows"]])
        for one in found
    ]  # fmt: skip
    assert np.mean(gaps) > 0.1
    assert len(wrong("length,sentiment")) < len(found)
    assert call(asked(run, "--features", "length")) == 0
    first, texts = found[0]["rows"][0], capsys.readouterr().out
    assert f"+ {first['preferred']}" in texts and f"− {first['other']}" in texts


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["--features", "numbers,emoji"], 1, "numbers, emoji: the same on both sides of every"),
        (["--features", "lngth"], 2, "no feature 'lngth'"),
        (["--ties", "quarter"], 2, "--ties quarter is neither half nor davidson"),
        (["--ridge", "0"], 2, "--ridge 0.0: give a number above 0"),
    ],
)
def test_what_the_command_refuses(run, capsys, words, code, line):
    assert call(asked(run, *words)) == code
    message = capsys.readouterr().err
    assert line in message and "Traceback" not in message


def test_votes_that_a_feature_explains_wholly_are_called_separable(tmp_path, capsys):
    path = voted(tmp_path, [Taster(1e6, 0.0)], 3, N=8, D=1, M=1)
    assert call(asked(path, "--features", "regex:lovely|warm|bright|happy")) == 0
    message = capsys.readouterr()
    assert "some weights predict every vote" in message.err
    assert "as if all panelists were identical" in message.out


def test_a_run_without_votes_says_so(tmp_path, capsys):
    new_ledger(tmp_path / "new.db", settings_of()).close()
    assert call(asked(tmp_path / "new.db")) == 2
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


def panel(
    seed: int, likes: Callable[[int], tuple[float, ...]], groups: int, each: int
) -> tuple[Floats, Floats, Ints]:
    """Votes of panelists on questions that three of them meet; panelist g likes ``likes(g)``."""
    key = int.from_bytes(seeds.derive(seed, "test panel"), "little")
    rng = np.random.Generator(np.random.Philox(key=key))
    n = groups * each
    x = rng.normal(size=(-(-n // 3), 6))[np.arange(n) // 3]
    who = np.arange(n) % groups
    w = np.array([[*likes(g), 0.0, 0.0, 0.0, 0.0] for g in range(groups)])
    y = (rng.random(n) < 1 / (1 + np.exp(-(x * w[who]).sum(-1)))).astype(float)
    return x, y, who


def told(x: Floats, y: Floats, who: Ints) -> Clusters:
    names = [f"p{g:02d}" for g in who]
    comparisons = [str(i // 3) for i in range(len(y))]
    return find_clusters(FeatureVotes(x, y, names, comparisons), seed=4)


def opposed(g: int) -> tuple[float, ...]:
    return (0.8, 2.0 if g % 2 else -2.0)


@pytest.mark.full
def test_two_tastes_are_found_and_so_is_who_has_them():
    found = told(*panel(1, opposed, 10, 30))
    assert found.verdict == "several" and found.p < 0.01 and len(found.found.shares) == 2
    parity = [int(name[1:]) % 2 for name in found.names]
    members = found.found.members.tolist()
    assert members in (parity, [1 - one for one in parity])
    assert found.within.low > found.between.high
    assert found.cosines[0, 1] < 0
    assert found.gains[1] > found.gains[0]
    # What the fitted tastes expect is what left-out votes show, within their interval.
    assert found.within.low < found.expected.diagonal().mean() < found.within.high


@pytest.mark.full
def test_one_taste_is_called_one_where_two_would_have_been_seen_and_few_votes_few():
    found = told(*panel(2, lambda g: (1.5, 0.0), 10, 20))
    assert found.verdict == "one" and found.power >= 0.8
    assert len(found.found.shares) == 1 and found.between.of == 0
    found = told(*panel(3, opposed, 5, 3))
    assert found.verdict == "few" and found.power < 0.5


def test_one_panelist_has_no_clusters():
    x, y, who = panel(1, opposed, 1, 12)
    with pytest.raises(UsageError, match="one panelist only"):
        told(x, y, who)
    with pytest.raises(UsageError, match="no feature differs"):
        told(0 * x, y, np.arange(12) % 2)


def test_one_taste_is_the_ridge_fit():
    from szpo.analysis.feature_weights import newton

    x, y, who = panel(7, opposed, 4, 25)
    found = fit_mixture(x, y, who, 5, 1, seeds.derive(0, "t"))
    assert found.weights[0] == pytest.approx(newton(x, y, ridge=1.0).weights)
    assert found.posterior.tolist() == [[1.0]] * 5  # the fifth never voted


def test_what_votes_do_not_move_is_fitted_to_no_cluster(tmp_path, capsys):
    with new_ledger(tmp_path / "still.db", settings_of(layout=NO_COORDINATES)) as ledger:
        append_adopted(ledger, {"b": np.ones(1, np.float32)}, {"steps": 0})
    out = tmp_path / "out"
    assert call(["export", str(ledger.path), "--cluster", "1", "--out", str(out)]) == 2
    assert "votes of still move nothing but by szpo improve" in capsys.readouterr().err


@pytest.fixture(scope="module")
def clustered_run(tmp_path_factory):
    """A simulated run of eight voters: half of them like long notes, half short ones."""
    judges = [Taster(1.0, 4.0 if i % 2 else -4.0) for i in range(8)]
    return voted(tmp_path_factory.mktemp("clusters"), judges, 15, N=8, D=2, M=2)


@pytest.mark.full
def test_the_command_on_a_run_with_two_kinds_of_users(clustered_run, capsys):
    asked = ["clusters", str(clustered_run), "--features", "sentiment,length,numbers"]
    assert call([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "several" and found["votes"] == 240
    kinds = [
        {int(m["panelist"].split("-")[1]) % 2 for m in one["members"]} for one in found["clusters"]
    ]
    assert sorted(map(tuple, kinds)) == [(0,), (1,)]
    lengths = {kinds[i].pop(): one["weights"]["length"] for i, one in enumerate(found["clusters"])}
    assert lengths[0] < 0 < lengths[1] and "numbers" not in found["clusters"][0]["weights"]
    assert found["within"]["low"] > found["between"]["high"]
    assert call(asked) == 0
    message = capsys.readouterr().out
    assert message.startswith("2 tastes: panelists differ (p = 0.001)")
    assert "agreement between clusters:" in message and "cluster 2: panel-" in message


@pytest.mark.full
def test_the_command_says_when_votes_are_too_few(tmp_path, capsys):
    path = voted(tmp_path, [Taster(1.0, 0.0)] * 5, 1, N=8, D=1, M=1)
    assert call(["clusters", str(path), "--features", "sentiment,length"]) == 0
    assert capsys.readouterr().out.startswith("too few votes to tell: no sign that panelists")
