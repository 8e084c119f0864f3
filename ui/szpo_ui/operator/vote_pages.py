"""A page of the vote browser: the texts, sides and votes of the comparisons that a filter finds.

A comparison is a record: its head, its ``rows`` (a prompt with its two ``answers``, in the order
of ``sides``) and its ``votes``. Choices in an open round are None. Texts are formatted as
panelists see them. Marks show the words searched for, else the differences of the two answers.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from markupsafe import Markup

from szpo.analysis.vote_rows import seconds_on_page
from szpo.features.reading import words
from szpo.ledger.canonical import sha256
from szpo.ledger.database import Record
from szpo_ui.operator import vote_filter, word_search
from szpo_ui.operator.vote_filter import Filter
from szpo_ui.operator.vote_index import HOLDS, VoteIndex
from szpo_ui.panel import markdown
from szpo_ui.panel.comparison_view import Text, compare_texts
from szpo_ui.web.diff import Piece

SIZE: Final = 20
"""Comparisons on a page."""
SEVERAL: Final = (4, 12, 1200)
"""Most prompts and votes of a comparison, and characters of a text, on a page of several."""
ALONE: Final = (400, 1000, 100_000)
"""The same limits on a page of one comparison."""
MOST_LETTERS: Final = 60_000
"""Most characters to format on a page of several comparisons; the rest is shown as written.
Without this limit, long answers would delay a page by half a second."""
POLICIES: Final = ("plus", "minus")
_NAMES: Final = {
    "gold": ("true answers", "spoiled answers"),
    "aa": ("first draw", "second draw of the same policy"),
    "final": ("tuned", "base"),
}
"""The names of plus and minus in kinds of comparisons that have names for them."""
UNNAMED: Final = ("first text", "second text")


def read(index: VoteIndex, chosen: Filter) -> dict[str, Any]:
    """The page that a filter asks for, from the rows that are in the index."""
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
    (total,) = index.ledger.query(
        f"SELECT count(*) AS n, coalesce(sum(votes), 0) AS votes FROM temp.shown WHERE {where}",
        values,
    )
    votes, parameters = vote_filter.of_votes(chosen)
    if votes:  # count only these; each one's comparison meets the filter's part on votes
        where, values = vote_filter.of_comparisons(chosen, votes=False)
        (some,) = index.ledger.query(
            f"SELECT count(*) AS votes FROM temp.given WHERE {votes} "
            f"AND number IN (SELECT number FROM temp.shown WHERE {where})",
            (*parameters, *values),
        )
        total |= some
    ends = [f"{row['key']}.{row['number']}" for row in (found[0], found[-1])] if found else []
    # A single comparison is shown and formatted in full.
    most, room = (SEVERAL, MOST_LETTERS) if chosen.comparison is None else (ALONE, ALONE[-1])
    comparisons = list(_comparisons(index, [row["number"] for row in found], chosen, most, room))
    return {
        "comparisons": comparisons,
        "total": total["n"],
        "votes": total["votes"],
        "newer": chosen.query(before=ends[0]) if ends and before else None,
        "older": chosen.query(after=ends[1]) if ends and after else None,
        "is_whole": index.is_whole(words=chosen.q is not None),
        "is_formatted": any(
            text.formatted is not None
            for each in comparisons
            for row in each["rows"]
            for text in (*row["answers"], *(text for _, text in row["earlier"]))
        ),
        "read": index.read,
        "read_words": index.read_words,
        "of": index.of,
        "groups_left": index.groups_left,
    }


def numbers(index: VoteIndex, chosen: Filter) -> list[int] | None:
    """The numbers of all comparisons found, oldest first; None while the index is incomplete."""
    if not index.is_whole(words=chosen.q is not None):
        return None
    if chosen.q is not None:
        index.search(chosen.q)
    where, values = vote_filter.of_comparisons(chosen)
    sql = f"SELECT number FROM temp.shown WHERE {where} ORDER BY number"
    return [row["number"] for row in index.ledger.query(sql, values)]


def whole(index: VoteIndex, some: Sequence[int], chosen: Filter) -> list[dict[str, Any]]:
    """These comparisons for an export, with all their votes and unformatted texts."""
    return list(_comparisons(index, some, chosen, (2**31, 2**31, 2**31), -1))


# ---- single comparisons ----


def _comparisons(
    index: VoteIndex, some: Sequence[int], chosen: Filter, most: tuple[int, int, int], room: int
) -> Iterator[dict[str, Any]]:
    """``most`` limits (rows, votes, characters of a text), ``room`` the characters to format."""
    most_rows, most_votes, most_letters = most
    for number in some:
        (head,) = index.ledger.query(
            "SELECT c.comparison, c.step, c.k, c.n, c.expected, c.repeats, s.number, s.kind, "
            "s.votes AS voters, s.split, t.state IN ('planned', 'generating') AS waits "
            "FROM comparisons c CROSS JOIN temp.shown s ON s.number = c.rowid "
            "LEFT JOIN steps t ON t.run = c.run AND t.step = c.step WHERE c.rowid = ?",
            (number,),
        )
        is_open = head["comparison"] in index.hidden
        votes = list(_votes(index, number, chosen, most_votes))
        answers = index.ledger.query(
            "SELECT a.*, p.prompt AS place, (SELECT count(*) FROM temp.asked o "
            "WHERE o.prompt = p.prompt) AS times FROM answers a CROSS JOIN temp.prompts p "
            "ON p.turns = a.prompt WHERE a.comparison = ? ORDER BY a.i",
            (head["comparison"],),
        )
        order = _order(head["comparison"]) if is_open else POLICIES
        rows = []
        for answer in _first(answers, chosen, most_rows):
            row = _row(answer, order, votes, chosen, most_letters)
            own = (text for role, text in row["earlier"] if role == "assistant")
            room -= sum(len(str(text)) for text in (*row["answers"], *own))
            rows.append(_format_row(row, chosen.q) if room >= 0 else row)
        (of,) = index.ledger.query(
            "SELECT count(*) AS n, "
            + ", ".join(
                f"coalesce(sum(verdict = '{side}' AND state IN {HOLDS}), 0) AS {side}"
                for side in POLICIES
            )
            + " FROM temp.given WHERE number = ?",
            (number,),
        )
        first, second = (of[side] for side in order)
        yield {
            **head,
            "open": is_open,
            "expected": None if is_open else head["expected"],
            "sides": UNNAMED if is_open else _NAMES.get(head["kind"], UNNAMED),
            "rows": rows,
            "more_rows": len(answers) - len(rows),
            "votes": votes,
            "more_votes": of["n"] - len(votes),
            "tally": (first, second),
            "preferred": None if first == second else int(second > first),
            "split": None if head["split"] < 0 else head["split"] / 10_000,
        }


def _order(comparison: str) -> tuple[str, str]:
    """The order of the two policies while their names are hidden; the id decides it."""
    return POLICIES if int(sha256(comparison.encode())[0], 16) % 2 else (POLICIES[1], POLICIES[0])


def _first(rows: list[Record], chosen: Filter, most: int) -> list[Record]:
    """At most ``most`` rows, in order; rows that the filter is about are kept first."""
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


def _votes(index: VoteIndex, number: int, chosen: Filter, most: int) -> Iterator[Record]:
    """Panelists' answers; ``chosen`` says that one meets the filter's conditions on votes."""
    meets, parameters = vote_filter.of_votes(chosen)
    for row in index.ledger.query(
        "SELECT g.*, v.revision, v.dwell_ms, v.received_us, v.details, a.plus_side, a.served_us "
        f"FROM (SELECT *, {meets or '1'} AS chosen FROM temp.given WHERE number = ? "
        "ORDER BY chosen DESC, vote LIMIT ?) g CROSS JOIN votes v USING (vote) "
        "CROSS JOIN assignments a USING (assignment) ORDER BY g.vote",
        (*parameters, number, most),
    ):
        says = row["choice"] is not None
        yield {
            **row,
            "plus_side": row["plus_side"] if says else None,
            "notes": _notes(row["details"], row["plus_side"]) if says else {},
            "seconds": seconds_on_page(row["dwell_ms"], row["served_us"], row["received_us"]),
        }


def _notes(details: str | None, plus_side: str) -> dict[int, str]:
    """A panelist's notes on single prompts: plus, minus or tie by row."""
    notes = json.loads(details or "{}").get("notes")
    if not isinstance(notes, Mapping):
        return {}
    sides = {"tie": "tie", plus_side: "plus", {"A": "B", "B": "A"}[plus_side]: "minus"}
    return {int(i): sides[side] for i, side in notes.items() if i.isdigit() and side in sides}


