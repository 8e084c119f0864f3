"""A run's comparisons and votes, indexed in temporary tables of a read-only connection.

Nothing is written to the run's file, and no writer waits. `VoteIndex.advance` reads a small part
of the new rows. Choices in an open round enter the tables only when the round closes (or an
operator switches open votes on), so no page, filter or search can reveal them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from szpo.analysis import evidence
from szpo.errors import StorageError
from szpo.ledger.canonical import canonical
from szpo.ledger.database import Clock, Ledger, Record, now_us
from szpo.voting import counting, second_seats
from szpo_ui.operator import word_search
from szpo_ui.operator.word_search import TOKENIZER, with_spaces

PART: Final = 128
"""Most comparisons that one call of `VoteIndex.advance` adds."""
HOLDS: Final = ("counted", "spare", "apart", "second")
"""States of answers that express their panelist's current opinion."""
_NO_REMARK: Final = frozenset({"notes", "device", "view", "language"})
"""Details of a vote that the page sets; all others are the panelist's remarks."""
_Group = tuple[str, int]
"""Votes read together: ("step", step) for its training comparisons, ("one", number) for others."""

_TABLES: Final = (
    "PRAGMA temp.cache_size = -16000",
    # number: the comparison's rowid; kind: the ledger's kinds.
    "CREATE TEMP TABLE shown (number INTEGER PRIMARY KEY, kind TEXT, step INTEGER, "
    "votes INTEGER DEFAULT 0, split INTEGER DEFAULT -1, voted_us INTEGER DEFAULT 0)",
    *(f"CREATE INDEX temp.shown_{name} ON shown ({name}, number)"
      for name in ("kind", "step", "votes", "split", "voted_us")),
    # state: whether a vote counts in an update, or why not.
    "CREATE TEMP TABLE given (vote INTEGER PRIMARY KEY, number INTEGER, panelist TEXT, "
    "state TEXT, choice TEXT, verdict TEXT, note INTEGER, reported INTEGER, fast INTEGER, "
    "remark TEXT, seat TEXT, at_us INTEGER)",
    "CREATE INDEX temp.given_number ON given (number)",
    *(f"CREATE INDEX temp.given_{name} ON given ({name}, number)"
      for name in ("panelist", "state", "choice", "verdict")),
    *(f"CREATE INDEX temp.given_{name} ON given (number) WHERE {name} = 1"
      for name in ("note", "reported", "fast")),
    "CREATE INDEX temp.given_remark ON given (number, remark) WHERE remark IS NOT NULL",
    # prompt: numbered by first appearance, so a link to a prompt stays valid.
    "CREATE TEMP TABLE prompts (prompt INTEGER PRIMARY KEY, turns TEXT UNIQUE)",
    "CREATE TEMP TABLE asked (prompt INTEGER, number INTEGER, PRIMARY KEY (prompt, number)) "
    "WITHOUT ROWID",
    # Prefixes of three and four letters have their own index: a hundred words may share one.
    "CREATE VIRTUAL TABLE temp.words USING fts5(text, content='', prefix='3 4', "
    f"tokenize='{TOKENIZER}')",
    "CREATE TEMP TABLE matched (number INTEGER PRIMARY KEY)",
    # Segments are not merged: merging takes half as long as making them and blocks meanwhile,
    # and searching hundreds of segments takes only a millisecond more.
    "INSERT INTO temp.words (words, rank) VALUES ('automerge', 0)",
    "INSERT INTO temp.words (words, rank) VALUES ('crisismerge', 1000)",
)  # fmt: skip
_PART: Final = (
    "WITH part AS (SELECT rowid AS number, * FROM comparisons WHERE rowid > ? AND rowid <= ?) "
)
_ADD: Final = (
    f"{_PART}INSERT INTO temp.shown (number, kind, step) SELECT number, kind, step FROM part",
    f"{_PART}INSERT OR IGNORE INTO temp.prompts (turns) SELECT a.prompt FROM part "
    "CROSS JOIN answers a USING (comparison) ORDER BY number, a.i",
    f"{_PART}INSERT OR IGNORE INTO temp.asked SELECT p.prompt, number FROM part "
    "CROSS JOIN answers a USING (comparison) CROSS JOIN temp.prompts p ON p.turns = a.prompt",
)
"""Add a part's comparisons, their prompts, and which of them asks which prompt; (after, until)."""
_ADD_WORDS: Final = (
    f"{_PART}INSERT INTO temp.words (rowid, text) SELECT number, (SELECT group_concat(with_spaces("
    "(SELECT group_concat(json_extract(value, '$[1]'), ' ') FROM json_each(a.prompt)) || ' ' || "
    "a.plus || ' ' || a.minus), ' ') FROM answers a WHERE a.comparison = part.comparison) "
    "FROM part"
)
_WHERE: Final = {
    "step": "c.run = ? AND c.step = ? AND c.kind = 'train'", "one": "c.run = ? AND c.rowid = ?",
}  # fmt: skip
"""The condition that finds a group's comparisons; (run, step or number)."""
_VOTES: Final = (
    "SELECT c.rowid AS number, c.kind, v.vote, v.assignment, v.choice, v.late, v.skip_reason, "
    "v.details, v.received_us, a.plus_side, p.pseudonym, "
    f"v.late AND v.assignment IN {second_seats.SEATS} AS second FROM comparisons c "
    "CROSS JOIN assignments a USING (comparison) CROSS JOIN votes v USING (assignment) "
    "CROSS JOIN panelists p USING (panelist) WHERE {} ORDER BY v.vote"
)
"""All votes of a group's comparisons."""
_TOUCHED: Final = (
    "SELECT DISTINCT c.rowid AS number, c.kind, c.step FROM {} CROSS JOIN assignments a "
    "USING (assignment) CROSS JOIN comparisons c USING (comparison) WHERE {} > ?"
)
_NEWS: Final = {
    "vote": ("votes", _TOUCHED.format("votes v", "v.vote")),
    "amendment": (
        "amendments",
        _TOUCHED.format("amendments m CROSS JOIN votes v USING (vote)", "m.amendment"),
    ),
}  # fmt: skip
"""By kind of new row: its table, and the query for comparisons it touches; (the last id read)."""
_INSERT: Final = (
    "INSERT INTO temp.given SELECT "
    + ", ".join(f"json_extract(value, '$[{i}]')" for i in range(12))
    + " FROM json_each(?)"
)
_THESE: Final = "number IN (SELECT value FROM json_each(?))"
_COUNT: Final = (
    "UPDATE temp.shown SET (votes, voted_us) = (SELECT count(DISTINCT seat), "
    "coalesce(max(at_us), 0) FROM temp.given g WHERE g.number = shown.number), "
    "split = coalesce((SELECT iif(sum(n) > 1, round(1e4 * (1 - 1.0 * max(n) / sum(n))), -1) FROM "
    f"(SELECT count(*) AS n FROM temp.given g WHERE g.number = shown.number AND state IN {HOLDS} "
    f"GROUP BY verdict)), -1) WHERE {_THESE}"
)
"""votes: panelists who answered. split: the share of answers that differ from the most frequent
answer, in ten thousandths; −1 with fewer than two answers."""


