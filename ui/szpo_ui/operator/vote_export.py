"""Exports the comparisons that the vote browser's filter finds, as CSV or JSON lines.

Comparisons still open for votes are left out, as in every other export. Panelists are named by
pseudonym, and no cell of the table is a formula.
"""

from __future__ import annotations

import io
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import IO, Any, Final

from szpo.data import spreadsheets
from szpo.errors import StorageError
from szpo_ui.operator import vote_pages
from szpo_ui.operator.vote_filter import Filter
from szpo_ui.operator.vote_index import VoteIndex

FORMS: Final = {"csv": "text/csv; charset=utf-8", "jsonl": "application/jsonl; charset=utf-8"}
"""Media type by file suffix."""
COLUMNS: Final = (
    "comparison", "kind", "round", "direction", "n", "expected", "row", "prompt", "plus", "minus",
    "plus_cut", "minus_cut", "vote", "panelist", "plus_side", "choice", "verdict", "counted",
    "state", "note", "remark", "reported", "fast", "revision", "seconds", "answered",
)  # fmt: skip
"""Columns of the table, which has a line for each vote and prompt."""
PART: Final = 50
"""Comparisons read at once; the index answers pages in between."""
PATIENCE_S: Final = 120.0
"""How long an export waits for the index, seconds."""

Ask = Callable[[Callable[[VoteIndex], Any]], Any]
"""Calls a function with the index, on the index's thread."""


def write(ask: Ask, chosen: Filter, form: str) -> IO[bytes]:
    """A temporary file with the comparisons that a filter finds, rewound; the caller closes it.

    Raises:
        StorageError: the index was not complete within `PATIENCE_S`.
    """
    file = tempfile.TemporaryFile()  # noqa: SIM115  (closed when it has been sent)
    try:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="replace", newline="")
        found = _read(ask, chosen)
        if form == "csv":
            spreadsheets.write(text, COLUMNS, (line for each in found for line in _lines(each)))
        else:
            for each in found:
                text.write(json.dumps(_as_json(each), ensure_ascii=False) + "\n")
        text.detach()
        file.seek(0)
        return file
    except BaseException:
        file.close()
        raise


def _read(ask: Ask, chosen: Filter) -> Iterator[dict[str, Any]]:
    until = time.monotonic() + PATIENCE_S
    while (found := ask(partial(vote_pages.numbers, chosen=chosen))) is None:
        if time.monotonic() > until:
            raise StorageError("the record is still being read; try again in a minute")
        time.sleep(0.1)
    for at in range(0, len(found), PART):
        some = found[at : at + PART]
        for each in ask(partial(vote_pages.whole, some=some, chosen=chosen)):
            if not each["open"]:
                yield each


def _lines(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The table's lines for a comparison: one for each vote that meets the filter and each prompt.

    If no vote meets it, there is one line for each prompt.
    """
    for vote in [vote for vote in found["votes"] if vote["chosen"]] or (None,):
        for row in found["rows"]:
            own = {} if vote is None else {**_vote(vote), "note": vote["notes"].get(row["i"])}
            yield {**dict.fromkeys(COLUMNS), **_head(found), **_row(row), **own}


def _as_json(found: dict[str, Any]) -> dict[str, Any]:
    """A comparison as one object: its rows, and its votes that meet the filter."""
    return {
        **_head(found),
        "number": found["number"],
        "repeats": found["repeats"],
        "rows": [
            {**_row(row), "earlier": [[role, str(text)] for role, text in row["earlier"]]}
            for row in found["rows"]
        ],
        "votes": [
            {**_vote(vote), "notes": {str(i): note for i, note in vote["notes"].items()}}
            for vote in found["votes"]
            if vote["chosen"]
        ],
    }


def _head(found: dict[str, Any]) -> dict[str, Any]:
    return {
        "comparison": found["comparison"],
        "kind": found["kind"],
        "round": None if found["step"] is None else found["step"] + 1,
        "direction": found["k"],
        "n": found["n"],
        "expected": found["expected"],
    }


def _row(row: dict[str, Any]) -> dict[str, Any]:
    plus, minus = row["answers"]
    return {
        "row": row["i"], "prompt": str(row["text"]), "plus": str(plus), "minus": str(minus),
        "plus_cut": int(plus.cut), "minus_cut": int(minus.cut),
    }  # fmt: skip


def _vote(vote: dict[str, Any]) -> dict[str, Any]:
    answered = datetime.fromtimestamp(vote["received_us"] / 1e6, UTC)
    names = ("vote", "panelist", "plus_side", "choice", "verdict")
    return {
        **{name: vote[name] for name in names},
        "counted": int(vote["state"] == "counted"),
        **{name: vote[name] for name in ("state", "remark", "reported", "fast", "revision")},
        "seconds": round(vote["seconds"], 1),
        "answered": answered.isoformat(timespec="seconds"),
    }
