"""Read and write TRL's preference format: prompt, chosen, rejected, as texts or as messages.

Reads the standard, conversational and implicit-prompt forms, and files that repeat the prompt in
both answers, such as the binarised UltraFeedback. Writes the conversational form with an explicit
prompt.
"""

from __future__ import annotations

from typing import Any, Final, get_args

from szpo.data import text_files
from szpo.data.pairs import (
    End,
    Pair,
    Preferences,
    Source,
    get_text,
    make_pair,
    make_prompt,
    require_text,
)
from szpo.data.prompts import Turns, conversation
from szpo.data.text_files import clean_answer
from szpo.errors import UsageError
from szpo.types import Answer, Prompt

MESSAGES: Final = "messages"
"""Key or column of all turns of a prompt, where it is more than one text."""


def to_record(pair: Pair) -> dict[str, Any]:
    """Make a record from a pair; ``source`` and ``votes`` say where the preference is from.

    ``chosen_end`` and ``rejected_end`` say whether an answer ended by itself or was cut at the
    limit; only the former is trained with an end token.

    >>> from szpo.types import Answer, Prompt
    >>> to_record(Pair(Prompt.user("Hello?"), Answer("Hi."), Answer("No.")))["chosen"]
    [{'role': 'assistant', 'content': 'Hi.'}]
    """
    return {
        "prompt": [{"role": role, "content": words} for role, words in pair.prompt.turns],
        "chosen": [{"role": "assistant", "content": pair.chosen.text}],
        "rejected": [{"role": "assistant", "content": pair.rejected.text}],
        "chosen_end": pair.chosen.end,
        "rejected_end": pair.rejected.end,
        "source": pair.source,
        "votes": pair.votes,
    }


def read_pairs(record: dict[str, Any], where: str) -> Preferences:
    """Read the pair of a record."""
    given = _given(record, where)
    (before, chosen), (also, rejected) = (
        _answer(record, key, where, given) for key in ("chosen", "rejected")
    )
    if before != also:
        raise UsageError(f"{where}: chosen and rejected do not share the prompt before the answer")
    if not before:
        raise UsageError(f"{where}: no prompt; give one as prompt or before both answers")
    ends = _end(record, "chosen"), _end(record, "rejected")
    return make_pair(
        make_prompt(before, record, where), chosen, rejected, *_evidence(record, where), ends
    )


def read_example(record: dict[str, Any], where: str) -> tuple[Prompt, Answer]:
    """Read a prompt with a good answer: ``prompt`` and ``completion``, or ``messages``.

    Each is text or messages, as in TRL's formats for supervised fine-tuning; the last message is
    the assistant's. The answer counts as complete.

    >>> read_example({"prompt": "Hello?", "completion": "Hi."}, "line 1")[1].text
    'Hi.'
    """
    key = MESSAGES if MESSAGES in record else "completion"
    given = _given(record, where)
    before, words = _answer(record, key, where, given)
    if not before:
        raise UsageError(f"{where}: no prompt; give one as prompt or before the answer")
    return make_prompt(before, record, where), clean_answer(Answer(words))


def read_prompt(record: dict[str, Any], where: str) -> Prompt:
    """Read a record's prompt: its messages, a list or that as JSON, else what it has as prompt."""
    given = record.get(MESSAGES)
    if isinstance(given, str) and given:
        given = text_files.parse_json(given)
    turns = given or record.get("prompt")
    if turns is None:
        raise UsageError(
            f"{where}: needs prompt, a text or a list of messages "
            f"(found: {text_files.list_keys(record)})"
        )
    return make_prompt(
        read_turns(turns, f"{where}: {MESSAGES if given else 'prompt'}"), record, where
    )


def read_turns(value: Any, where: str) -> Turns:
    """Read the turns of a prompt from a text or a list of messages."""
    if isinstance(value, str):
        return (("user", require_text(value, where)),)
    if isinstance(value, list):
        return conversation(value, where)
    raise UsageError(f"{where} must be text or a list of messages")


def _given(record: dict[str, Any], where: str) -> Turns | None:
    """The record's own prompt, if it has one."""
    value = record.get("prompt")
    return None if value is None else read_turns(value, f"{where}: prompt")


def _answer(
    record: dict[str, Any], key: str, where: str, prompt: Turns | None
) -> tuple[Turns, str]:
    """An answer's prompt and text; an answer without a prompt of its own has the record's."""
    value, blank = record.get(key), f"{key}_end" in record  # a model's answer may be empty
    if not isinstance(value, list):
        return prompt or (), get_text(record, key, where, blank=blank)
    place = f"{where}: {key}"
    last = value[-1] if value else None
    if not isinstance(last, dict) or last.get("role") != "assistant":
        raise UsageError(f"{place}: the last message must come from the assistant")
    words = get_text(last, "content", place, blank=blank)
    before = conversation(value[:-1], place) if len(value) > 1 else (prompt or ())
    rest = before[1:] if before and before[0][0] == "system" else before
    if prompt and prompt not in (before, rest):
        raise UsageError(f"{place}: the messages before the answer are not the record's prompt")
    return before, words


def _end(record: dict[str, Any], key: str) -> End:
    """Why an answer ended; "stop" if the file does not say."""
    return "length" if record.get(f"{key}_end") == "length" else "stop"


def _evidence(record: dict[str, Any], where: str) -> tuple[Source, int]:
    """A record's source and votes; with another project's source, both are ignored."""
    source: Any = record.get("source")
    votes = record.get("votes", 1)
    if source not in get_args(Source):
        return "file", 1
    if isinstance(votes, bool) or not isinstance(votes, int) or votes < 1:
        raise UsageError(f"{where}: votes must be a whole number of at least 1 (got {votes!r})")
    return source, votes
