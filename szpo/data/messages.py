r"""Other people's messages as turns: lists of messages, such lists as text, and transcripts.

A message is {"role", "content"}, or ShareGPT's {"from", "value"}; roles are read in any case. A
transcript is HH-RLHF's: turns that begin with "\n\nHuman:" or "\n\nAssistant:". Parts of a message
that szpo does not read are refused, never dropped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from szpo.data import text_files
from szpo.errors import UsageError
from szpo.visible_text import is_blank

Turns: TypeAlias = tuple[tuple[str, str], ...]

ROLES: Final = ("system", "user", "assistant")
NAMES: Final = {"human": "user", "gpt": "assistant"}
"""Other names of roles."""
FORMS: Final = (("role", "content"), ("from", "value"))
"""Keys of a message."""
SYSTEM_KEYS: Final = ("system", "system_prompt")
UNREAD: Final = ("history", "input", "images", "tools")
"""Keys of a record under which other projects keep parts of a prompt."""
PARTS: Final = (
    "reasoning_content", "reasoning", "thinking", "tool_calls", "function_call", "images", "audio",
)  # fmt: skip
"""Keys of a message under which other projects keep what an answer consists of."""
_PRINTED: Final = (
    re.compile(r"(?:array\()?\[?\s*\{\s*'"),
    re.compile(r"'(?:role|from)'\s*:"),
    re.compile(r"\}\s*\]?(?:,\s*dtype=object\))?$"),
)
"""How messages as Python or NumPy prints them begin, what they contain, and how they end."""
_BAD: Final = ("0", "0.0", "-1", "-1.0", "false")
"""Labels of answers that are not to be learned from."""
TAG: Final = "\n\nAssistant:"
SPEAKERS: Final = {"Human": "user", "Assistant": "assistant"}
TURN: Final = re.compile(r"\n\n(Human|Assistant):")


def unpack(value: Any, where: str) -> Any:
    """The list of messages that a text is as JSON, or one message as a list; else the value.

    >>> unpack('[{"role": "user", "content": "Hello?"}]', "line 1")
    [{'role': 'user', 'content': 'Hello?'}]

    Raises:
        UsageError: it is such a list as Python prints it, which is no format.
    """
    parsed = value
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        parsed = text_files.parse_json(value)
    many = parsed if isinstance(parsed, list) else [parsed]
    if many and all(isinstance(m, dict) and any(f <= {*m} for f in map(set, FORMS)) for m in many):
        return many
    if isinstance(value, str) and _is_printed(value.strip()):
        raise UsageError(f"{where} holds messages as Python prints them; write them as JSON")
    return value


def _is_printed(text: str) -> bool:
    begin, key, end = _PRINTED  # one after the other: a single expression could take hours
    return bool(begin.match(text) and end.search(text[-60:]) and key.search(text))


def read_message(message: Any, where: str) -> tuple[Any, Any]:
    """A message's role, in lower case, and its content; text parts of a content are joined.

    Raises:
        UsageError: it is no message, or has parts that are not read.
    """
    if not isinstance(message, dict):
        raise UsageError(f"{where} must be an object with role and content")
    named, said = next((form for form in FORMS if form[0] in message), FORMS[0])
    role, content = message.get(named), message.get(said)
    if isinstance(role, str):
        role = NAMES.get(role.strip().lower(), role.strip().lower())
    if unread := [key for key in PARTS if message.get(key)]:
        raise UsageError(
            f"{where}: {unread[0]} is not read; write it into the content, or leave the record out"
        )
    if isinstance(content, list) and content:
        texts: list[Any] = [
            part.get("text") if isinstance(part, dict) else None for part in content
        ]
        if not all(isinstance(text, str) for text in texts):
            raise UsageError(f"{where}: content must be text, or a list of parts that are text")
        content = "".join(texts)
    return role, content


def conversation(messages: list[Any], where: str) -> Turns:
    """Read the turns of a list of messages, the last one from the user.

    A blank system prompt in front is none.
    """
    turns: list[tuple[str, str]] = []
    for index, message in enumerate(messages, start=1):
        place = f"{where}: message {index}"
        role, content = read_message(message, place)
        if role not in ROLES:
            raise UsageError(f"{place}: role must be one of {', '.join(ROLES)} (got {role!r})")
        if role == "system" and index > 1:
            raise UsageError(f"{place}: only the first message may be a system prompt")
        if role == "system" and (
            content is None or (isinstance(content, str) and is_blank(content))
        ):
            continue
        if not isinstance(content, str) or is_blank(content):
            raise UsageError(f"{place}: content must be text that is not empty")
        turns.append((role, content))
    if not turns or turns[-1][0] != "user":
        raise UsageError(f"{where}: the last message must come from the user")
    return tuple(turns)


def add_system(turns: Turns, record: Mapping[str, Any], where: str) -> Turns:
    """The turns of a record with its system prompt in front, if one stands beside them.

    Raises:
        UsageError: It is no text, not that of the turns, or the record has other parts of its
            prompt that are not read.
    """
    for key in UNREAD:
        if record.get(key):
            raise UsageError(
                f"{where}: {key} is not read; write all turns into the prompt, as messages"
            )
    key = next((key for key in SYSTEM_KEYS if record.get(key)), SYSTEM_KEYS[0])
    system, own = record.get(key), turns[0][1] if turns and turns[0][0] == "system" else None
    if system is not None and not isinstance(system, str):
        raise UsageError(f"{where}: {key} must be text")
    if not system or not system.strip() or system == own:
        return turns
    if own is not None:
        raise UsageError(f"{where}: {key} is not the system prompt of the messages; keep one")
    return (("system", system), *turns)


def read_transcript(text: str, where: str) -> Turns | None:
    r"""The turns of a text that is a transcript up to "Assistant:"; None for any other text.

    >>> read_transcript("\n\nHuman: Hello?\n\nAssistant: ", "line 1")
    (('user', 'Hello?'),)
    """
    whole = "\n\n" + text.replace("\r\n", "\n").strip()
    if not (whole.startswith("\n\nHuman:") and whole.endswith(TAG)):
        return None
    return parse_turns(whole, where)


def is_bad(record: Mapping[str, Any]) -> bool:
    """Whether a record's label says that its answer, or its order of two, is not the good one.

    >>> [is_bad({"label": label}) for label in (True, 1, "1", False, 0, "-1", "false", None)]
    [False, False, False, True, True, True, True, False]
    """
    label = record.get("label")
    return not label if isinstance(label, bool) else str(label).strip().lower() in _BAD


def parse_turns(prompt: str, where: str = "prompt") -> Turns:
    r"""Parse the turns of a prompt that ends with "Assistant:".

    Empty turns are left out, and consecutive turns of one speaker are joined.

    >>> parse_turns("\n\nHuman: Hello?\n\nAssistant: Hi.\n\nHuman: Bye.\n\nAssistant:")
    (('user', 'Hello?'), ('assistant', 'Hi.'), ('user', 'Bye.'))
    """
    before, *parts = TURN.split(prompt.removesuffix(TAG))
    if before.strip():
        raise UsageError(f"{where} begins before the first speaker; begin with \\n\\nHuman:")
    turns: list[tuple[str, str]] = []
    for speaker, text in zip(parts[::2], parts[1::2], strict=True):
        role, words = SPEAKERS[speaker], text.strip()
        if words and turns and turns[-1][0] == role:
            turns[-1] = (role, f"{turns[-1][1]}\n\n{words}")
        elif words:
            turns.append((role, words))
    if not turns or turns[-1][0] != "user":
        raise UsageError(f"{where}: the last turn before the answer must be Human's")
    return tuple(turns)
