"""Read other people's text files with limits: numbered lines, UTF-8 or 16, JSON, clear errors."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import stat
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Final

from szpo.errors import UsageError
from szpo.ledger import canonical
from szpo.types import Answer, Prompt

_PEEK: Final = 2**16
"""Bytes by which a file's encoding and line ends are told."""
CONTROL_WORDS: Final = (
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|start_header_id|>",
    "<|end_header_id|>", "<|begin_of_text|>", "<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>",
    "<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<|user|>", "<|assistant|>",
    "<|system|>", "<|end|>",
)  # fmt: skip
"""Control words of common chat models, for where no tokenizer is at hand."""
WITH_CONTROL: Final = (
    "prompts with control words of chat models, such as <|im_end|> (kept as text)"
)


def has_control(text: str) -> bool:
    """Whether a text holds one of `CONTROL_WORDS`."""
    return any(word in text for word in CONTROL_WORDS)


def inspect_file(path: Path, what: str) -> tuple[int, bytes]:
    """Return the size and the first bytes of a regular, readable file."""
    try:
        # stat, not open: opening a pipe would wait for a writer.
        facts = os.stat(path)
    except (OSError, ValueError) as error:
        why = "not found" if isinstance(error, FileNotFoundError) else str(error)
        raise UsageError(f"{what} {path}: {why}") from error
    if not stat.S_ISREG(facts.st_mode):
        raise UsageError(f"{what} {path} is not a regular file")
    try:
        with path.open("rb") as file:
            return facts.st_size, file.read(8)
    except OSError as error:
        raise UsageError(f"{what} {path}: {error.strerror or error}") from error


@dataclass(frozen=True, slots=True)
class Limits:
    """Most bytes of one line, of a whole file, and of one that is read at once."""

    line: int
    file: int
    at_once: int


@contextmanager
def open_text(path: Path, limits: Limits) -> Iterator[IO[bytes]]:
    """Open a text file, or one packed by gzip, as UTF-8 with lines that end in LF.

    UTF-16 is told by its byte order mark. It is read at once, as are lines that end in CR alone.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.open(raw) if packed else nullcontext(raw) as opened:
                file: Any = opened
                head = file.read(_PEEK)
                file.seek(0)
                wide = head.startswith((b"\xff\xfe", b"\xfe\xff"))
                if not wide and (b"\n" in head or b"\r" not in head):
                    yield file
                    return
                how = "utf-16" if wide else "utf-8-sig"
                text = decode(_all(file, path, limits), str(path), how)
                yield io.BytesIO(re.sub("\r\n?", "\n", text).encode())
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path} cannot be unpacked ({error}); fetch it again") from None


def _all(file: IO[bytes], path: Path, limits: Limits) -> bytes:
    if len(content := file.read(limits.at_once + 1)) > limits.at_once:
        raise UsageError(
            f"{path}: over {limits.at_once:,} bytes, and not one record on each line of UTF-8; "
            "save it so (.jsonl)"
        )
    return content


def read_lines(file: IO[bytes], path: object, limit: int) -> Iterator[tuple[int, str]]:
    """Yield each line's number and text; only one line is in memory."""
    number = 0
    while raw := file.readline(limit + 2):
        number += 1
        if len(raw.rstrip(b"\r\n")) > limit:
            size = len(raw)
            while not raw.endswith(b"\n") and (raw := file.readline(limit)):
                size += len(raw)
            raise UsageError(f"{path}: line {number} is {size:,} bytes; limit {limit:,}")
        yield number, decode(raw, f"{path}:{number}", "utf-8-sig" if number == 1 else "utf-8")


def decode(raw: bytes, where: str, encoding: str = "utf-8-sig") -> str:
    """Decode bytes; the usual encoding drops a byte order mark."""
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        byte = raw[error.start]
        kind = "UTF-16" if encoding == "utf-16" else "UTF-8"
        raise UsageError(
            f"{where}: byte 0x{byte:02x} is not {kind}; save the file as UTF-8"
        ) from error


