"""The dictionary: golden values, exact integers, odd texts, other locales, complete entries."""

import hashlib
import json
import locale
import re
import runpy
import subprocess
import sys
from fractions import Fraction
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from szpo.features import dictionary
from szpo.features.dictionary import (
    BY_NAME,
    ENTRIES,
    GROUPS,
    ROOM,
    digest,
    holding,
    ratios,
    read_answer,
)
from szpo.features.reading import SPACE, split_sentences, words
from szpo.features.user_features import tell_left_out

GOLDEN = json.loads(resources.files("szpo.features").joinpath("golden.json").read_bytes())
ODD = {
    "empty": "",
    "blank": " \n\t\n ",
    "long word": "a" * 100_000,
    "long": "Rain, wind! " * 8_400,
    "marks": "?!*_`#([{" * 11_000,
    "open marks": "`" * 3 + "*_" * 50_000,
    "lines": "\n" * 100_000,
    "dots": "." * 100_000 + "x",
    "controls": "".join(map(chr, range(32))) + "\x7f\x85\u2028\ufeff",
    "emoji": "🎉👩‍🚒🏽🇪🇺" * 100,
    "right to left": "\u202eكان اليوم جميلا، وذهبنا إلى البحر؟ שלום",
    "lone surrogate": "a \ud800 b",
    "combining": "e\u0301" * 500 + " अच्छा है।",
}


def test_the_golden_table_holds():
    assert len(GOLDEN) == 200
    wrong = [
        (answer, entry.name)
        for prompt, answer, values in GOLDEN
        for i, (entry, ratio) in enumerate(zip(ENTRIES, ratios(prompt, answer), strict=True))
        if list(ratio) != values[2 * i : 2 * i + 2]
    ]
    assert not wrong, "changed values: see docs/tools/features_page.py"


def test_every_entry_is_named_grouped_and_told_apart_by_the_golden_texts():
    assert 80 <= len(ENTRIES) <= 110 and 20 <= len(GROUPS) <= 30
    assert len(BY_NAME) == len(ENTRIES)
    phrases = [phrase for entry in ENTRIES for phrase in (entry.fewer, entry.more)]
    assert all(phrases) and len(set(phrases)) == len(phrases)
    assert all(entry.group and entry.unit for entry in ENTRIES)
    columns = {
        tuple(Fraction(*values[2 * i : 2 * i + 2]) for _, _, values in GOLDEN)
        for i in range(len(ENTRIES))
    }
    assert len(columns) == len(ENTRIES)
    assert all(sum(value != 0 for value in column) > 1 for column in columns)


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_texts_give_integers_as_well(text):
    for numerator, denominator in ratios(text[:500], text):
        assert type(numerator) is type(denominator) is int and denominator > 0


def test_an_answer_is_read_without_its_neighbours_and_in_any_order():
    before = [ratios(prompt, answer) for prompt, answer, _ in GOLDEN[:40]]
    read_answer.cache_clear()
    again = [ratios(prompt, answer) for prompt, answer, _ in GOLDEN[39::-1]]
    assert before == again[::-1]


def test_another_locale_and_hash_seed_change_nothing():
    code = (
        "import json, locale, sys\n"
        "from importlib import resources\n"
        "locale.setlocale(locale.LC_ALL, sys.argv[1])\n"
        "from szpo.features.dictionary import digest, ratios\n"
        "table = resources.files('szpo.features').joinpath('golden.json')\n"
        "rows = json.loads(table.read_bytes())\n"
        "ok = all([n for r in ratios(p, a) for n in r] == v for p, a, v in rows)\n"
        "print(ok, digest())\n"
    )
    known = [name for name in ("tr_TR.UTF-8", "de_DE.UTF-8", "C.UTF-8", "C") if _there(name)]
    for name in {known[0], "C"}:
        done = subprocess.run(
            [sys.executable, "-X", "utf8=0", "-c", code, name],
            capture_output=True, text=True, env={"PYTHONHASHSEED": "7", "LC_ALL": name},
        )  # fmt: skip
        assert done.stdout.split() == ["True", digest()], done.stderr


