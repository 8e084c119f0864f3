"""Comparisons and votes of a run, indexed in temporary tables of a connection that only reads.

The run's file is not written, and no writer waits. `VoteIndex.advance` reads a small part of what
is new. What votes of an open round say is not in the tables until the round closes (or the
operator's switch shows open votes), so that no page, filter or search can give it away.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from szpo.analysis import evidence
from szpo.errors import StorageError
from szpo.ledger.canonical import canonical
from szpo.ledger.database import Clock, Ledger, Record, now_us
from szpo.voting import counting
from szpo_ui.operator import vote_tables, word_search
from szpo_ui.operator.word_search import with_spaces

PART: Final = 128
"""Comparisons that one call of `VoteIndex.advance` adds at most."""

State: TypeAlias = Literal[
    "counted", "open", "late", "second", "changed", "excluded", "void", "skipped", "spare", "apart"
]
"""Whether a vote counts in an update, or why it does not."""

_Group: TypeAlias = tuple[Literal["step", "one"], int]
"""What is read at once: the training comparisons of a step, or one other comparison by number."""

HOLDS: Final = ("counted", "spare", "apart", "second")
"""States of answers that say what their panelist holds."""
_NO_REMARK: Final = frozenset({"notes", "device", "view", "language"})
"""Details of a vote that are texts of the panel's page, no remark of its panelist."""


