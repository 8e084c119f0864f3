"""Preference files: read line by line with limits, written whole or not at all.

They come from other people: nothing in them is executed, compressed files are unpacked only up to
a limit, and errors name the lines of records that cannot be used.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeAlias

from szpo import files
from szpo.data import csv_tables, label_studio, preference_formats, text_files
from szpo.data.preference_formats import Pair, Preferences
from szpo.data.text_files import Limits
from szpo.errors import UsageError
from szpo.types import Answer, Prompt

SUFFIXES = (".jsonl", ".json", ".gz", ".csv")
"""Last suffixes of preference files."""
LINE_LIMIT = 2**20
"""Most bytes of one line."""
FILE_LIMIT = 2**30
"""Most bytes of a file, unpacked."""
ARRAY_LIMIT = 64 * 2**20
"""Most bytes of a file that is read at once, since it has not one record on each line."""
SHOWN_BAD = 5
"""Most bad records that a message names; the others are counted."""

Format: TypeAlias = Callable[[dict[str, Any], str], Preferences]
FORMATS: dict[str, Format] = {
    "trl": preference_formats.read_trl,
    "hh": preference_formats.read_hh_rlhf,
    "ultrafeedback": preference_formats.read_ultrafeedback,
    "label-studio": label_studio.read_pairs,
    "sheet": preference_formats.read_sheet,
}
DETECTED: Final = ("hh", "trl", "ultrafeedback", "label-studio", "sheet")
"""The formats in the order in which they are tried on the first record."""
SIGNS: Final = {
    "ultrafeedback": "completions", "sheet": "choice", "label-studio": "annotations",
    "trl": "chosen",
}  # fmt: skip
"""Keys by which a record's format is known, also where something in it is wrong."""


def read(
    path: Path | str, kind: str | None = None, *, first: int | None = None, skip_bad: bool = False
) -> Preferences:
    """Read the pairs of a preference file: .jsonl, .jsonl.gz, .csv, or .json with a list.

    Args:
        path: the file.
        kind: one of `FORMATS`; None: sheet if the first record has a choice, else trl.
        first: read at most this many records.
        skip_bad: leave out and list records that cannot be used, instead of raising.

    Raises:
        UsageError: the file or one of its records cannot be used, or there is no such format.
    """
    guessed = kind is None
    if kind is None:
        first_one = next((record for _, record in read_records(Path(path))), None)
        kind = (
            "sheet"
            if isinstance(first_one, dict) and preference_formats.COLUMN in first_one
            else "trl"
        )
    if kind not in FORMATS:
        raise UsageError(f"format {kind!r} is none of {', '.join(FORMATS)}")
    if first is not None and first < 1:
        raise UsageError(f"first must be at least 1 (got {first})")
    pairs: list[Pair] = []
    ties = count = 0
    bad: dict[str, str] = {}
    for where, value in read_records(Path(path), first=first):
        count += 1
        try:
            one = FORMATS[kind](text_files.require_object(value, where), where)
        except UsageError as error:
            bad[_place(where, path)] = str(error)
            continue
        for number, why in enumerate(one.bad):
            bad[f"{_place(where, path)}{', again' * number}"] = why
        pairs += one.pairs
        ties += one.ties
    if bad and not skip_bad:
        other = _other_format(Path(path), kind) if guessed else ""
        left = "; --skip-bad of szpo pairs leaves such records out" * bool(pairs)
        raise UsageError(_describe_bad(bad) + (other or left))
    if not count:
        raise UsageError(f"{path} holds no records")
    for oddity in _oddities(pairs):
        logging.getLogger("szpo").warning(f"{path}: {oddity}")
    return Preferences(tuple(pairs), ties, count, tuple(bad.values()))


def _oddities(pairs: Sequence[Pair]) -> Iterator[str]:
    asked = ["".join(text for _, text in pair.prompt.turns) for pair in pairs]
    if control := sum(map(text_files.has_control, asked)):
        yield f"{control} {text_files.WITH_CONTROL}"
    both = [(pair.chosen.text, pair.rejected.text) for pair in pairs]
    if control := sum(any(map(text_files.has_control, each)) for each in both):
        yield f"{control} pairs with such words in an answer, such as </s> (kept as text)"
    last = [pair.prompt.turns[-1][1].strip() for pair in pairs]
    if again := sum(
        all(t.startswith(q) for t in each) for q, each in zip(last, both, strict=True)
    ):
        yield f"{again} pairs whose answers both begin with the prompt (kept as they are)"


