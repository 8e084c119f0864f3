"""Prompts: szpo's own, or a user's from CSV, JSONL, JSON or lines of text.

A prompt file may come from anywhere: it is read with limits, never executed or decompressed, and
errors name the file and line. Harmless oddities (duplicates, direction marks, control words,
lone surrogates) give a warning.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from importlib.resources import files
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from szpo.data import csv_tables, messages, text_files
from szpo.data.messages import SYSTEM_KEYS, UNREAD, Turns
from szpo.data.text_files import Limits
from szpo.errors import UsageError
from szpo.types import Prompt
from szpo.visible_text import HIDDEN, is_blank

if TYPE_CHECKING:
    from szpo.config.tables import Prompts


Split: TypeAlias = Literal["train", "heldout"]

LINE_LIMIT = 65_536
"""Most bytes of a line, and most characters of a text."""
FILE_LIMIT = 64 * 2**20
"""Most bytes of a prompt file; a .json file, read at once, may have an eighth of that."""
KEYS = ("messages", "text", "prompt")
"""Keys of a record, or columns, for the prompt; the first one that exists is used."""
SUFFIXES = (".jsonl", ".csv", ".json", ".txt")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz",
               b"\x28\xb5\x2f\xfd": "zstd", b"7z\xbc\xaf": "7z"}  # fmt: skip
_ANSWERED = re.compile(
    r"###\s*(?:assistant|response|output|answer)\s*:\s*\S|^\s*(?:assistant|gpt)\s*:\s*\S",
    re.I | re.M,
)
"""How an answer begins in texts that hold a whole dialogue."""
_HELD: Final = (
    "heldout",
    "held-out",
    "held_out",
    "test",
    "validation",
    "valid",
    "val",
    "dev",
    "eval",
)
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Prompts to train on, held-out prompts to measure on, and warnings about their file."""

    train: tuple[Prompt, ...]
    heldout: tuple[Prompt, ...]
    warnings: tuple[str, ...] = ()
    places: Mapping[Prompt, str] = field(default_factory=dict, compare=False, repr=False)
    """Each prompt's file and line, in the file's order; for copies the first line."""

    @property
    def sha256(self) -> str:
        """Digest of both lists in order; a resumed run checks its prompts with it."""
        lists = [[prompt.turns for prompt in part] for part in (self.train, self.heldout)]
        return sha256(json.dumps(lists).encode()).hexdigest()

    def with_system(self, system: str | None) -> PromptSet:
        """Add a system prompt to each prompt that has none of its own."""
        if not system:
            return self

        def add(prompt: Prompt) -> Prompt:
            if prompt.turns[0][0] == "system":
                return prompt
            return Prompt((("system", system), *prompt.turns))

        return replace(
            self,
            train=tuple(map(add, self.train)),
            heldout=tuple(map(add, self.heldout)),
            places={add(prompt): place for prompt, place in self.places.items()},
        )


def load_shipped() -> PromptSet:
    """Load szpo's own 256 everyday requests: 160 to train on, 96 held out.

    >>> prompts = load_shipped()
    >>> len(prompts.train), len(prompts.heldout)
    (160, 96)
    """
    text = files("szpo").joinpath("data", "prompts.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return PromptSet(
        tuple(Prompt.user(row["text"]) for row in rows if row["split"] == "train"),
        tuple(Prompt.user(row["text"]) for row in rows if row["split"] == "heldout"),
    )


