"""A line in a person's words: what it names, in which words, and what it does not understand."""

import pytest

from szpo.features import described_taste, user_features
from szpo.features.dictionary import BY_NAME

NAMES = [*BY_NAME, "positive tone", "lists"]
TONE = ["sentiment", "positive-words", "negative-words"]


@pytest.mark.parametrize(
    ("line", "named", "lost"),
    [
        ("cheerful, no lists", {*TONE, "lines", "bullets", "lists"}, []),
        ("No commas please", {"comma", "commas"}, []),
        ("in the FIRST person", {"i", "starts-i"}, []),
        ("step-by-step, and friendlier", {"then", "sentiment", "feeling", "politeness"}, []),
        ("a positive tone", {"positive tone"}, []),
        ("zesty; sounds like my grandma", set(), ["zesty", "grandma"]),
        ("weather, zest", {"weather"}, ["zest"]),
    ],
)
def test_what_words_name(line, named, lost):
    found, told = described_taste.read([line], NAMES)
    assert {*found} == named
    assert list(found) == sorted(found, key=NAMES.index)
    unknown = next((text for text in told if "not understood" in text), "")
    assert all(f'"{word}"' in unknown for word in lost) and bool(unknown) == bool(lost)
    assert len(told) == bool(named) + bool(lost)


def test_words_mean_only_what_the_run_has():
    assert described_taste.read(["cheerful"], ["bullets"])[0] == ()
    assert "not understood" in described_taste.read(["cheerful"], ["bullets"])[1][0]
    assert "not understood: all of it;" in described_taste.read(["the"], ["bullets"])[1][0]
    assert user_features.is_said("mine = say: cheerful") and not user_features.is_said(
        "regex:say:"
    )
    assert described_taste._meanings().keys() >= {"cheerful", "to_the_point"}
    of_sets = {"concreteness", "fluency"}
    assert {name for each in described_taste._meanings().values() for name in each} <= {
        *BY_NAME
    } | of_sets