class VoteIndex:
    """The index of one run; one thread at a time.

    The first calls of `advance` read the whole run, later ones what is new. Words are read from
    the first search on, which takes longer than all the rest.
    """

    def __init__(self, path: str | Path, clock: Clock = now_us):
        """Open the run's file for reading.

        Raises:
            StorageError: no such file, or this SQLite has no full-text search.
        """
        self.ledger: Final = Ledger.open(path, readonly=True, clock=clock)
        self.read, self.read_words, self.of = 0, 0, 0
        """Comparisons in the index, those whose words are, and those in the file."""
        self._searches = False
        self._marks: tuple[int, bool] | None = None
        self._last = dict.fromkeys(vote_tables.NEW, -1)
        self.hidden: frozenset[str] = frozenset()
        """Comparisons whose votes, and whose plus, are not shown yet."""
        self._void: frozenset[int] = frozenset()
        self._todo: dict[_Group, int | None] = {}
        """Groups to be read: whole, or the votes after one."""
        try:
            have = "SELECT sqlite_compileoption_used('ENABLE_FTS5') AS fts5"
            if not self.ledger.query(have)[0]["fts5"]:
                raise StorageError(
                    "this Python's SQLite has no full-text search (FTS5); use another build of it"
                )
            self.ledger.db.register_function(with_spaces, deterministic=True)
            for sql in vote_tables.TABLES:
                self.ledger.execute(sql)
        except BaseException:
            self.ledger.close()
            raise

    def close(self) -> None:
        """Close the file; the tables are gone with it."""
        self.ledger.close()

    def advance(self, *, live: bool, words: bool = False) -> bool:
        """Read one part of what is new; True while there is more.

        Args:
            live: show what votes of open rounds and of open final comparisons say.
            words: from now on, read the words to be searched too.
        """
        self._searches |= words
        marks = self.ledger.changes()[0], live
        if marks != self._marks:
            self._look(live)
            self._marks = marks
        if self.read < self.of:
            self._add(min(self.of, self.read + PART))
        elif self._todo:
            group, last = next(iter(self._todo.items()))
            if last is None:
                self._write(group)
            else:
                self._append(group[1], last)
            del self._todo[group]
        elif self._searches and self.read_words < self.of:
            until = min(self.of, self.read_words + PART)
            self.ledger.execute(vote_tables.ADD_WORDS, (self.read_words, until))
            self.read_words = until
        return not self.is_whole(words=self._searches)

    def is_whole(self, *, words: bool) -> bool:
        """Everything that was seen at the last look is in the index, its words included."""
        return not (self._todo or self.read < self.of or (words and self.read_words < self.of))

    def search(self, query: str) -> None:
        """Fill the table ``matched`` with the comparisons in which the words of a query stand."""
        remark = (
            "SELECT number FROM temp.given WHERE remark IS NOT NULL AND instr(lower(remark), ?)"
        )
        for sql, parameters in (
            ("DELETE FROM temp.matched", ()),
            (vote_tables.MATCH, (word_search.expression(query),)),
            (f"INSERT OR IGNORE INTO temp.matched {remark}", (query.strip().strip('"').lower(),)),
        ):
            self.ledger.execute(sql, parameters)

    @property
    def groups_left(self) -> int:
        """Rounds, and comparisons outside of rounds, whose votes are still to be read."""
        return len(self._todo)

    # ---- what is new ----

    def _look(self, live: bool) -> None:
        """Note what changed since the last look: new rows, and rounds that opened or closed."""
        ledger = self.ledger
        with ledger.snapshot():
            self.of = _highest(ledger, "rowid", "comparisons")
            hidden = frozenset() if live else evidence.open_comparisons(ledger)
            for name, (table, touched) in vote_tables.NEW.items():
                last = self._last[name]
                if last >= 0:  # before the first look every comparison is new anyway
                    self._note(
                        row
                        for row in ledger.query(touched, (last,))
                        if not (name == "vote" and self._grows(row, hidden, last))
                    )
                self._last[name] = _highest(ledger, name, table)
            void = frozenset(row["step"] for row in ledger.steps() if row["state"] == "void")
            closed, again = self.hidden - hidden, hidden - self.hidden
            self._note(_places(ledger, closed))
            covered = self._note(_places(ledger, again))
        for step in void - self._void:
            self._todo["step", step] = None
        self.hidden, self._void = hidden, void
        for group in covered:  # at once: the switch was turned off
            self._write(group)

    def _grows(self, row: Record, hidden: frozenset[str], last: int) -> bool:
        """Whether only the new votes of a comparison's step need to be read: nothing else shows.

        Rounds of thousands of votes would otherwise be read whole at every look.
        """
        group = _group(row)
        if group[0] != "step" or row["number"] > self.read:
            return False
        if row["comparison"] not in hidden or row["comparison"] not in self.hidden:
            return False
        self._todo.setdefault(group, last)
        return True

    def _note(self, rows: Iterable[Record]) -> list[_Group]:
        """Note the groups of these comparisons, of those that are in the index, and list them."""
        found = dict.fromkeys(_group(row) for row in rows if row["number"] <= self.read)
        self._todo.update(found)
        return list(found)

    def _add(self, until: int) -> None:
        """Add the comparisons up to a number, without their votes."""
        for sql in vote_tables.ADD:
            self.ledger.execute(sql, (self.read, until))
        added = "SELECT number, kind, step FROM temp.shown WHERE number > ?"
        for row in self.ledger.query(added, (self.read,)):
            self._todo[_group(row)] = None
        self.read = until

    # ---- votes ----

    def _append(self, step: int, last: int) -> None:
        """Add the rows of a hidden step's votes after the last one that was read."""
        ledger = self.ledger
        found = ledger.query(vote_tables.GREW, (last, ledger.run, step))
        rows = [[row["vote"], row["number"], row["panelist"], *_HIDDEN.values()] for row in found]
        ledger.execute(vote_tables.INSERT, (canonical(rows),))
        at_us = {row["number"]: row["at_us"] for row in found}
        ledger.execute(vote_tables.COUNT, (canonical(list(map(list, at_us.items()))),))

    def _write(self, group: _Group) -> None:
        """Write the rows of a group's votes anew."""
        ledger, (kind, value) = self.ledger, group
        where, counted = vote_tables.GROUP[kind], set[int]()
        with ledger.snapshot():
            heads = ledger.query(
                f"SELECT c.rowid AS number, c.comparison FROM comparisons c WHERE {where}",
                (ledger.run, value),
            )
            votes = ledger.query(vote_tables.VOTES.format(where), (ledger.run, value))
            hidden = bool(heads) and heads[0]["comparison"] in self.hidden
            if kind == "step" and not hidden and value not in self._void:
                counted = counting.StepVotes(ledger, value).ids()[1]
            reasons = _read_reasons(ledger)
        rows = _states(votes, counted, reasons)
        if kind == "step" and value in self._void:
            rows = [{**row, "state": "void"} for row in rows]
        if hidden:
            rows = [{**row, **_HIDDEN} for row in rows]
        numbers = json.dumps([head["number"] for head in heads])
        these = "number IN (SELECT value FROM json_each(?))"
        ledger.execute(f"DELETE FROM temp.given WHERE {these}", (numbers,))
        ledger.execute(vote_tables.INSERT, (canonical([list(row.values())[:10] for row in rows]),))
        ledger.execute(
            f"UPDATE temp.shown SET votes = 0, split = -1, voted_us = 0 WHERE {these}", (numbers,)
        )
        ledger.execute(vote_tables.UPDATE, (canonical(_totals(rows)),))