def _row(
    row: Record, order: tuple[str, str], votes: Sequence[Record], chosen: Filter, most: int
) -> dict[str, Any]:
    """A prompt with its answers, its number, and how many comparisons ask it."""
    turns = json.loads(row["prompt"])

    def text(content: str, *, cut: bool = False) -> Text:
        short = content[:most]
        pieces = (Piece(short),) if chosen.q is None else word_search.mark(short, chosen.q)
        return Text(pieces, cut, len(content) - len(short))

    return {
        "i": row["i"],
        "prompt": row["place"],
        "times": row["times"],
        "text": text(turns[-1][1]),
        "earlier": [(role, text(content)) for role, content in turns[:-1]],
        "answers": [text(row[side], cut=row[f"{side}_end"] == "length") for side in order],
        "same": row["plus"] == row["minus"],
        "notes": [
            (vote["panelist"], vote["notes"][row["i"]])
            for vote in votes
            if row["i"] in vote["notes"] and vote["state"] != "changed"
        ],
    }


# ---- marks and Markdown ----


def _format_row(row: dict[str, Any], query: str | None) -> dict[str, Any]:
    """Format both answers of a row, or neither, and its earlier turns."""
    a, b = row["answers"]
    if query:
        answers = _format([a, b], query)
    else:
        compared = zip((a, b), compare_texts(str(a), str(b)), strict=True)
        answers = [replace(text, pieces=some, formatted=html) for text, (some, html) in compared]
    earlier = [
        (role, _format([text], query)[0] if role == "assistant" else text)
        for role, text in row["earlier"]
    ]
    return {**row, "answers": answers, "earlier": earlier}