class VoteIndex:
    """The index of one run; use it from one thread at a time.

    The first calls of `advance` read the whole run, later calls only new rows. Words are read only
    once somebody searches, since that takes longer than everything else.
    """

    def __init__(self, path: str | Path, clock: Clock = now_us):
        """Open the run's file for reading.

        Raises:
            StorageError: no such file, or this SQLite has no full-text search.
        """
        self.ledger: Final = Ledger.open(path, readonly=True, clock=clock)
        self.read, self.read_words, self.of = 0, 0, 0
        """Numbers of comparisons: in the index, with indexed words, and in the file."""
        self._searches = False
        self._marks: tuple[int, bool] | None = None
        self._last = dict.fromkeys(_NEWS, -1)
        self.hidden: frozenset[str] = frozenset()
        """Comparisons whose choices and sides are not shown yet."""
        self._void: frozenset[int] = frozenset()
        self._todo: dict[_Group, None] = {}
        try:
            have = "SELECT sqlite_compileoption_used('ENABLE_FTS5') AS fts5"
            if not self.ledger.query(have)[0]["fts5"]:
                raise StorageError(
                    "this Python's SQLite has no full-text search (FTS5); use another build of it"
                )
            self.ledger.db.register_function(with_spaces, deterministic=True)
            for sql in _TABLES:
                self.ledger.execute(sql)
        except BaseException:
            self.ledger.close()
            raise

    def close(self) -> None:
        """Close the file, which drops the temporary tables."""
        self.ledger.close()

    def advance(self, *, live: bool, words: bool = False) -> bool:
        """Read one part of the new rows; True while there are more.

        Args:
            live: include the choices in open rounds and open final comparisons.
            words: from now on, also index words for searching.
        """
        self._searches |= words
        marks = self.ledger.changes()[0], live
        if marks != self._marks:
            self._look(live)
            self._marks = marks
        if self.read < self.of:
            self._add(min(self.of, self.read + PART))
        elif self._todo:
            self._write(group := next(iter(self._todo)))
            del self._todo[group]
        elif self._searches and self.read_words < self.of:
            until = min(self.of, self.read_words + PART)
            self.ledger.execute(_ADD_WORDS, (self.read_words, until))
            self.read_words = until
        return not self.is_whole(words=self._searches)

    def is_whole(self, *, words: bool) -> bool:
        """Whether the index has all rows found by the last look, and their ``words`` if asked."""
        return not (self._todo or self.read < self.of or (words and self.read_words < self.of))

    def search(self, query: str) -> None:
        """Fill the table ``matched`` with the comparisons that contain a query's words."""
        remarks = "SELECT number FROM temp.given WHERE remark IS NOT NULL AND "
        for sql, parameters in (
            ("DELETE FROM temp.matched", ()),
            ("INSERT INTO temp.matched SELECT rowid FROM temp.words WHERE words MATCH ?",
             (word_search.expression(query),)),
            (f"INSERT OR IGNORE INTO temp.matched {remarks} instr(lower(remark), ?)",
             (query.strip().strip('"').lower(),)),
        ):  # fmt: skip
            self.ledger.execute(sql, parameters)

    @property
    def groups_left(self) -> int:
        """How many rounds, and comparisons outside rounds, still have unread votes."""
        return len(self._todo)

    def _look(self, live: bool) -> None:
        """Note all changes since the last look: new rows, and rounds that opened or closed."""
        ledger = self.ledger
        with ledger.snapshot():
            self.of = _highest(ledger, "rowid", "comparisons")
            hidden = frozenset() if live else evidence.open_comparisons(ledger)
            for name, (table, touched) in _NEWS.items():
                if self._last[name] >= 0:  # at the first look, every comparison is new anyway
                    self._note(ledger.query(touched, (self._last[name],)))
                self._last[name] = _highest(ledger, name, table)
            void = frozenset(row["step"] for row in ledger.steps() if row["state"] == "void")
            self._note(_places(ledger, self.hidden - hidden))
            covered = self._note(_places(ledger, hidden - self.hidden))
        self._todo |= dict.fromkeys(("step", step) for step in void - self._void)
        self.hidden, self._void = hidden, void
        for group in covered:  # hide these at once: the operator's switch was turned off
            self._write(group)

    def _note(self, rows: Iterable[Record]) -> list[_Group]:
        """Note and return the groups of those comparisons that are already in the index."""
        found = dict.fromkeys(_group(row) for row in rows if row["number"] <= self.read)
        self._todo |= found
        return list(found)

    def _add(self, until: int) -> None:
        """Add the comparisons up to a number, without their votes."""
        for sql in _ADD:
            self.ledger.execute(sql, (self.read, until))
        added = "SELECT number, kind, step FROM temp.shown WHERE number > ?"
        self._todo |= dict.fromkeys(map(_group, self.ledger.query(added, (self.read,))))
        self.read = until

    def _write(self, group: _Group) -> None:
        """Replace the rows of a group's votes."""
        ledger, (kind, value) = self.ledger, group
        is_void, counted = kind == "step" and value in self._void, set[int]()
        with ledger.snapshot():
            heads = ledger.query(
                "SELECT c.rowid AS number, c.comparison FROM comparisons c WHERE " + _WHERE[kind],
                (ledger.run, value),
            )
            votes = ledger.query(_VOTES.format(_WHERE[kind]), (ledger.run, value))
            hidden = bool(heads) and heads[0]["comparison"] in self.hidden
            if kind == "step" and not hidden and not is_void:
                counted = counting.StepVotes(ledger, value).ids()[1]
            reasons = _read_reasons(ledger)
        rows = [list(row.values()) for row in _states(votes, counted, reasons, is_void, hidden)]
        numbers = canonical([head["number"] for head in heads])
        ledger.execute(f"DELETE FROM temp.given WHERE {_THESE}", (numbers,))
        ledger.execute(_INSERT, (canonical(rows),))
        ledger.execute(_COUNT, (numbers,))


