"""The vote browser's filter: parsed from the page's address, turned into SQL conditions; pure.

Conditions on votes (panelist, answer, notes, …) apply to one vote: a comparison is shown if one
of its votes meets all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from szpo.errors import UsageError
from szpo_ui.operator import word_search

KINDS: Final = {
    "train": "training", "gold": "known answer", "aa": "A/A", "repeat": "repeated",
    "final": "final comparison",
}  # fmt: skip
ANSWERS: Final = {
    "plus": "the first text", "minus": "the second text", "tie": "about the same",
    "skip": "can’t judge", "A": "A, on the left", "B": "B, on the right",
}  # fmt: skip
STATES: Final = {
    "counted": "counted", "not": "not counted", "open": "round is open", "late": "came late",
    "changed": "changed later", "skipped": "could not judge", "spare": "one more than planned",
    "excluded": "excluded", "void": "round given up", "apart": "not for training",
    "second": "a second person’s view",
}  # fmt: skip
SORTS: Final = {
    "newest": "newest first", "oldest": "oldest first", "voted": "voted on last",
    "votes": "most votes", "split": "least agreement",
}  # fmt: skip
_KEYS: Final = {
    "newest": "number", "oldest": "number", "voted": "voted_us", "votes": "votes",
    "split": "split",
}  # fmt: skip
_LEAST: Final = {"voted": "voted_us > 0", "split": "split >= 0"}
_CURSOR: Final = r"^\d{1,18}\.\d{1,18}$"
_MARKS: Final = ("note", "reported", "fast")
EVERY: Final = "1"
"""The condition that every comparison meets."""
_NOT_COUNTED: Final = "state NOT IN ('counted', 'open')"


class Filter(BaseModel):
    """The filter's fields; ``round`` and ``prompt`` count from 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    q: str | None = Field(None, max_length=200)
    round: int | None = Field(None, ge=1, lt=2**31)
    kind: str | None = Field(None, pattern=f"^({'|'.join(KINDS)})$")
    panelist: str | None = Field(None, max_length=64)
    answer: str | None = Field(None, pattern=f"^({'|'.join(ANSWERS)})$")
    state: str | None = Field(None, pattern=f"^({'|'.join(STATES)})$")
    note: Literal["1"] | None = None
    reported: Literal["1"] | None = None
    fast: Literal["1"] | None = None
    prompt: int | None = Field(None, ge=1, lt=2**31)
    comparison: str | None = Field(None, max_length=64)
    sort: str = Field("newest", pattern=f"^({'|'.join(SORTS)})$")
    after: str | None = Field(None, pattern=_CURSOR)
    before: str | None = Field(None, pattern=_CURSOR)

    def query(self, **changes: Any) -> str:
        """The query string of this filter with some fields changed, at the first page.

        >>> Filter(round=3, after="4.4").query(kind="train")
        'round=3&kind=train'
        """
        place = {"after": None, "before": None}
        found = self.model_copy(update={**place, **changes}).model_dump(exclude_none=True)
        if found["sort"] == "newest":
            del found["sort"]
        return urlencode(found)

    @property
    def key(self) -> str:
        """The column to sort the comparisons by; ties are sorted by number."""
        return _KEYS[self.sort]


def parse(pairs: Iterable[tuple[str, str]]) -> Filter:
    """The filter in an address, without its empty fields.

    Raises:
        UsageError: a field is unknown, or its value is invalid.
    """
    given = {name: value for name, value in pairs if value.strip()}
    try:
        found = Filter.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = str(first["loc"][0])[:40] if first["loc"] else "address"
        if first["type"] == "extra_forbidden":
            known = ", ".join(Filter.model_fields)
            raise UsageError(f"filter: no field {name}; there are {known}") from None
        raise UsageError(f"filter: {name} cannot be {given[name][:40]!r}; give another") from None
    if found.q is not None:
        word_search.expression(found.q)
    return found


def of_votes(chosen: Filter) -> tuple[str, list[Any]]:
    """The condition on a row of ``given`` and its parameters; "" if every vote meets it."""
    terms: list[str] = []
    values: list[Any] = []
    if chosen.panelist is not None:
        terms.append("panelist = ?")
        values.append(chosen.panelist)
    if chosen.answer is not None:
        terms.append("choice = ?" if chosen.answer in "AB" else "verdict = ?")
        values.append(chosen.answer)
    if chosen.state == "not":
        terms.append(_NOT_COUNTED)
    elif chosen.state is not None:
        terms.append("state = ?")
        values.append(chosen.state)
    terms += [f"{name} = 1" for name in _MARKS if getattr(chosen, name)]
    return " AND ".join(terms), values


def of_comparisons(chosen: Filter, *, votes: bool = True) -> tuple[str, list[Any]]:
    """The condition on a row of ``shown`` and its parameters; ``votes`` adds that on votes.

    Words are looked up in the table ``matched``, so call `VoteIndex.search` before.
    """
    terms: list[str] = [EVERY]
    values: list[Any] = []

    def add(term: str, *parameters: Any) -> None:
        terms.append(term)
        values.extend(parameters)

    if chosen.round is not None:
        add("step = ?", chosen.round - 1)
    if chosen.kind is not None:
        add("kind = ?", chosen.kind)
    if chosen.comparison is not None:
        add("number IN (SELECT rowid FROM comparisons WHERE comparison = ?)", chosen.comparison)
    if chosen.prompt is not None:
        add("number IN (SELECT number FROM temp.asked WHERE prompt = ?)", chosen.prompt)
    if chosen.q is not None:
        add("number IN (SELECT number FROM temp.matched)")
    given, parameters = of_votes(chosen)
    if votes and given:
        add(f"number IN (SELECT number FROM temp.given WHERE {given})", *parameters)
    if chosen.sort in _LEAST:
        add(_LEAST[chosen.sort])
    return " AND ".join(terms), values


def page_end(chosen: Filter, *, limit: int) -> tuple[str, list[Any], bool]:
    """The end of a page's SQL query (cursor, order, limit), and whether it runs backward."""
    backward = chosen.before is not None
    descending = (chosen.sort != "oldest") != backward
    way, sign, key = ("DESC", "<", chosen.key) if descending else ("ASC", ">", chosen.key)
    cursor, term, values = chosen.before or chosen.after, "", []
    if cursor is not None:
        values = [int(part) for part in cursor.split(".")]
        term = f" AND ({key}, number) {sign} (?, ?)"
    return f"{term} ORDER BY {key} {way}, number {way} LIMIT {limit}", values, backward