def load(path: str | Path, *, heldout: float = 0.25) -> PromptSet:
    """Load a user's prompts from a .jsonl, .csv, .json or .txt file.

    A record is a string, an object with ``text`` or ``prompt`` (and optionally ``system`` and
    ``split``), an object with ``messages``, or a list of messages ({"role", "content"}, the last
    one from the user). A text may also be such a list as JSON, or a transcript of HH-RLHF. A CSV
    file has a header with one of these columns; its separator is found; see
    `szpo.data.csv_tables.read_table`.

    If no record has a split, the share ``heldout`` in [0, 1) is held out by the hash of the text,
    so the file's order does not matter and copies of a prompt stay together.

    Raises:
        UsageError: the file, one of its lines, or ``heldout`` cannot be used.
    """
    if not 0 <= heldout < 1:
        raise UsageError(f"the held-out share must be at least 0 and below 1 (got {heldout})")
    path = Path(path)
    _check_file(path)
    values: Iterable[tuple[str, Any]]
    match path.suffix.lower():
        case ".csv":
            values = _csv(path)
        case ".jsonl" | ".json":
            values = _json(path)
        case _:
            values = ((f"{path}:{number}", line) for number, line in _lines(path))
    read = (_record(value, where) for where, value in values)
    records = [record for record in read if record is not None]
    if not records:
        raise UsageError(f"no prompts in {path}; write at least one, for example one per line")
    train, held, warnings = _split([(prompt, split) for prompt, split, _ in records], heldout)
    if not train:
        raise UsageError(f"{path}: every prompt is held out; mark some with split = train")
    places: dict[Prompt, str] = {}
    for prompt, _, where in records:
        places.setdefault(_clean(prompt), where)
    return PromptSet(
        tuple(map(_clean, train)),
        tuple(map(_clean, held)),
        (*_oddities((*train, *held)), *warnings),
        places,
    )


def load_configured(settings: Prompts, say: Callable[[str], None] | None = None) -> PromptSet:
    """Load the settings' prompts, with the system prompt; ``say`` is called with warnings.

    Raises:
        UsageError: their file, or one of its lines, cannot be used.
    """
    s = settings
    prompts = load_shipped()
    if s.path is not None:
        prompts = load(s.path)
    if say is not None:
        for warning in prompts.warnings:
            say(f"warning: {warning}")
    return prompts.with_system(settings.system)


def _check_file(path: Path) -> None:
    """Refuse a file that is too large, compressed or unreadable before its content is read."""
    size, head = text_files.inspect_file(path, "prompt file")
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            raise UsageError(f"{path} is {name}: compressed prompt files are not read; unpack it")
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: prompts are read from {', '.join(SUFFIXES)} files")
    limit = FILE_LIMIT // 8 if path.suffix.lower() == ".json" else FILE_LIMIT
    if size > limit:
        raise UsageError(f"{path} is {size:,} bytes; limit {limit:,}. Split it or use .jsonl")


