"""A page of the browser of comparisons: texts, sides and votes of what is found."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from szpo.ledger.canonical import sha256
from szpo.ledger.database import Record
from szpo_ui.operator import vote_filter, word_search
from szpo_ui.operator.vote_filter import Filter
from szpo_ui.operator.vote_index import HOLDS, VoteIndex
from szpo_ui.web.diff import Piece

SIZE: Final = 20
"""Comparisons on a page."""
FEW_ROWS, FEW_VOTES, FEW_LETTERS = 4, 12, 1200
"""Prompts and votes of each comparison on a page of several, and characters of each text."""
MOST_ROWS, MOST_VOTES, MOST_LETTERS = 400, 1000, 100_000
"""The same where one comparison is looked at alone."""
POLICIES: Final = ("plus", "minus")
_NAMES: Final = {
    "gold": ("true answers", "spoiled answers"),
    "aa": ("first draw", "second draw of the same policy"),
    "final": ("tuned", "base"),
    "practice": ("better", "worse"),
}
"""What plus and minus are, of the kinds where people know them by a name."""
UNNAMED: Final = ("first text", "second text")


@dataclass(frozen=True, slots=True)
class Given:
    """One answer of a panelist; what it says is None while its round is open."""

    vote: int
    panelist: str
    state: str
    plus_side: str | None
    choice: str | None
    verdict: str | None
    notes: Mapping[int, str]
    """Row → plus, minus or tie: the panelist's notes on single prompts."""
    remark: str | None
    reported: bool
    fast: bool
    revision: int
    dwell_ms: int | None
    served_us: int
    received_us: int
    chosen: bool
    """It meets the filter of votes; true where there is none."""

    @property
    def seconds(self) -> float:
        """Time on the page; from showing to answer where the page did not measure it."""
        if self.dwell_ms is not None:
            return self.dwell_ms / 1e3
        return max(0, self.received_us - self.served_us) / 1e6


