"""Comparisons that teach the run nothing: practice, and what tells how reliable votes are.

*Gold* shows a batch of stored answers beside the same answers spoiled, so that the better side is
known. A *repeat* shows a panelist an earlier comparison with the sides swapped. *A/A* shows two
samples of one policy (made by whoever holds the model). No model is needed here, and none of them
ever enters a tally.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Literal

from szpo import seeds
from szpo.ledger.database import Ledger, Record
from szpo.types import Answer, Comparison, Prompt, Row
from szpo.voting import seats, triads
from szpo.voting.seats import Letter

Kind = Literal["gold", "repeat", "aa"]
KINDS: Final[tuple[Kind, ...]] = ("gold", "repeat", "aa")
"""Kinds of calibration, in the order in which equally answered ones are taken."""
GOLD_ROWS: Final = 4
"""Rows of a gold comparison at most: it is to be short."""
BACK: Final = 4
"""So many comparisons a panelist must have answered since one that is repeated."""
SOURCES: Final = 200
"""Gold is made from the last so many comparisons of finished steps."""
FEW_WORDS: Final = 4
"""Texts of fewer words are shuffled by letters."""

PRACTICE_ID: Final = "practice"
_PRACTICE: Final = (
    (
        "How do I keep cut flowers fresh for longer?",
        "Cut the stems at an angle, put them in clean water, and change the water every two days. "
        "Keep the vase away from sun and fruit.",
        "Flowers are nice. Many people like flowers, and there are many kinds of flowers.",
    ),
    (
        "Write a short note to thank a neighbour for feeding the cat.",
        "Dear Ruth, thank you for looking after Momo while we were away. He is as glad as we are!",
        "The cat is fed. The neighbour is a neighbour. Thank the note.",
    ),
    (
        "How many minutes are two and a half hours?",
        "150 minutes.",
        "Two and a half hours are about 100 minutes, give or take.",
    ),
)


def practice() -> Comparison:
    """The one practice comparison, of our own writing; plus is clearly better.

    >>> practice().expected, len(practice().rows)
    ('plus', 3)
    """
    rows = tuple(Row(Prompt.user(q), Answer(good), Answer(bad)) for q, good, bad in _PRACTICE)
    return Comparison(PRACTICE_ID, -1, 0, 0, rows, kind="practice", expected="plus")


def store_practice(ledger: Ledger) -> str:
    """The id of the practice comparison, which is stored at the first call."""
    with ledger.transaction("votes"):
        if ledger.comparison(PRACTICE_ID) is None:
            ledger.append_comparison(practice())
    return PRACTICE_ID


def choose(ledger: Ledger, panelist: str) -> tuple[str, Letter] | None:
    """A comparison for a panelist who waits, and the side of plus; None while there is none.

    Triads that were ordered come first, then what the panelist has answered least often, never one
    shown to them before. Gold and repeats are stored when they are first shown, so call it inside
    a transaction.
    """
    triad = triads.choose(ledger, panelist)
    if triad is not None:
        return triad
    mine, ordered = _seen(ledger, panelist), set(triads.asked(ledger))
    answered = [
        seat["kind"] for seat in mine
        if seat["choice"] is not None and seat["comparison"] not in ordered
    ]  # fmt: skip
    for kind in sorted(KINDS, key=answered.count):
        found = {"gold": _gold, "repeat": _repeat, "aa": _aa}[kind](ledger, panelist, mine)
        if found is not None:
            return found
    return None


def gold(root_seed: int, source: Comparison) -> Comparison | None:
    """A true batch against a spoiled copy of itself, made from a stored comparison.

    The answers of either policy (drawn) stand as plus; in minus they are handed to other prompts,
    or their words are shuffled. None where nothing is left to tell the two apart.
    """
    key = seeds.derive(root_seed, "gold", name=source.id)
    side = ("plus", "minus")[seeds.integer(key, 0, 2)]
    rows = [(row.prompt, getattr(row, side)) for row in source.rows]
    rows = [(prompt, answer) for prompt, answer in rows if len(answer.text.split()) > 1]
    rows = rows[:GOLD_ROWS]
    texts = [answer.text for _, answer in rows]
    moved = [*texts[1:], *texts[:1]]
    if seeds.integer(key, 1, 2) or any(a == b for a, b in zip(texts, moved, strict=True)):
        moved = [
            shuffled(text, seeds.derive(root_seed, "shuffle", k=i, name=source.id))
            for i, text in enumerate(texts)
        ]
    pairs = [
        Row(prompt, answer, Answer(text, answer.end))
        for (prompt, answer), text in zip(rows, moved, strict=True)
        if text != answer.text
    ]
    if not pairs:
        return None
    return Comparison(
        key.hex(), -1, 0, 0, tuple(pairs), kind="gold", repeats=source.id, expected="plus"
    )


def shuffled(text: str, key: bytes) -> str:
    """The text with its words (letters, where it has few words) in a drawn order.

    >>> shuffled("one two three four five", bytes(16))
    'one three two five four'
    """
    words = text.split()
    parts: Sequence[str] = words if len(words) >= FEW_WORDS else text
    order = seeds.permutation(key, len(parts))
    return (" " if parts is words else "").join(parts[int(i)] for i in order)


def tuned(ledger: Ledger) -> set[str]:
    """Everybody who gave an answer (no skip) to a training comparison."""
    rows = ledger.query(
        "SELECT DISTINCT a.panelist FROM comparisons c JOIN assignments a USING (comparison) "
        "JOIN votes v USING (assignment) WHERE c.kind = 'train' AND v.choice <> 'skip'"
    )
    return {row["panelist"] for row in rows}


# ---- the inside ----


def _seen(ledger: Ledger, panelist: str) -> list[Record]:
    """Every seat the panelist ever had, those answered first in the order of first answers."""
    return ledger.query(
        "SELECT a.comparison, a.plus_side, c.kind, c.step, c.k, c.n, f.vote, l.choice "
        "FROM assignments a JOIN comparisons c USING (comparison) "
        "LEFT JOIN votes f ON f.assignment = a.assignment AND f.revision = 0 "
        "LEFT JOIN votes l ON l.assignment = a.assignment AND l.revision = "
        "(SELECT max(revision) FROM votes WHERE assignment = a.assignment) "
        "WHERE a.panelist = ? ORDER BY f.vote IS NULL, f.vote",
        (panelist,),
    )


def _gold(ledger: Ledger, panelist: str, mine: list[Record]) -> tuple[str, Letter] | None:
    shown = {seat["comparison"] for seat in mine}
    root = ledger.root_seed
    sources = ledger.query(
        "SELECT c.comparison FROM steps s JOIN comparisons c USING (run, step) "
        "WHERE s.run = ? AND s.state IN ('closed', 'applied') AND c.kind = 'train' "
        "AND c.identical = 0 ORDER BY c.step DESC, c.k, c.n LIMIT ?",
        (ledger.run, SOURCES),
    )
    # All panelists in the same drawn order, so that they mostly answer the same ones.
    ids = [row["comparison"] for row in sources]
    keys = {each: seeds.derive(root, "gold", name=each).hex() for each in ids}
    for each in sorted(ids, key=lambda each: (each in shown, keys[each])):
        if keys[each] in shown:
            continue
        source = ledger.comparison(each)
        made = None if source is None else gold(root, source)
        if made is not None:
            _store(ledger, made)
            return made.id, _balanced(ledger, panelist, mine, "gold", made.id)
    return None


def _repeat(ledger: Ledger, panelist: str, mine: list[Record]) -> tuple[str, Letter] | None:
    shown = {seat["comparison"] for seat in mine}
    train = [seat for seat in mine if seat["kind"] == "train" and seat["choice"] is not None]
    final = _finished(ledger)
    found = []
    for seat in train[: max(0, len(train) - BACK)]:
        key = seeds.derive(ledger.root_seed, "repeat", name=seat["comparison"]).hex()
        if seat["choice"] != "skip" and seat["step"] in final and key not in shown:
            found.append((key, seat))
    if not found:
        return None
    key, seat = min(found, key=lambda each: each[0])
    source = ledger.comparison(seat["comparison"])
    assert source is not None
    again = replace(
        source, id=key, step=-1, k=0, n=0, kind="repeat", repeats=source.id, expected=None
    )
    _store(ledger, again)
    return key, "B" if seat["plus_side"] == "A" else "A"


def _aa(ledger: Ledger, panelist: str, mine: list[Record]) -> tuple[str, Letter] | None:
    shown = {seat["comparison"] for seat in mine}
    for row in ledger.query(
        "SELECT comparison FROM comparisons WHERE run = ? AND kind = 'aa' AND identical = 0 "
        "ORDER BY rowid",
        (ledger.run,),
    ):
        if row["comparison"] not in shown:
            chosen = row["comparison"]
            return chosen, _balanced(ledger, panelist, mine, "aa", chosen)
    return None


def _finished(ledger: Ledger) -> set[int]:
    """Steps whose votes no longer change."""
    return {r["step"] for r in ledger.steps() if r["state"] in ("closed", "applied")}


def _store(ledger: Ledger, comparison: Comparison) -> None:
    known = ledger.query("SELECT 1 FROM comparisons WHERE comparison = ?", (comparison.id,))
    if not known:
        ledger.append_comparison(comparison)


def _balanced(
    ledger: Ledger, panelist: str, mine: list[Record], kind: Kind, comparison: str
) -> Letter:
    """The side that plus had less often for this panelist in comparisons of the kind."""
    key = seats.side_key(ledger.root_seed, comparison, panelist)
    return seats.less_used_side((seat["plus_side"] for seat in mine if seat["kind"] == kind), key)
