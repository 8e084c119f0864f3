"""Reads the rows of an export's files, and checks the types and ranges of each row.

A zip can hold anything, even with correct hashes. Anything that szpo does not write is refused
with a one-line error, and nothing grows to many times its size in memory.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from operator import attrgetter
from typing import Any, Final, TypeVar, cast, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from szpo.analysis.evidence import Evidence, Panelist, RunFacts
from szpo.analysis.vote_rows import VoteRow
from szpo.data import spreadsheets
from szpo.errors import ResourceError, StorageError, UsageError
from szpo.training.results import StepRow
from szpo.types import Choice
from szpo.voting import counting

LINE_BYTES: Final = 2**20
"""Most bytes of a vote's line; the panel's page accepts at most 4096 notes a vote, 64 KiB."""
ROWS: Final = 10**5
"""Most steps, and most panelists, that are read by default."""
_WHOLE: Final = 2**53
"""Upper limit of whole numbers: counts, and microseconds since 1970."""
_CHOICES: Final = get_args(Choice)
_OBJECTS: Final = TypeAdapter(dict[str, dict[str, Any]])
_EDGES: Final = TypeAdapter(dict[str, tuple[float | None, float | None]])
_Row = TypeVar("_Row")


def parse(files: Mapping[str, bytes], *, most_rows: int = ROWS) -> Evidence:
    """Parse the evidence in run.json, steps.csv, votes.jsonl and panelists.csv.

    Votes are parsed and checked one by one when iterated.

    Raises:
        StorageError: a file has another form than szpo writes; for votes, raised when iterated.
        ResourceError: there are more steps or panelists than ``most_rows``, or a vote has more
            than `LINE_BYTES`; for votes, raised when iterated.
    """
    return Evidence(
        run=_parse_run(files["run.json"]),
        steps=tuple(_parse_table(StepRow, "steps.csv", files["steps.csv"], most_rows)),
        votes=Votes(files["votes.jsonl"]),
        panelists=tuple(
            _parse_table(Panelist, "panelists.csv", files["panelists.csv"], most_rows)
        ),
    )


@dataclass(frozen=True, slots=True)
class Votes:
    """The votes of votes.jsonl, parsed again by each iteration; only the bytes are in memory."""

    content: bytes

    def __iter__(self) -> Iterator[VoteRow]:
        file, number = io.BytesIO(self.content), 0
        while line := file.readline(LINE_BYTES + 1):
            number += 1
            if len(line) > LINE_BYTES:
                raise ResourceError(
                    f"line {number} of this export's votes.jsonl has more than {LINE_BYTES:,} "
                    "bytes, and no vote needs as many"
                )
            yield _parse_vote(line, f"votes.jsonl, line {number}")


def _parse_vote(line: bytes, where: str) -> VoteRow:
    try:
        vote: VoteRow = _adapter(VoteRow).validate_json(line, strict=True)
    except ValidationError as error:
        raise _refuse(where, _describe(error)) from None
    _check_whole_numbers(vote, where)
    if vote.choice not in _CHOICES or vote.plus_side not in ("A", "B"):
        raise _refuse(where, "its choice or plus_side is unknown")
    if vote.verdict != counting.verdict(cast(Choice, vote.choice), vote.plus_side):
        raise _refuse(where, "its verdict is not that of its choice and plus_side")
    return vote


def _parse_run(content: bytes) -> RunFacts:
    where = "run.json"
    try:
        facts = _OBJECTS.validate_python(json.loads(content))["facts"]
        edges = _EDGES.validate_python(facts["bands"])
        bands = {
            name: (-math.inf if low is None else low, math.inf if high is None else high)
            for name, (low, high) in edges.items()
        }
        run: RunFacts = _adapter(RunFacts).validate_python({**facts, "bands": bands})
    except ValidationError as error:
        raise _refuse(where, _describe(error)) from None
    except KeyError as error:
        raise _refuse(where, f"it lacks {error}") from None
    except (ValueError, RecursionError, UsageError) as error:
        raise _refuse(where, str(error)) from None
    _check_whole_numbers(run, where)
    if not run.votes_per_step:
        raise _refuse(where, "its steps have no votes")
    return run


def _parse_table(row: type[_Row], name: str, content: bytes, most: int) -> Iterator[_Row]:
    """Parse rows of a CSV file as a dataclass; columns that are not its fields are left out."""
    hints = {field: str(hint) for field, hint in get_type_hints(row).items()}
    number = 0
    try:
        lines = csv.DictReader(io.StringIO(content.decode(), newline=""))
        if next(iter(hints)) not in (lines.fieldnames or ()):
            raise ValueError("it has no header")
        for number, line in enumerate(lines, 1):
            if number > most:
                raise ResourceError(
                    f"this export's {name} has more than {most:,} rows; "
                    "where you trust it, give a larger limit="
                )
            if None in line or None in line.values():
                raise ValueError("the row and the header differ in length")
            # Exports of an older szpo lack newer columns.
            values = {f: _read_cell(line[f], hint) for f, hint in hints.items() if f in line}
            found: _Row = _adapter(cast(Any, row)).validate_python(values)
            _check_whole_numbers(found, f"{name}, row {number}")
            yield found
    except ValidationError as error:
        raise _refuse(f"{name}, row {number}", _describe(error)) from None
    except (ValueError, RecursionError, csv.Error) as error:
        raise _refuse(f"{name}, row {number}", str(error)) from None


def _read_cell(cell: str, hint: str) -> Any:
    if "tuple" in hint:
        return json.loads(cell)
    if cell == "" and "None" in hint:
        return None
    return spreadsheets.unguard(cell) if "str" in hint else cell


@cache
def _adapter(row: Any) -> TypeAdapter[Any]:
    return TypeAdapter(row)


@cache
def _values(row: Any) -> Callable[[object], tuple[object, ...]]:
    """A function that returns the values of a dataclass's instance, in the order of fields."""
    return attrgetter(*(field.name for field in fields(row)))


def _check_whole_numbers(row: object, where: str) -> None:
    stack = [_values(cast(Any, type(row)))(row)]
    while stack:
        for value in stack.pop():
            if isinstance(value, tuple):
                stack.append(value)
            elif isinstance(value, int) and not 0 <= value < _WHOLE:
                raise _refuse(where, "a whole number is below 0 or too large")


def _describe(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place[:80]!r}: {first['msg']}" if place else first["msg"]


def _refuse(where: str, why: str) -> StorageError:
    return StorageError(f"not an export of szpo ({where}: {' '.join(why.split())})")
