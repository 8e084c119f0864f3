"""What votes are about, read off the texts of a run whose coordinates have no names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from szpo.analysis import taught, text_taste, vote_texts
from szpo.ledger.database import Ledger
from tests.support.tasting import Taster, voted


def lesson(path: Path) -> taught.Lesson | None:
    with Ledger.open(path) as ledger:
        return taught.read(ledger)


@pytest.mark.parametrize(("likes", "words"), [(8, "longer"), (-8, "shorter")])
def test_a_taste_is_named_in_its_sense(tmp_path: Path, likes: float, words: str) -> None:
    found = lesson(voted(tmp_path, [Taster(0, likes)], 12))
    assert found is not None and found.shown
    assert str(found).startswith(f"48 votes, by their texts: {words} (")


def test_votes_by_chance_are_about_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a Bayes factor of 9 at most one of nine looks says something (Ville's inequality)."""
    with Ledger.open(voted(tmp_path, [Taster(0, 0)], 12)) as ledger:
        cast = vote_texts.read(ledger)
        said = 0
        for seed in range(45):
            y = np.random.default_rng(seed).integers(0, 2, len(cast.y)).astype(np.float64)
            monkeypatch.setattr(vote_texts, "read", lambda _, y=y: replace(cast, y=y))
            said += text_taste.read(ledger) is not None
    assert said <= 5


def test_of_many_texts_the_last_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = voted(tmp_path, [Taster(0, 8)], 12)
    monkeypatch.setattr(text_taste, "MAX_TEXTS", 4 * 37 + 3)  # two rows of two sides each
    found = lesson(path)
    assert found is not None and found.votes == 37


def test_a_comparison_of_more_texts_is_read_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = voted(tmp_path, [Taster(0, 8)], 2)
    monkeypatch.setattr(text_taste, "MAX_TEXTS", 1)
    assert lesson(path) is None  # no feature differs in five comparisons
