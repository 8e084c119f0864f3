"""What a filter of the browser finds, as CSV or JSON lines.

Comparisons that take votes are left out until they are closed, as in every other export. Panelists
stand by pseudonym, and no cell of the table is a formula.
"""

from __future__ import annotations

import io
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

from szpo.data import spreadsheets
from szpo.errors import StorageError
from szpo_ui.operator import vote_pages
from szpo_ui.operator.vote_filter import Filter
from szpo_ui.operator.vote_index import VoteIndex
from szpo_ui.operator.vote_pages import Given, Item, Text, TextRow

FORMS: Final = {"csv": "text/csv; charset=utf-8", "jsonl": "application/jsonl; charset=utf-8"}
"""Suffix and media type of each form."""
COLUMNS: Final = (
    "comparison", "kind", "round", "direction", "n", "expected", "row", "prompt", "plus", "minus",
    "plus_cut", "minus_cut", "vote", "panelist", "plus_side", "choice", "verdict", "counted",
    "state", "note", "remark", "reported", "fast", "revision", "seconds", "answered",
)  # fmt: skip
"""Columns of the table: a line for each vote and prompt."""
PART: Final = 50
"""Comparisons that are read at once; pages are answered in between."""
CHUNK: Final = 262_144
PATIENCE_S: Final = 120.0
"""How long an export waits for the index, seconds."""

Ask = Callable[[Callable[[VoteIndex], Any]], Any]
"""Calls a function with the index, in the index's thread."""


def write(ask: Ask, chosen: Filter, form: str) -> IO[bytes]:
    """A file without a name that holds what a filter finds, at its beginning; close it.

    Raises:
        StorageError: the index was not whole within `PATIENCE_S`.
    """
    file = tempfile.TemporaryFile()  # noqa: SIM115  (closed when it has been sent)
    try:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="replace", newline="")
        items = _items(ask, chosen)
        if form == "csv":
            spreadsheets.write(text, COLUMNS, (line for item in items for line in lines(item)))
        else:
            for item in items:
                text.write(json.dumps(as_json(item), ensure_ascii=False) + "\n")
        text.detach()
        file.seek(0)
        return file
    except BaseException:
        file.close()
        raise


def parts(file: IO[bytes]) -> Iterator[bytes]:
    """The file's bytes in pieces; it is closed after the last."""
    with file:
        while part := file.read(CHUNK):
            yield part


def file_stem(path: Path) -> str:
    """The name of a run as a download may have it."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", path.stem) or "run"


def _items(ask: Ask, chosen: Filter) -> Iterator[Item]:
    until = time.monotonic() + PATIENCE_S
    while (found := ask(partial(_numbers, chosen))) is None:
        if time.monotonic() > until:
            raise StorageError("the record is still being read; try again in a minute")
        time.sleep(0.1)
    for at in range(0, len(found), PART):
        for item in ask(partial(_whole, found[at : at + PART], chosen)):
            if not item.open:
                yield item


def _numbers(chosen: Filter, index: VoteIndex) -> list[int] | None:
    """What the filter finds; None until the index is whole."""
    whole = index.is_whole(words=chosen.q is not None)
    return vote_pages.numbers(index, chosen) if whole else None


def _whole(some: list[int], chosen: Filter, index: VoteIndex) -> list[Item]:
    return vote_pages.whole(index, some, chosen)


def lines(item: Item) -> Iterator[dict[str, Any]]:
    """The lines of a comparison in the table: one for each vote chosen and each prompt.

    A comparison without a vote has a line for each prompt.
    """
    chosen: Iterable[Given | None] = [vote for vote in item.votes if vote.chosen]
    head = _head(item)
    for vote in chosen or (None,):
        for row in item.rows:
            yield {**dict.fromkeys(COLUMNS), **head, **_row(row), **_vote(vote, row.i)}


def as_json(item: Item) -> dict[str, Any]:
    """A comparison as one object: its rows, and its votes that were chosen."""
    return {
        **_head(item),
        "number": item.number,
        "repeats": item.repeats,
        "rows": [
            {**_row(row), "earlier": [[role, _plain(text)] for role, text in row.earlier]}
            for row in item.rows
        ],
        "votes": [
            {**_vote(vote, None), "notes": {str(i): note for i, note in vote.notes.items()}}
            for vote in item.votes
            if vote.chosen
        ],
    }


def _head(item: Item) -> dict[str, Any]:
    return {
        "comparison": item.comparison,
        "kind": item.kind,
        "round": None if item.step is None else item.step + 1,
        "direction": item.k,
        "n": item.n,
        "expected": item.expected,
    }


def _row(row: TextRow) -> dict[str, Any]:
    plus, minus = row.answers
    return {
        "row": row.i,
        "prompt": _plain(row.text),
        "plus": _plain(plus),
        "minus": _plain(minus),
        "plus_cut": int(plus.cut),
        "minus_cut": int(minus.cut),
    }


def _plain(text: Text) -> str:
    return "".join(piece.text for piece in text.pieces)


def _vote(vote: Given | None, row: int | None) -> dict[str, Any]:
    """A vote's columns; ``row``: with the note on that prompt."""
    if vote is None:
        return {}
    answered = datetime.fromtimestamp(vote.received_us / 1e6, UTC)
    note = {} if row is None else {"note": vote.notes.get(row)}
    return {
        "vote": vote.vote,
        "panelist": vote.panelist,
        "plus_side": vote.plus_side,
        "choice": vote.choice,
        "verdict": vote.verdict,
        "counted": int(vote.state == "counted"),
        "state": vote.state,
        "remark": vote.remark,
        "reported": int(vote.reported),
        "fast": int(vote.fast),
        "revision": vote.revision,
        "seconds": round(vote.seconds, 1),
        "answered": answered.isoformat(timespec="seconds"),
        **note,
    }