def _limits() -> Limits:
    return Limits(LINE_LIMIT, FILE_LIMIT, FILE_LIMIT // 8)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with text_files.open_text(path, _limits()) as file:
        yield from text_files.read_lines(file, path, LINE_LIMIT)


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    bad: list[str] = []
    for where, value in text_files.read_json(path, _limits()):
        if isinstance(value, text_files.Unreadable):
            bad.append(f"{where}: not valid JSON ({value.reason})")
        elif not bad:
            yield where, value
    if bad:
        others = f"; {len(bad) - 1} more such lines" if len(bad) > 1 else ""
        raise UsageError(f"{bad[0]}{others}")


def _csv(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    known = (*KEYS, "split", *SYSTEM_KEYS, *UNREAD)
    for where, row in csv_tables.read_table(path, known, _limits()):
        if not set(KEYS) & set(row):
            raise UsageError(
                f"{path}:1: no column named {' or '.join(KEYS)} (found: {', '.join(row)}); "
                "call the one that holds the prompts prompt"
            )
        yield where, {name: cell for name, cell in row.items() if cell.strip()}


def _record(value: Any, where: str) -> tuple[Prompt, Split | None, str] | None:
    """Read one value as prompt, split and place; None for an empty text."""
    split: Split | None = None
    given: Mapping[str, Any] = {}
    if isinstance(value, dict):
        split = _split_name(value.get("split"), where)
        named = [key for key in KEYS if key in value]
        if not named:
            keys = text_files.list_keys(value)
            raise UsageError(f"{where}: needs text, prompt or messages (found: {keys})")
        given = {key: each for key, each in value.items() if key != named[0]}
        value = value[named[0]]
        if isinstance(value, str) and is_blank(value):
            raise UsageError(f"{where}: {named[0]} is empty")
        if rivals := [key for key in named[1:] if given[key] not in (value, "", None)]:
            raise UsageError(f"{where}: has {named[0]} and {rivals[0]}; leave one of them out")
    if isinstance(value, str) and is_blank(value):
        return None
    value = messages.unpack(value, where)
    if isinstance(value, str):
        turns: Turns = messages.read_transcript(value, where) or (("user", value.strip()),)
    elif isinstance(value, list):
        turns = messages.conversation(value, where)
    else:
        raise UsageError(f"{where}: a prompt must be text or a list of messages")
    turns = messages.add_system(turns, given, where)
    for _, text in turns:
        if "\0" in text:
            raise UsageError(f"{where}: holds a NUL character; remove it")
        if len(text) > LINE_LIMIT:
            raise UsageError(f"{where}: a text of {len(text):,} characters; limit {LINE_LIMIT:,}")
    return Prompt(turns), split, where


def _split_name(value: Any, where: str) -> Split | None:
    if value is None:
        return None
    name = str(value).strip().lower()
    if name in ("train", "training"):
        return "train"
    if name in _HELD:
        return "heldout"
    raise UsageError(f"{where}: split must be train or heldout (got {value!r})")


def _split(
    records: list[tuple[Prompt, Split | None]], share: float
) -> tuple[list[Prompt], list[Prompt], tuple[str, ...]]:
    if any(split for _, split in records):
        train = [prompt for prompt, split in records if split != "heldout"]
        marked = [prompt for prompt, split in records if split == "heldout"]
        trained, told = set(train), []
        held = [prompt for prompt in marked if prompt not in trained]
        if both := len(marked) - len(held):
            told.append(f"{both} held-out prompts stand in training too (not held out)")
        if share and not held:
            told.append("no prompt is held out, so nothing is measured; mark some split=heldout")
        return train, held, tuple(told)
    distinct = sorted(
        {prompt for prompt, _ in records},
        key=lambda prompt: sha256(json.dumps(prompt.turns).encode()).digest(),
    )
    aside = set(distinct[: ceil(share * len(distinct))])
    warnings: tuple[str, ...] = ()
    if share and len(distinct) < 2:
        aside = set()
        warnings = ("only one prompt: none is held out, so nothing is measured; write more",)
    train = [prompt for prompt, _ in records if prompt not in aside]
    return train, [prompt for prompt, _ in records if prompt in aside], warnings


def _clean(prompt: Prompt) -> Prompt:
    """Replace lone surrogates, which UTF-8 cannot hold, by the replacement character."""
    return Prompt(tuple((role, _SURROGATE.sub("\ufffd", text)) for role, text in prompt.turns))


def _oddities(prompts: tuple[Prompt, ...]) -> tuple[str, ...]:
    copies = sum(count - 1 for count in Counter(prompts).values())
    texts = ["".join(text for _, text in prompt.turns) for prompt in prompts]
    marked = sum(bool(HIDDEN.search(text)) for text in texts)
    broken = sum(bool(_SURROGATE.search(text)) for text in texts)
    control = sum(map(text_files.has_control, texts))
    spoken = sum(bool(_ANSWERED.search(text)) for text in texts)
    counts = (
        (copies, "duplicate prompts (used as they are)"),
        (marked, "prompts with direction marks or other hidden characters (used as they are)"),
        (control, text_files.WITH_CONTROL),
        (spoken, "prompts that hold an answer too, such as after ### Assistant: (kept as text)"),
        (broken, "prompts with broken characters (each replaced by \ufffd)"),
    )
    return tuple(f"{count} {what}" for count, what in counts if count)