def _highest(ledger: Ledger, column: str, table: str) -> int:
    return int(ledger.query(f"SELECT coalesce(max({column}), 0) AS n FROM {table}")[0]["n"])


def _group(row: Record) -> _Group:
    return ("step", row["step"]) if row["kind"] == "train" else ("one", row["number"])


def _places(ledger: Ledger, comparisons: Iterable[str]) -> list[Record]:
    return ledger.query(
        "SELECT rowid AS number, kind, step FROM comparisons WHERE comparison IN "
        "(SELECT value FROM json_each(?))",
        (canonical(sorted(comparisons)),),
    )


def _read_reasons(ledger: Ledger) -> dict[int, str]:
    """The votes whose latest amendment excludes them, with its reason."""
    rows = ledger.query(
        "SELECT vote, action, reason, max(amendment) FROM amendments GROUP BY vote"
    )
    return {row["vote"]: row["reason"] for row in rows if row["action"] == "exclude"}


def _states(
    votes: list[Record],
    counted: Collection[int],
    reasons: Mapping[int, str],
    is_void: bool,
    hidden: bool,
) -> Iterator[dict[str, Any]]:
    """The votes of a group as rows of the table ``given``, with its columns in order.

    ``counted`` are the votes that count in the step's update, ``reasons`` the excluded ones.
    ``hidden`` leaves their choices out.
    """
    last = {v["assignment"]: v["vote"] for v in votes if v["second"] or not v["late"]}
    for vote in votes:
        number = vote["vote"]
        states = {
            "open": hidden,
            "void": is_void,
            "counted": number in counted,
            "late": vote["late"] and not vote["second"],
            "changed": last.get(vote["assignment"]) != number,
            "excluded": number in reasons,
            "skipped": vote["choice"] == "skip",
            "second": vote["second"],
            "spare": vote["kind"] == "train",
            "apart": True,
        }
        details = json.loads(vote["details"] or "{}")
        texts = [text for key, text in details.items() if key not in _NO_REMARK]
        remarks = [vote["skip_reason"], reasons.get(number), *texts]
        says = {
            "choice": vote["choice"],
            "verdict": counting.verdict(vote["choice"], vote["plus_side"]),
            "note": bool(details.get("notes")), "reported": details.get("report") is True,
            "fast": details.get("fast") is True,
            "remark": "\n".join(text for text in remarks if isinstance(text, str)) or None,
        }  # fmt: skip
        yield {
            "vote": number, "number": vote["number"], "panelist": vote["pseudonym"],
            "state": next(state for state, holds in states.items() if holds),
            **(dict.fromkeys(says) if hidden else says),
            "seat": vote["assignment"], "at_us": vote["received_us"],
        }  # fmt: skip