def _highest(ledger: Ledger, column: str, table: str) -> int:
    return int(ledger.query(f"SELECT coalesce(max({column}), 0) AS n FROM {table}")[0]["n"])


def _group(row: Mapping[str, Any]) -> _Group:
    return ("step", row["step"]) if row["kind"] == "train" else ("one", row["number"])


def _places(ledger: Ledger, comparisons: Iterable[str]) -> list[Record]:
    return ledger.query(
        "SELECT rowid AS number, kind, step FROM comparisons WHERE comparison IN "
        "(SELECT value FROM json_each(?))",
        (canonical(sorted(comparisons)),),
    )


def _read_reasons(ledger: Ledger) -> dict[int, str]:
    """The votes that an amendment excludes now, with its reason."""
    rows = ledger.query(
        "SELECT vote, action, reason, max(amendment) FROM amendments GROUP BY vote"
    )
    return {row["vote"]: row["reason"] for row in rows if row["action"] == "exclude"}


_HIDDEN: Final = {
    "state": "open", "choice": None, "verdict": None, "note": None, "reported": None, "fast": None,
    "remark": None,
}  # fmt: skip
"""What stands in place of what a vote of an open round says."""


def _states(
    votes: Iterable[Record], counted: set[int], reasons: Mapping[int, str]
) -> list[dict[str, Any]]:
    """The votes of a group as rows of the table ``given``, in its order of columns.

    ``counted``: the votes that count in the step's update. ``reasons``: those that are excluded.
    """
    votes = list(votes)
    last = {v["assignment"]: v["vote"] for v in votes if v["second"] or not v["late"]}
    rows = []
    for vote in votes:
        number, skip = vote["vote"], vote["choice"] == "skip"
        state: State = "spare" if vote["kind"] == "train" else "apart"
        if number in counted:
            state = "counted"
        elif vote["late"] and not vote["second"]:
            state = "late"
        elif last[vote["assignment"]] != number:
            state = "changed"
        elif number in reasons:
            state = "excluded"
        elif skip:
            state = "skipped"
        elif vote["second"]:
            state = "second"
        details = json.loads(vote["details"] or "{}")
        texts = [text for key, text in details.items() if key not in _NO_REMARK]
        remarks = [vote["skip_reason"], reasons.get(number), *texts]
        rows.append(
            {
                "vote": number, "number": vote["number"], "panelist": vote["pseudonym"],
                "state": state, "choice": vote["choice"],
                "verdict": counting.verdict(vote["choice"], vote["plus_side"]),
                "note": bool(details.get("notes")), "reported": details.get("report") is True,
                "fast": details.get("fast") is True,
                "remark": "\n".join(text for text in remarks if isinstance(text, str)) or None,
                "seat": vote["assignment"], "at_us": vote["received_us"],
            }
        )  # fmt: skip
    return rows


def _totals(rows: Iterable[Mapping[str, Any]]) -> list[list[int]]:
    """(number, votes, split, voted_us) of each comparison that has votes.

    Votes are panelists who answered. Split is the share of answers that differ from the most
    frequent one, in ten thousandths; −1 below two answers.
    """
    found: dict[int, tuple[set[str], Counter[str], int]] = {}
    for row in rows:
        seats, answers, at_us = found.get(row["number"], (set(), Counter(), 0))
        seats.add(row["seat"])
        if row["state"] in HOLDS:
            answers[row["verdict"]] += 1
        found[row["number"]] = seats, answers, max(at_us, row["at_us"])
    return [
        [number, len(seats), _split(answers), at_us]
        for number, (seats, answers, at_us) in found.items()
    ]


def _split(answers: Counter[str]) -> int:
    """How divided answers are, in ten thousandths.

    >>> _split(Counter(plus=3, minus=1)), _split(Counter(plus=1))
    (2500, -1)
    """
    of = answers.total()
    return round(10_000 * (1 - max(answers.values()) / of)) if of > 1 else -1
