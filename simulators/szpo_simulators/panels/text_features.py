"""Checks of form that a text passes or fails; named features as hidden rewards.

A verifier has a name, and some take an argument in round brackets: ``no_comma``,
``words_at_most(12)``. Each is exact and uses no model.

``verify:no_comma+question`` is a feature (`szpo.features`). ``feature:politeness`` is a reward, so
a weighted sum of features can be a simulated panel's reward:
``0.5*feature:politeness+-0.2*feature:length``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias, TypeVar

from szpo.analysis.features import Feature, Score, parse
from szpo.errors import UsageError
from szpo.metrics import words

Verifier: TypeAlias = Callable[[str], bool]

_CALL = re.compile(r"([a-z_]+)(?:\((.*)\))?", re.DOTALL)
_SENTENCE_END = re.compile(r"[.!?]+(?=[\s\"'”’)]|$)")

WORDED: dict[str, Callable[[str, str], bool]] = {
    "contains": lambda text, word: word.lower() in words(text),
    "avoids": lambda text, word: bool(text.strip()) and word.lower() not in words(text),
    "starts_with": lambda text, head: text.lstrip().lower().startswith(head.lower()),
    "ends_with": lambda text, tail: text.rstrip().lower().endswith(tail.lower()),
}
"""Verifiers that take a text."""
Kind = TypeVar("Kind")
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


def _sentences(text: str) -> int:
    return len(_SENTENCE_END.findall(text.strip()))


def _has_cased(text: str) -> bool:
    return text.lower() != text.upper()


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


def verify(argument: str | None) -> Score:
    """Share of the named checks of form that an answer passes, in [0, 1]."""
    if not argument:
        raise UsageError("needs checks joined by +, as in verify:no_comma+lowercase")
    checks = [verifier(name) for name in argument.split("+")]
    return lambda prompt, answer: sum(check(answer.text) for check in checks) / len(checks)


def bare(made: Kind) -> Callable[[str | None], Kind]:
    """A maker that returns ``made`` and refuses an argument after a colon."""

    def build(argument: str | None) -> Kind:
        if argument is not None:
            raise UsageError("takes nothing after a colon")
        return made

    return build


def reward(argument: str | None) -> Feature:
    """The named feature as a reward; refuses functions by module name, as records name rewards."""
    if not argument:
        raise UsageError("needs a feature, as in feature:politeness")
    (feature, *more) = parse(argument, functions=False)
    if more:
        raise UsageError("takes one feature; weigh several as 0.5*feature:length+feature:…")
    return feature


def checked(argument: str | None) -> Feature:
    """The share of the named checks of form that an answer passes, as a reward."""
    return Feature(f"verify:{argument}", verify(argument))
