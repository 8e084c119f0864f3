"""The pages stay readable: words per sentence, measured as docs/tools/prose.py says."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STUMBLES = (
    "anybody's judgement", "nudges the model's", "1024³", "zero share", "fifths of it are due",
    "guard fails (", "told apart", "what was not measured, are in", "where a machine may read",
    "stands on a in exactly half", "holds no port", "as much to read", "a fifth of their pairs",
    "as much reading", "nats less doubt", "without asking anybody", "so that a step's length is",
    "so many in parallel", "look alike", "unless told otherwise", "learnt", "reckon",
)  # fmt: skip
"""Words at which a new reader stopped, in November 2026; each was written anew."""


@pytest.fixture
def prose(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "tools"))
    return import_module("prose")


def test_only_sentences_are_measured(prose):
    page = prose.read(
        "# A title\n\nOne two `szpo run --plan` four. Five six\nseven?\n\n- Eight nine\n\n"
        "| a | b |\n|---|---|\n| not one word | of it |\n\n    code of a page\n\n"
        "!!! note\n    Ten, e.g. eleven.\n\n`alone`\n"
    )
    assert page.lengths == [4, 3, 2, 3]
    # Syllables: one two four, five six se-ven, eight nine, ten e.g. e-le-ven: 3 + 4 + 2 + 5 in 11
    # words; 12 words with the code, in 4 sentences.
    assert page.reading_ease == pytest.approx(206.835 - 1.015 * 12 / 4 - 84.6 * 14 / 11)
    assert page.quantile(0.5) == 3


def test_its_examples_hold(prose):
    assert doctest.testmod(prose).failed == 0


def test_all_pages_together_reach_the_aim(prose):
    everything = prose.together(prose.pages())
    assert len(everything.sentences) > 1000
    assert everything.quantile(0.5) <= prose.AIM[0]
    assert everything.quantile(0.9) <= prose.AIM[1]


def test_no_sentence_is_left_at_which_new_readers_stopped(prose):
    for page in [*prose.pages(), *sorted((ROOT / "examples").rglob("*.py"))]:
        text = " ".join(page.read_text(encoding="utf-8").lower().split())
        found = [words for words in STUMBLES if words in text]
        assert not found, f"{page.relative_to(ROOT)}: {found}"