@dataclass(frozen=True, slots=True)
class Text:
    """A text in pieces, words searched for apart; ``cut`` is its end at the limit of tokens."""

    pieces: tuple[Piece, ...]
    cut: bool
    longer: int
    """Characters left out."""
    formatted: Markup | None = None
    """The same as HTML where there is Markdown in it; None where it is shown as written."""

    @property
    def written(self) -> str:
        """The text as the model wrote it, as far as it is shown."""
        return "".join(piece.text for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class TextRow:
    """A prompt with the two answers to it, in the order of `Item.sides`."""

    i: int
    prompt: int
    """Number of the prompt in the run, by which a filter names it."""
    times: int
    """Comparisons that ask it."""
    text: Text
    earlier: tuple[tuple[str, Text], ...]
    """(role, text) of the turns before."""
    answers: tuple[Text, Text]
    same: bool
    notes: tuple[tuple[str, str], ...]
    """(panelist, plus, minus or tie), of answers that were not changed later"""


@dataclass(frozen=True, slots=True)
class Item:
    """One comparison."""

    number: int
    comparison: str
    kind: str
    step: int | None
    k: int | None
    n: int | None
    expected: str | None
    repeats: str | None
    open: bool
    """Its round, or its final comparison, takes votes: sides and votes are not shown."""
    sides: tuple[str, str]
    """What the two answers of each row are of."""
    rows: tuple[TextRow, ...]
    more_rows: int
    votes: tuple[Given, ...]
    more_votes: int
    tally: tuple[int, int]
    """Votes that hold for each of the two sides."""
    voters: int
    split: float | None
    """Share of the answers that differ from the most frequent one."""

    @property
    def preferred(self) -> int | None:
        """Which of the sides more votes are for; None where as many are for either."""
        first, second = self.tally
        return None if first == second else int(second > first)


@dataclass(frozen=True, slots=True)
class Page:
    """What a filter finds."""

    items: tuple[Item, ...]
    total: int
    """Comparisons in all."""
    votes: int
    """Votes on them; those that meet the filter of votes, where there is one."""
    newer: str | None
    """The address's query of the page before; None on the first."""
    older: str | None
    read: int
    of: int
    """Comparisons in the index, and in the run's file."""
    read_words: int
    """Comparisons whose words are in the index."""
    groups_left: int
    """Rounds and other comparisons whose votes are still to be read."""
    is_whole: bool
    """The index has everything that the filter is about."""

    @property
    def is_formatted(self) -> bool:
        """Some text has a formatted view."""
        rows = [row for item in self.items for row in item.rows]
        texts = (text for row in rows for text in (*row.answers, *(t for _, t in row.earlier)))
        return any(text.formatted is not None for text in texts)


@dataclass(frozen=True, slots=True)
class _Most:
    rows: int
    votes: int
    letters: int


def read(index: VoteIndex, chosen: Filter) -> Page:
    """The page that a filter asks for, from what the index holds."""
    if chosen.q is not None:
        index.search(chosen.q)
    where, values = vote_filter.of_comparisons(chosen)
    end, cursor, backward = vote_filter.page_end(chosen, limit=SIZE + 1)
    found = index.ledger.query(
        f"SELECT number, {chosen.key} AS key FROM temp.shown WHERE {where}{end}",
        (*values, *cursor),
    )
    more, found = len(found) > SIZE, found[:SIZE]
    if backward:
        found.reverse()
    before, after = (more, True) if backward else (chosen.after is not None, more)
    alone = chosen.comparison is not None
    most = (
        _Most(MOST_ROWS, MOST_VOTES, MOST_LETTERS)
        if alone
        else _Most(FEW_ROWS, FEW_VOTES, FEW_LETTERS)
    )
    (total,) = index.ledger.query(
        f"SELECT count(*) AS n, coalesce(sum(votes), 0) AS votes FROM temp.shown WHERE {where}",
        values,
    )
    ends = [f"{row['key']}.{row['number']}" for row in (found[0], found[-1])] if found else []
    return Page(
        items=tuple(_items(index, [row["number"] for row in found], chosen, most)),
        total=total["n"],
        votes=_count_votes(index, chosen) or total["votes"],
        newer=chosen.query(before=ends[0]) if ends and before else None,
        older=chosen.query(after=ends[1]) if ends and after else None,
        read=index.read,
        of=index.of,
        read_words=index.read_words,
        groups_left=index.groups_left,
        is_whole=index.is_whole(words=chosen.q is not None),
    )


def numbers(index: VoteIndex, chosen: Filter) -> list[int]:
    """The numbers of all comparisons that a filter finds, oldest first."""
    if chosen.q is not None:
        index.search(chosen.q)
    where, values = vote_filter.of_comparisons(chosen)
    rows = index.ledger.query(
        f"SELECT number FROM temp.shown WHERE {where} ORDER BY number", values
    )
    return [row["number"] for row in rows]


def whole(index: VoteIndex, some: Sequence[int], chosen: Filter) -> list[Item]:
    """These comparisons with all of their texts and votes, for an export."""
    return list(_items(index, some, chosen, _Most(2**31, 2**31, 2**31)))


def _count_votes(index: VoteIndex, chosen: Filter) -> int:
    """Votes that meet the filter of votes, on the comparisons found; 0 where there is none."""
    votes, parameters = vote_filter.of_votes(chosen)
    if not votes:
        return 0
    sql = f"SELECT count(*) AS n FROM temp.given WHERE {votes}"
    # A comparison with such a vote meets the filter of votes, so the rest of the filter is asked.
    where, values = vote_filter.of_comparisons(vote_filter.without_votes(chosen))
    if values or where != vote_filter.EVERY:
        sql += f" AND number IN (SELECT number FROM temp.shown WHERE {where})"
    return int(index.ledger.query(sql, (*parameters, *values))[0]["n"])


# ---- single comparisons ----


def _items(index: VoteIndex, some: Sequence[int], chosen: Filter, most: _Most) -> Iterator[Item]:
    for number in some:
        found = index.ledger.query(
            "SELECT c.comparison, c.step, c.k, c.n, c.expected, c.repeats, s.kind, s.votes, "
            "s.split FROM comparisons c CROSS JOIN temp.shown s ON s.number = c.rowid "
            "WHERE c.rowid = ?",
            (number,),
        )
        for head in found:
            yield _item(index, number, head, chosen, most)


def _item(index: VoteIndex, number: int, head: Record, chosen: Filter, most: _Most) -> Item:
    is_open = head["comparison"] in index.hidden
    votes = list(_votes(index, number, chosen, most.votes))
    answers = index.ledger.query(
        "SELECT a.*, p.prompt AS place, (SELECT count(*) FROM temp.asked o "
        "WHERE o.prompt = p.prompt) AS times FROM answers a CROSS JOIN temp.prompts p "
        "ON p.turns = a.prompt WHERE a.comparison = ? ORDER BY a.i",
        (head["comparison"],),
    )
    shown = _first(answers, chosen, most.rows)
    first, second = _order(head["comparison"]) if is_open else POLICIES
    (of,) = index.ledger.query(
        f"SELECT count(*) AS n, coalesce(sum(verdict = ? AND state IN {HOLDS}), 0) AS first, "
        f"coalesce(sum(verdict = ? AND state IN {HOLDS}), 0) AS second "
        "FROM temp.given WHERE number = ?",
        (first, second, number),
    )
    return Item(
        number=number,
        comparison=head["comparison"],
        kind=head["kind"],
        step=head["step"],
        k=head["k"],
        n=head["n"],
        expected=None if is_open else head["expected"],
        repeats=head["repeats"],
        open=is_open,
        sides=UNNAMED if is_open else _NAMES.get(head["kind"], UNNAMED),
        rows=tuple(_row(row, (first, second), votes, chosen, most) for row in shown),
        more_rows=len(answers) - len(shown),
        votes=tuple(votes),
        more_votes=of["n"] - len(votes),
        tally=(of["first"], of["second"]),
        voters=head["votes"],
        split=None if head["split"] < 0 else head["split"] / 10_000,
    )


def _order(comparison: str) -> tuple[str, str]:
    """The order of the two policies while it is not shown which is which; fixed by the id."""
    return POLICIES if int(sha256(comparison.encode())[0], 16) % 2 else (POLICIES[1], POLICIES[0])


def _first(rows: list[Record], chosen: Filter, most: int) -> list[Record]:
    """As many rows as there is room for, in order: those that the filter is about come first."""
    if len(rows) <= most:
        return rows

    def is_meant(row: Record) -> bool:
        if chosen.prompt is not None:
            return bool(row["place"] == chosen.prompt)
        if chosen.q is not None:
            texts = (row["prompt"], row["plus"], row["minus"])
            return any(p.differs for text in texts for p in word_search.mark(text, chosen.q))
        return False

    meant = sorted(rows, key=lambda row: (not is_meant(row), row["i"]))[:most]
    return sorted(meant, key=lambda row: row["i"])


def _votes(index: VoteIndex, number: int, chosen: Filter, most: int) -> Iterator[Given]:
    meets, parameters = vote_filter.of_votes(chosen)
    for row in index.ledger.query(
        "SELECT g.*, v.revision, v.dwell_ms, v.received_us, v.details, a.plus_side, a.served_us "
        f"FROM (SELECT *, {meets or '1'} AS chosen FROM temp.given WHERE number = ? "
        "ORDER BY chosen DESC, vote LIMIT ?) g CROSS JOIN votes v USING (vote) "
        "CROSS JOIN assignments a USING (assignment) ORDER BY g.vote",
        (*parameters, number, most),
    ):
        says = row["choice"] is not None
        yield Given(
            vote=row["vote"], panelist=row["panelist"], state=row["state"],
            plus_side=row["plus_side"] if says else None, choice=row["choice"],
            verdict=row["verdict"], remark=row["remark"],
            notes=_notes(row["details"], row["plus_side"]) if says else {},
            reported=bool(row["reported"]), fast=bool(row["fast"]), revision=row["revision"],
            dwell_ms=row["dwell_ms"], served_us=row["served_us"],
            received_us=row["received_us"], chosen=bool(row["chosen"]),
        )  # fmt: skip


def _notes(details: str | None, plus_side: str) -> dict[int, str]:
    notes = json.loads(details or "{}").get("notes")
    if not isinstance(notes, Mapping):
        return {}
    sides = {"tie": "tie", plus_side: "plus", {"A": "B", "B": "A"}[plus_side]: "minus"}
    return {int(i): sides[side] for i, side in notes.items() if i.isdigit() and side in sides}


def _row(
    row: Record, order: tuple[str, str], votes: Iterable[Given], chosen: Filter, most: _Most
) -> TextRow:
    turns = json.loads(row["prompt"])

    def text(content: str, *, cut: bool = False) -> Text:
        short = content[: most.letters]
        pieces = (Piece(short),) if chosen.q is None else word_search.mark(short, chosen.q)
        return Text(pieces, cut, len(content) - len(short))

    first, second = (text(row[side], cut=row[f"{side}_end"] == "length") for side in order)
    return TextRow(
        i=row["i"],
        prompt=row["place"],
        times=row["times"],
        text=text(turns[-1][1]),
        earlier=tuple((role, text(content)) for role, content in turns[:-1]),
        answers=(first, second),
        same=row["plus"] == row["minus"],
        notes=tuple(
            (vote.panelist, vote.notes[row["i"]])
            for vote in votes
            if row["i"] in vote.notes and vote.state != "changed"
        ),
    )
