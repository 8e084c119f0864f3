"""Read other people's text files with limits: numbered lines, UTF-8, JSON, clear errors."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Final

from szpo.errors import UsageError
from szpo.ledger import canonical
from szpo.types import Answer, Prompt

CONTROL_WORDS: Final = (
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|start_header_id|>",
    "<|end_header_id|>", "<|begin_of_text|>", "<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>",
    "<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<|user|>", "<|assistant|>",
    "<|system|>", "<|end|>",
)  # fmt: skip
"""Control words of common chat models, for where no tokenizer is at hand."""


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
        yield number, decode(raw, f"{path}:{number}", first=number == 1)


def decode(raw: bytes, where: str, *, first: bool = True) -> str:
    """Decode bytes as UTF-8; at the beginning of a file (``first``) drop a byte order mark."""
    try:
        return raw.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        byte = raw[error.start]
        raise UsageError(f"{where}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8") from (
            error
        )


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A text that is not JSON, and why."""

    reason: str
    line: int | None = None
    """The line of the error, from 1; None if the parser gives none."""


def parse_json(text: str) -> Any:
    """Parse a text as JSON; returns `Unreadable` if it is not JSON."""
    try:
        return json.loads(text)
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