def _there(name: str) -> bool:
    before = locale.setlocale(locale.LC_ALL)
    try:
        locale.setlocale(locale.LC_ALL, name)
    except locale.Error:
        return False
    locale.setlocale(locale.LC_ALL, before)
    return True


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("i", "I’m here, my friend", (2, 4)),
        ("commas", "One, two, three", (2, 3)),
        ("comma", "None", (0, 1)),
        ("sentence-length", "One two. Three four five six.", (6, 2)),
        ("finished", 'He said "no."', (1, 1)),
        ("finished", "He said", (0, 1)),
        ("asks-last", "Well. Why?", (1, 1)),
        ("paragraphs", "a\n\nb\nc\n \n\nd", (3, 1)),
        ("bullets", "- a\n 2) b\nc - d", (2, 1)),
        ("shouting", "NO I said OK, Ok", (2, 1)),
        ("capitals", "Then Anna met Bo. The end", (2, 6)),
        ("word-length", "a " + "b" * 50, (21, 2)),
        ("repetition", "the sea the sea", (1, 3)),
        ("same-starts", "It is. It was. We are.", (1, 3)),
        ("variety", "The the sea", (2, 3)),
        ("sentiment", "good", (4404, 10_000)),
        # 206.835 − 1.015·2 − 84.6·(2 + 5)/2, of two words in one sentence
        ("readability", "Rainy considerations.", (-182_590, 2_000)),
        ("politeness", "Thank you, thanks", (2, 1)),
        ("ed-words", "He needed seed", (1, 3)),
        ("starts-order", "Take it", (1, 1)),
        ("future", "It is going to rain, I’ll go", (2, 7)),
        ("questions", "Qué? 何？", (2, 1)),
    ],
)  # fmt: skip
def test_values_by_hand(name, text, expected):
    (found,) = ratios("Describe a rainy Monday.", text, [BY_NAME[name]])
    assert Fraction(*found) == Fraction(*expected)


@given(st.text(".!?。؟ '\"x"))
def test_sentences_end_where_a_run_of_marks_does(text):
    plain = re.compile(rf"[.!?。！？]+(?=[{SPACE}\"'”’)]|$)|[。！？؟।]+")  # quadratic in a run
    assert split_sentences(text) == [w for part in plain.split(text) if (w := words(part))]


def test_the_prompt_counts_where_an_entry_is_about_it_and_of_many_emoji_none():
    entries = [BY_NAME["overlap"], BY_NAME["echo"]]
    # of how, was, the, sea two are taken up; of five words of the answer three are the prompt's
    assert ratios("How was the sea?", "The sea, the calm one", entries) == ((2, 4), (3, 5))
    assert ratios("", "The sea", entries) == ((0, 1), (0, 2))
    few, many, none = (
        ratios("", "🙂" * n + " Bad.", [BY_NAME["sentiment"]])
        for n in (dictionary.TONE_EMOJI, dictionary.TONE_EMOJI + 1, 0)
    )
    assert many == none < few


def test_word_lists_stay_out_where_prompts_are_not_english():
    assert holding(["Describe a rainy Monday.", "What is your view on the sea?"]) == ENTRIES
    assert tell_left_out(["What is your view on the sea?"]) == ""
    told = tell_left_out(["Warum gehen Menschen gern ans Meer?"])
    assert "73 features of English words stay out" in told and "about length, characters," in told
    for prompts, languages in (
        (
            ["Beschreibe einen regnerischen Montag.", "Erzähle von einem Garten."],
            {"any", "spaced"},
        ),
        (["请描述一个下雨的星期一，越详细越好。", "今日はとても暑いので海へ行きました"], {"any"}),
        ([], {"any", "spaced"}),
    ):
        assert {entry.languages for entry in holding(prompts)} == languages


def test_the_digest_covers_all_that_the_values_come_from():
    room = Path(dictionary.__file__).parent
    sources = "\n".join((room / n).read_text("utf-8") for n in ROOM if n.endswith(".py"))
    imported = re.findall(r"^from szpo\.features\.(\w+) import", sources, re.M)
    assert {f"{name}.py" for name in (*imported, "dictionary")} | {"golden.json"} == set(ROOM)
    found = hashlib.sha256("\n".join(BY_NAME).encode())
    for name in ROOM:
        found.update((room / name).read_bytes())
    assert digest() == found.hexdigest()


def test_the_page_shows_the_entries():
    root = Path(__file__).parents[2]
    made = runpy.run_path(str(root / "docs/tools/features_page.py"))["table"]()
    page = (root / "docs/reference/features.md").read_text("utf-8")
    assert page.endswith(made), "run docs/tools/features_page.py"


def test_the_bytes_that_the_digest_covers_are_those_of_earlier_runs():
    """Others refuse every run, set and taste from before, unless `EARLIER` gets the old digest."""
    assert dictionary.digest().startswith("3f0dc3570290c091")