def _place(where: str, path: Path | str) -> str:
    return where.removeprefix(str(path)).lstrip(": ")


def find_format(path: Path) -> str:
    """The name of the format of a file's first record."""
    for where, value in read_records(path):
        record = text_files.require_object(value, where)
        for kind in DETECTED:
            with suppress(UsageError):
                FORMATS[kind](record, where)
                return kind
        for kind in (kind for kind, key in SIGNS.items() if key in record):
            FORMATS[kind](record, where)  # raises what is wrong with it
        raise UsageError(f"{where}: its format is none of {', '.join(DETECTED)}")
    raise UsageError(f"{path} holds no records")


def read_records(
    path: Path, *, ours: bool = True, first: int | None = None
) -> Iterator[tuple[str, Any]]:
    """Yield each record's place in the file and its value; `text_files.Unreadable` if not JSON.

    A .csv is a sheet that szpo wrote (``ours``), or another table; see `csv_tables.read_table`.
    ``first``: at most so many.
    """
    text_files.inspect_file(path, "preference file")
    limits = Limits(LINE_LIMIT, FILE_LIMIT, ARRAY_LIMIT)
    names = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    match names[-1:]:
        case [".csv"]:
            rows = csv_tables.read_table(path, preference_formats.COLUMNS, limits, ours=ours)
            yield from islice(rows, first)
        case [".json" | ".jsonl"]:
            cancelled = 0
            for where, record in islice(text_files.read_json(path, limits), first):
                cancelled += label_studio.count_cancelled(record)
                yield where, record
            if cancelled:
                logging.getLogger("szpo").warning(
                    f"{path}: {cancelled} annotations left out, which their annotators cancelled"
                )
        case _:
            raise UsageError(
                f"{path}: records are read from .jsonl, .jsonl.gz, .json and .csv files"
            )


def _other_format(path: Path, kind: str) -> str:
    """Say which other format a file's first record has; empty if it has none."""
    with suppress(UsageError):
        if (other := find_format(path)) != kind:
            return f"; its records are of the format {other}: --from {other}"
    return ""


def _describe_bad(bad: dict[str, str]) -> str:
    """Describe the first bad record in full, and count and locate the others."""
    first, *others = bad
    if not others:
        return bad[first]
    named = ", ".join(others[:SHOWN_BAD]) + (", …" if len(others) > SHOWN_BAD else "")
    return f"{bad[first]}; {len(others)} more such records (at {named})"


def write(path: Path, pairs: Iterable[Pair]) -> int:
    """Write pairs in TRL's conversational format, one a line; returns their number.

    Raises:
        UsageError: the name does not end in .jsonl.
        StorageError: the file exists or cannot be written.
    """
    if path.suffix != ".jsonl":
        raise UsageError(f"{path.name}: pairs are written as .jsonl")
    count = 0
    with files.write_whole(path) as draft, draft.open("x", encoding="utf-8") as file:
        for pair in pairs:
            file.write(json.dumps(preference_formats.to_trl(pair), ensure_ascii=False) + "\n")
            count += 1
    return count


def read_groups(path: Path | str) -> Iterator[tuple[Prompt, tuple[str, ...]]]:
    """Yield prompts with answers to rank: from lists of completions, or from pairs.

    Equal answers appear once; a record with fewer than two different ones is left out.
    """
    for where, value in read_records(Path(path)):
        record = text_files.require_object(value, where)
        if "completions" in record:
            prompt, texts = preference_formats.read_candidates(record, where)
        else:
            pairs = preference_formats.read_trl(record, where).pairs
            if not pairs:
                continue
            prompt, texts = pairs[0].prompt, [pairs[0].chosen.text, pairs[0].rejected.text]
        answers = tuple(dict.fromkeys(texts))
        if len(answers) > 1:
            yield prompt, answers


def read_examples(path: Path | str) -> tuple[tuple[Prompt, Answer], ...]:
    """Read prompts with good answers from a file in TRL's formats for supervised fine-tuning."""
    questions = tuple(
        preference_formats.read_example(text_files.require_object(value, where), where)
        for where, value in read_records(Path(path))
    )
    if not questions:
        raise UsageError(f"{path} holds no records")
    return questions
