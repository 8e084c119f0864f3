"""Words that stand in preferred texts and not in the others, over what a filter finds.

A comparison's two sides are judged as wholes, so the votes of a comparison hold for each of its
prompts. A word counts once a text, and where only one of the two texts has it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from szpo.features.reading import words
from szpo_ui.operator import vote_filter
from szpo_ui.operator.vote_filter import Filter
from szpo_ui.operator.vote_index import HOLDS, VoteIndex

MOST: Final = 400
"""Comparisons that are read, the newest ones: a page must not wait for all of a long run."""
MOST_LETTERS: Final = 300_000
"""Characters of their answers that are read."""
LEAST: Final = 2.0
"""Standard deviations of a fair coin by which a word's wins and losses differ, at least."""
LISTED: Final = 8


@dataclass(frozen=True, slots=True)
class WinningWords:
    """(word, times in the preferred text alone, in the other alone), most one-sided first."""

    won: tuple[tuple[str, int, int], ...]
    lost: tuple[tuple[str, int, int], ...]
    comparisons: int
    """Comparisons with a preferred side that were read."""


def read(index: VoteIndex, chosen: Filter) -> WinningWords:
    """The words of the training comparisons that a filter finds, by the votes that it finds."""
    where, values = vote_filter.of_comparisons(chosen)
    votes, parameters = vote_filter.of_votes(chosen)
    rows = index.ledger.query(
        "SELECT number, sum((verdict = 'plus') - (verdict = 'minus')) AS ahead "
        f"FROM temp.given WHERE state IN {HOLDS} AND {votes or vote_filter.EVERY} "
        f"AND number IN (SELECT number FROM temp.shown WHERE kind = 'train' AND {where}) "
        "GROUP BY number HAVING ahead <> 0 ORDER BY number DESC LIMIT ?",
        (*parameters, *values, MOST),
    )
    won, lost = Counter[str](), Counter[str]()
    letters = comparisons = 0
    for row in rows:
        if letters > MOST_LETTERS:
            break
        comparisons += 1
        for texts in index.ledger.query(
            "SELECT plus, minus FROM answers JOIN comparisons c USING (comparison) "
            "WHERE c.rowid = ?",
            (row["number"],),
        ):
            plus, minus = texts["plus"], texts["minus"]
            letters += len(plus) + len(minus)
            better, worse = (plus, minus) if row["ahead"] > 0 else (minus, plus)
            have, lack = set(words(better)), set(words(worse))
            won.update(have - lack)
            lost.update(lack - have)
    clear = sorted(
        (-abs(won[word] - lost[word]) / (won[word] + lost[word]) ** 0.5, word)
        for word in won | lost
    )
    told = [(word, won[word], lost[word]) for far, word in clear if -far >= LEAST]
    return WinningWords(
        tuple(each for each in told if each[1] > each[2])[:LISTED],
        tuple(each for each in told if each[1] < each[2])[:LISTED],
        comparisons,
    )
