"""A file with the screen's sentences in another language: what is refused, what a run records."""

import json

import pytest

from szpo.cli.app import call
from szpo.config import sentences
from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo_ui.site import of_ledger
from tests.support import yard_run

TEXT = sentences.FILE.read_text(encoding="utf-8")


@pytest.fixture
def made(tmp_path):
    """made(old, new, …): the file of a copy in which texts were replaced."""

    def make(*changes: str):
        text = TEXT
        for old, new in zip(changes[::2], changes[1::2], strict=True):
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        path = tmp_path / "my_sentences.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return make


def test_a_translated_copy_is_read_as_it_stands(made):
    path = made(
        'lang = "en"', 'lang = "zh-Hans"', '"Round {round} of {rounds}"', '"{rounds}: {round}"'
    )
    found = sentences.read(path)
    assert (found["lang"], found["page"]["round_of"]) == ("zh-Hans", "{rounds}: {round}")
    assert sentences.read(made()) == sentences.ENGLISH


ROUND = 'round = "Round {round}"\n'
REFUSED = {
    "missing": ((ROUND, ""), "lacks page.round; copy what is missing from "),
    "empty": ((ROUND, 'round = " "\n'), "lacks page.round; "),
    "no text": ((ROUND, "round = 3\n"), "lacks page.round; "),
    "a whole table": (("[notices]", "[notes]"), "lacks notices.late, notices.closed, "),
    "unknown": ((ROUND, ROUND + 'rond = "x"\n'), "has page.rond, which no page shows; "),
    "a list too long": (('  "Ready",\n', '  "Ready",\n  "Go",\n'), "has page.wait_phases.4, "),
    "a list too short": (('  "Ready",\n', ""), "lacks page.wait_phases.3; "),
    "another blank": ((ROUND, 'round = "R. {runde}"\n'),
                      "page.round has other blanks than 'Round {round}'; keep these"),
    "no blank": ((ROUND, 'round = "Round"\n'), "page.round has other blanks than "),
    "a lone brace": ((ROUND, 'round = "{round} {"\n'), "page.round has other blanks than "),
    "a look inside": ((ROUND, 'round = "{round.real}"\n'), "page.round has other blanks than "),
    "the language": (('lang = "en"', 'lang = "de_DE!"'), "lang is no language tag; give one, "),
}  # fmt: skip


@pytest.mark.parametrize("fault", REFUSED)
def test_what_does_not_fit_the_screen_is_refused_in_one_line(made, fault):
    changes, says = REFUSED[fault]
    with pytest.raises(UsageError) as refused:
        sentences.read(made(*changes))
    assert str(refused.value).startswith("panel.sentences: my_sentences.toml")
    assert says in str(refused.value) and "\n" not in str(refused.value)


def test_a_run_is_refused_before_anything_is_loaded(tmp_path, made, capsys):
    for path in (made(ROUND, ""), tmp_path / "none.toml"):
        assert call(yard_run.arguments(tmp_path, f"panel.sentences={path}")) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "panel.sentences" in line and path.name in line
    assert not list((tmp_path / "runs").glob("*"))


def test_a_run_goes_on_with_the_sentences_that_it_recorded(tmp_path, made):
    path = made('lang = "en"', 'lang = "de"', ROUND, 'round = "Runde {round}"\n')
    run = yard_run.make(tmp_path, f"panel.sentences={path}", "run.votes=8")
    path.unlink()
    assert call(["run", "--resume", str(run), "--votes", "+8"]) == 0
    with Ledger.open(run) as ledger:
        own = of_ledger(ledger).sentences
    assert (own.lang, own.page["round"]) == ("de", "Runde {round}")


def test_what_a_record_of_another_version_lacks_is_named_and_in_english(made):
    recorded = json.loads(json.dumps(sentences.read(made('lang = "en"', 'lang = "de"'))))
    del recorded["page"]["round"]
    recorded["live"]["hint"] = "Which {set} is better?"
    recorded["page"]["gone"] = "Not shown any more"
    recorded["page"]["help"] = "Hilfe"
    found, lacking = sentences.complete(recorded)
    assert lacking == ["page.round", "live.hint"]
    assert found["page"]["round"] == sentences.ENGLISH["page"]["round"]
    assert (found["lang"], found["page"]["help"]) == ("de", "Hilfe")
    assert "gone" not in found["page"]
    assert sentences.complete(sentences.ENGLISH) == (sentences.ENGLISH, [])
