"""Calibration: comparisons that measure how reliable panelists are, and that no update counts.

*Gold* shows a batch of stored answers beside a spoiled copy of it, so the better side is known.
*A/A* shows two samples of one policy, which `szpo.runs.driver` draws and `store_comparisons`
stores. `choose_calibration` picks a comparison for a panelist, and makes gold. `gold_results`
counts the answers to gold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from szpo import seeds
from szpo.ledger.database import Ledger, Record
from szpo.types import Answer, Comparison, Row
from szpo.voting import counting
from szpo.voting.seats import Letter, less_used_side

Kind = Literal["gold", "aa"]
KINDS: Final[tuple[Kind, ...]] = ("gold", "aa")
"""Kinds of calibration; an earlier kind is chosen where a panelist answered equally many."""
GOLD_ROWS: Final = 4
"""The most rows in a gold comparison, to keep it short."""
SOURCES: Final = 200
"""Gold is made from at most this many comparisons: the latest ones of finished steps."""
FEW_WORDS: Final = 4
"""In a text of fewer words, the letters are shuffled instead of the words."""


def store_comparisons(ledger: Ledger, comparisons: Sequence[Comparison]) -> bool:
    """Store a run's A/A comparisons; if it has some, store nothing and return False."""
    with ledger.transaction("controller"):
        if has_aa(ledger):
            return False
        for comparison in comparisons:
            ledger.append_comparison(comparison)
    return True


def has_aa(ledger: Ledger) -> bool:
    """Whether the run has A/A comparisons."""
    return bool(ledger.query("SELECT 1 FROM comparisons WHERE kind = 'aa' LIMIT 1"))


def choose_calibration(ledger: Ledger, panelist: str) -> tuple[str, Letter] | None:
    """Choose a comparison for a waiting panelist, and the side of plus; None while there is none.

    The kind that the panelist has answered least often comes first. No comparison is shown to a
    panelist twice. Gold is stored when it is first shown, so call this inside a transaction.
    """
    mine = _read_seats(ledger, panelist)
    answered = [seat["kind"] for seat in mine if seat["choice"] is not None]
    for kind in sorted(KINDS, key=answered.count):
        find = _choose_gold if kind == "gold" else _choose_aa
        found = find(ledger, panelist, mine)
        if found is not None:
            return found
    return None


def gold_results(ledger: Ledger, step: int) -> dict[str, tuple[float, float]]:
    """For each panelist, right answers and all answers to gold, up to the close of a step.

    Only last answers count. A tie is half right, a skip is no answer. Empty while a step is open.
    """
    row = ledger.step(step)
    if row is None or row["last_vote"] is None:
        return {}
    gold = ledger.query("SELECT comparison, expected FROM comparisons WHERE kind = 'gold'")
    expected = {head["comparison"]: head["expected"] for head in gold}
    until = {"last_vote": row["last_vote"], "last_amendment": row["last_amendment"]}
    found: dict[str, tuple[float, float]] = {}
    for vote in counting.standing_votes(ledger, "gold", **until):
        if vote.verdict != "skip":
            right, count = found.get(vote.panelist, (0.0, 0.0))
            hit = (
                0.5 if vote.verdict == "tie" else float(vote.verdict == expected[vote.comparison])
            )
            found[vote.panelist] = right + hit, count + 1
    return found


def make_gold(root_seed: int, source: Comparison) -> Comparison | None:
    """Make a gold comparison from a stored one: a batch of answers against a spoiled copy of it.

    The seed draws whose answers are plus. In minus these answers are moved to other prompts, or
    their words are shuffled. None where the two sides would be equal.
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
            shuffle(text, seeds.derive(root_seed, "shuffle", k=i, name=source.id))
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


def shuffle(text: str, key: bytes) -> str:
    """Shuffle the words of a text, or its letters if it has few words, in the key's order.

    >>> shuffle("one two three four five", bytes(16))
    'one three two five four'
    """
    words = text.split()
    parts: Sequence[str] = words if len(words) >= FEW_WORDS else text
    order = seeds.permutation(key, len(parts))
    return (" " if parts is words else "").join(parts[int(i)] for i in order)


def _read_seats(ledger: Ledger, panelist: str) -> list[Record]:
    """Every seat of a panelist: answered ones in the order of first answers, then the others."""
    return ledger.query(
        "SELECT a.comparison, a.plus_side, c.kind, c.step, c.k, c.n, f.vote, f.late, l.choice "
        "FROM assignments a JOIN comparisons c USING (comparison) "
        "LEFT JOIN votes f ON f.assignment = a.assignment AND f.revision = 0 "
        "LEFT JOIN votes l ON l.assignment = a.assignment AND l.revision = "
        "(SELECT max(revision) FROM votes WHERE assignment = a.assignment) "
        "WHERE a.panelist = ? ORDER BY f.vote IS NULL, f.vote",
        (panelist,),
    )


def _choose_gold(ledger: Ledger, panelist: str, mine: list[Record]) -> tuple[str, Letter] | None:
    shown = {seat["comparison"] for seat in mine}
    root = ledger.root_seed
    sources = ledger.query(
        "SELECT c.comparison FROM steps s JOIN comparisons c USING (run, step) "
        "WHERE s.run = ? AND s.state IN ('closed', 'applied') AND c.kind = 'train' "
        "AND c.identical = 0 ORDER BY c.step DESC, c.k, c.n LIMIT ?",
        (ledger.run, SOURCES),
    )
    # All panelists get gold in the same drawn order, so that most answer the same comparisons.
    ids = [row["comparison"] for row in sources]
    keys = {each: seeds.derive(root, "gold", name=each).hex() for each in ids}
    for each in sorted(ids, key=lambda each: (each in shown, keys[each])):
        if keys[each] in shown:
            continue
        source = ledger.comparison(each)
        made = None if source is None else make_gold(root, source)
        if made is not None:
            _store(ledger, made)
            return made.id, _balance_side(ledger, panelist, mine, "gold", made.id)
    return None


def _choose_aa(ledger: Ledger, panelist: str, mine: list[Record]) -> tuple[str, Letter] | None:
    shown = {seat["comparison"] for seat in mine}
    for row in ledger.query(
        "SELECT comparison FROM comparisons WHERE run = ? AND kind = 'aa' AND identical = 0 "
        "ORDER BY rowid",
        (ledger.run,),
    ):
        if row["comparison"] not in shown:
            chosen = row["comparison"]
            return chosen, _balance_side(ledger, panelist, mine, "aa", chosen)
    return None


def _store(ledger: Ledger, comparison: Comparison) -> None:
    if not ledger.query("SELECT 1 FROM comparisons WHERE comparison = ?", (comparison.id,)):
        ledger.append_comparison(comparison)


def _balance_side(
    ledger: Ledger, panelist: str, mine: list[Record], kind: Kind, comparison: str
) -> Letter:
    """The side on which this panelist saw plus less often, in comparisons of this kind."""
    used = (seat["plus_side"] for seat in mine if seat["kind"] == kind)
    return less_used_side(used, ledger.root_seed, comparison, panelist)
