"""Checks of form that a text passes or fails, as in instruction-following tests.

A verifier has a name, and some take an argument in round brackets: ``no_comma``,
``words_at_most(12)``. Each is exact and uses no model.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

from szpo.errors import UsageError
from szpo.metrics import words

Verifier: TypeAlias = Callable[[str], bool]

_CALL = re.compile(r"([a-z_]+)(?:\((.*)\))?", re.DOTALL)
_SENTENCE_END = re.compile(r"[.!?]+(?=[\s\"'”’)]|$)")


def _sentences(text: str) -> int:
    return len(_SENTENCE_END.findall(text.strip()))


def _has_cased(text: str) -> bool:
    return text.lower() != text.upper()


PLAIN: dict[str, Verifier] = {
    "lowercase": lambda text: _has_cased(text) and text == text.lower(),
    "uppercase": lambda text: _has_cased(text) and text == text.upper(),
    "no_comma": lambda text: bool(text.strip()) and "," not in text,
    "no_digit": lambda text: bool(text.strip()) and not any(c.isdigit() for c in text),
    "has_digit": lambda text: any(c.isdigit() for c in text),
    "full_stop": lambda text: text.rstrip().endswith("."),
    "question": lambda text: text.rstrip().endswith("?"),
    "exclaims": lambda text: "!" in text,
    "quoted": lambda text: len(t := text.strip()) > 1 and t[0] in '"“' and t[-1] in '"”',
    "one_line": lambda text: bool(t := text.strip()) and "\n" not in t,
    "no_repeat": lambda text: len(set(w := words(text))) == len(w) > 0,
}
"""Verifiers without an argument."""

COUNTED: dict[str, Callable[[str, int], bool]] = {
    "words_at_least": lambda text, n: len(words(text)) >= n,
    "words_at_most": lambda text, n: 0 < len(words(text)) <= n,
    "sentences": lambda text, n: _sentences(text) == n,
    "sentences_at_most": lambda text, n: 0 < _sentences(text) <= n,
    "bullets": lambda text, n: len(re.findall(r"(?m)^\s*[-*•] \S", text)) == n,
    "paragraphs": lambda text, n: len(re.findall(r"\S[\s\S]*?(?=\n\s*\n|\Z)", text)) == n,
}
"""Verifiers that take a whole number."""

WORDED: dict[str, Callable[[str, str], bool]] = {
    "contains": lambda text, word: word.lower() in words(text),
    "avoids": lambda text, word: bool(text.strip()) and word.lower() not in words(text),
    "starts_with": lambda text, head: text.lstrip().lower().startswith(head.lower()),
    "ends_with": lambda text, tail: text.rstrip().lower().endswith(tail.lower()),
}
"""Verifiers that take a text."""


def verifier(name: str) -> Verifier:
    """The verifier of this name.

    >>> verifier("no_comma")("Rain, again."), verifier("words_at_most(3)")("Rain, again.")
    (False, True)
    """
    match = _CALL.fullmatch(name.strip())
    head, argument = match.groups() if match else (name, None)
    if head in PLAIN and argument is None:
        return PLAIN[head]
    if head in COUNTED and argument is not None and argument.strip().isdecimal():
        check, number = COUNTED[head], int(argument)
        return lambda text: check(text, number)
    if head in WORDED and argument is not None and argument.strip():
        compare, word = WORDED[head], argument.strip()
        return lambda text: compare(text, word)
    known = (*PLAIN, *(f"{n}(3)" for n in COUNTED), *(f"{n}(word)" for n in WORDED))
    raise UsageError(f"no verifier {name!r}; there are {', '.join(known)}")