def read_json(path: Path, limits: Limits) -> Iterator[tuple[str, Any]]:
    """Yield each record's place in a JSON file and its value; `Unreadable` if a line is not JSON.

    Whatever its name, the file has a record on each line, a list of records, or records one after
    the other that go over lines. Only the first form is read line by line.

    Raises:
        UsageError: it is too large, or a .json file is not JSON.
    """
    with open_text(path, limits) as file:
        if (whole := _at_once(file, path, limits)) is not None:
            yield from whole
            return
        for number, line in read_lines(file, path, limits.line):
            if file.tell() > limits.file:
                raise UsageError(f"{path}: over {limits.file:,} bytes at line {number}; split it")
            if line.strip():
                yield f"{path}:{number}", parse_json(line)


def _at_once(file: IO[bytes], path: Path, limits: Limits) -> list[tuple[str, Any]] | None:
    """The records of a file without one on each line; None if it has them."""
    first = next(filter(bytes.split, iter(lambda: file.readline(limits.line + 2), b"")), b"")
    more = any(map(bytes.split, iter(lambda: file.readline(_PEEK), b"")))
    file.seek(0)
    value = parse_json(first.decode("utf-8-sig", errors="replace"))
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    named, listed = suffixes[-1:] == [".json"], first.removeprefix(BOM_UTF8).lstrip()[:1] == b"["
    if isinstance(value, Unreadable):
        if len(first.rstrip(b"\r\n")) > limits.line and not (named or listed):
            return None
    elif more or not isinstance(value, list) or is_chat(value):
        return None
    try:
        values = _parse_all(decode(_all(file, path, limits), str(path)))
    except UsageError:
        if named:
            raise
        values = Unreadable("")
    file.seek(0)
    if isinstance(values, Unreadable):
        if not named:  # the first line is wrong, not the form
            return None
        where = f"{path}:{values.line}" if values.line else str(path)
        raise UsageError(f"{where}: not valid JSON ({values.reason})")
    if len(values) == 1:
        if not isinstance(values[0], list) or is_chat(values[0]):
            return [(str(path), values[0])]
        values = values[0]
    return [(f"{path}: record {number}", item) for number, item in enumerate(values, start=1)]


def is_chat(value: list[Any]) -> bool:
    """Whether a list is one conversation, not a list of records."""
    return bool(value) and all(isinstance(item, dict) and "role" in item for item in value)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A text that is not JSON, and why."""

    reason: str
    line: int | None = None
    """The line of the error, from 1; None if the parser gives none."""


def parse_json(text: str) -> Any:
    """Parse a text as JSON; returns `Unreadable` if it is not JSON."""
    return _parse(text, json.loads)


def _parse_all(text: str) -> list[Any] | Unreadable:
    """All values of a text that has one after the other."""

    def values(text: str) -> list[Any]:
        values, at, decoder = list[Any](), 0, json.JSONDecoder()
        while begin := re.compile(r"\S").search(text, at):
            value, at = decoder.raw_decode(text, begin.start())
            values.append(value)
        return values

    parsed: list[Any] | Unreadable = _parse(text, values)
    return parsed


def _parse(text: str, read: Callable[[str], Any]) -> Any:
    try:
        return read(text)
    except json.JSONDecodeError as error:
        return Unreadable(error.msg, error.lineno)
    except RecursionError:
        return Unreadable("nested too deeply")
    except ValueError:
        return Unreadable("a number too long")


def require_object(value: Any, where: str, what: str = "a record") -> dict[str, Any]:
    """Return a parsed value that must be an object; ``what`` names it in errors.

    Raises:
        UsageError: it is not an object.
    """
    if isinstance(value, Unreadable):
        raise UsageError(f"{where}: not valid JSON ({value.reason})")
    if not isinstance(value, dict):
        raise UsageError(f"{where}: {what} must be an object (got {type(value).__name__})")
    return value


def list_keys(record: Mapping[Any, Any]) -> str:
    """Name the keys of a record for an error message."""
    return ", ".join(map(str, record)) or "nothing"


def clean_prompt(prompt: Prompt) -> Prompt:
    """Make a prompt valid for UTF-8: lone surrogates become question marks.

    >>> clean_prompt(Prompt.user("Why " + chr(0xD83D) + "?")).text
    'Why ??'
    """
    turns = tuple((canonical.utf8(role), canonical.utf8(text)) for role, text in prompt.turns)
    return prompt if turns == prompt.turns else Prompt(turns)


def clean_answer(answer: Answer) -> Answer:
    """Make an answer's text valid for UTF-8, as in `clean_prompt`."""
    text = canonical.utf8(answer.text)
    return answer if text == answer.text else replace(answer, text=text)
