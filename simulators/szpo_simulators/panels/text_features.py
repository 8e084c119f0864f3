"""Checks of form that a text passes or fails; named features as hidden rewards.

Each check is exact and uses no model.

``verify:no_comma+question`` is a feature (`szpo.features`). ``feature:politeness`` is a reward, so
a weighted sum of features can be a simulated panel's reward:
``0.5*feature:politeness+-0.2*feature:length``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, TypeVar

from szpo.analysis.features import Feature, Score, parse
from szpo.errors import UsageError
from szpo.metrics import words

Verifier: TypeAlias = Callable[[str], bool]
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
"""Verifiers by name."""


def _has_cased(text: str) -> bool:
    return text.lower() != text.upper()


def verify(argument: str | None) -> Score:
    """Share of the named checks of form that an answer passes, in [0, 1]."""
    names = [name.strip() for name in (argument or "").split("+")]
    for name in names:
        if name not in PLAIN:
            raise UsageError(
                f"no verifier {name!r}; there are {', '.join(PLAIN)}, joined by + as in "
                "verify:no_comma+lowercase"
            )
    return lambda prompt, answer: sum(PLAIN[name](answer.text) for name in names) / len(names)


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
