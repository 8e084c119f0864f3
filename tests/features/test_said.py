"""A line in a person's words: what it names, in which words, and what it does not understand."""

import pytest

from szpo.features import own, said
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
    found, told = said.read([line], NAMES)
    assert {*found} == named
    assert list(found) == sorted(found, key=NAMES.index)
    unknown = next((text for text in told if "not understood" in text), "")
    assert all(f'"{word}"' in unknown for word in lost) and bool(unknown) == bool(lost)
    assert len(told) == bool(named) + bool(lost)


def test_words_mean_only_what_the_run_has():
    assert said.read(["cheerful"], ["bullets"])[0] == ()
    assert "not understood" in said.read(["cheerful"], ["bullets"])[1][0]
    assert "not understood: all of it;" in said.read(["the"], ["bullets"])[1][0]
    assert own.is_said("mine = say: cheerful") and not own.is_said("regex:say:")
    assert said._meanings().keys() >= {"cheerful", "to_the_point"}
    of_sets = {"concreteness", "fluency"}
    assert {name for each in said._meanings().values() for name in each} <= {*BY_NAME} | of_sets