def _format(texts: Sequence[Text], query: str | None) -> list[Text]:
    found = _html(tuple(map(str, texts)), query) or [None] * len(texts)
    return [replace(text, formatted=html) for text, html in zip(texts, found, strict=True)]


@lru_cache(maxsize=markdown.CACHED)
def _html(written: tuple[str, ...], query: str | None) -> tuple[Markup, ...] | None:
    """Texts as formatted HTML; cached, since an open page is often drawn again."""

    def mark(visible: str) -> Sequence[Piece]:
        return [Piece(visible)] if query is None else word_search.mark(visible, query)

    found = markdown.with_marks(written, mark)
    return None if found is None else tuple(found)


# ---- words of preferred texts ----

MOST_READ: Final = 400, 300_000
"""Most comparisons to read, newest first, and most characters of their answers, so that a page
does not wait for all of a long run."""
MIN_DEVIATIONS: Final = 2.0
"""A listed word's wins and losses differ by at least this many deviations of a fair coin."""
LISTED: Final = 8


def winning_words(index: VoteIndex, chosen: Filter) -> dict[str, Any]:
    """Words in only the preferred or only the other texts of the comparisons that a filter finds.

    Panelists judge a side as a whole, so a comparison's votes apply to each of its prompts. A word
    counts once per prompt, if only one of its two texts has it. ``won`` and ``lost`` are (word,
    times only in the preferred text, times only in the other), the most one-sided first.
    ``comparisons`` is how many with a preferred side were read.
    """
    where, values = vote_filter.of_comparisons(chosen)
    votes, parameters = vote_filter.of_votes(chosen)
    rows = index.ledger.query(
        "SELECT number, sum((verdict = 'plus') - (verdict = 'minus')) AS ahead "
        f"FROM temp.given WHERE state IN {HOLDS} AND {votes or vote_filter.EVERY} "
        f"AND number IN (SELECT number FROM temp.shown WHERE kind = 'train' AND {where}) "
        "GROUP BY number HAVING ahead <> 0 ORDER BY number DESC LIMIT ?",
        (*parameters, *values, MOST_READ[0]),
    )
    won, lost = Counter[str](), Counter[str]()
    letters = comparisons = 0
    for row in rows:
        if letters > MOST_READ[1]:
            break
        comparisons += 1
        for texts in index.ledger.query(
            "SELECT plus, minus FROM answers JOIN comparisons c USING (comparison) "
            "WHERE c.rowid = ?",
            (row["number"],),
        ):
            better, worse = ("plus", "minus") if row["ahead"] > 0 else ("minus", "plus")
            letters += len(texts["plus"]) + len(texts["minus"])
            have, lack = set(words(texts[better])), set(words(texts[worse]))
            won.update(have - lack)
            lost.update(lack - have)
    clear = sorted(
        (-abs(won[word] - lost[word]) / (won[word] + lost[word]) ** 0.5, word)
        for word in won | lost
    )
    told = [(word, won[word], lost[word]) for far, word in clear if -far >= MIN_DEVIATIONS]
    return {
        "won": [each for each in told if each[1] > each[2]][:LISTED],
        "lost": [each for each in told if each[1] < each[2]][:LISTED],
        "comparisons": comparisons,
    }
