r"""Features of an answer by name, to which an operator may fit votes.

Names are separated by commas: ``length, keyword:sea+sun, regex:PATTERN, tokens:smollm2``. They are
entries of the dictionary (`szpo.features.dictionary`), features that
`szpo.features.user_features` builds, and tokens. An argument follows a colon; ``+`` joins its
words, and a comma in it is written ``\,``. A batch's feature is the mean over its D rows, so
identical rows add nothing to a difference.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from szpo import plugins
from szpo.errors import UsageError
from szpo.features.dictionary import BY_NAME, Count, read_answer
from szpo.features.user_features import build
from szpo.types import Answer, Comparison, Floats, Prompt

Score: TypeAlias = Callable[[Prompt, Answer], float]
"""A number for one answer to one prompt; a pure function of the two."""
WITH_ARGUMENT: Final = {
    "tokens": "tokens of a model, as in tokens:smollm2",
    "keyword": "share of the named words used, as in keyword:sea+sun",
    "regex": "matches of a pattern, as in regex:^Once",
}
"""Meaning by name of the features that need an argument."""


@dataclass(frozen=True)
class Feature:
    """A feature as it was named, and its function."""

    name: str
    score: Score

    def __str__(self) -> str:
        return self.name

    def difference(self, comparison: Comparison) -> float:
        """Mean of plus minus mean of minus over all D rows."""
        try:
            gaps = [
                float(self.score(row.prompt, row.plus)) - float(self.score(row.prompt, row.minus))
                for row in comparison.rows
                if not row.identical
            ]
            value = math.fsum(gaps) / max(len(comparison.rows), 1)
        except (TypeError, ValueError, OverflowError) as error:
            raise UsageError(
                f"feature {self.name}: {error} in comparison {comparison.id}"
            ) from error
        if not math.isfinite(value):
            raise UsageError(
                f"feature {self.name}: {value} in comparison {comparison.id}; it must give a "
                "finite number for every answer"
            )
        return value


def differences(features: Sequence[Feature], comparisons: Sequence[Comparison]) -> Floats:
    """Differences plus − minus, (comparisons, features), in the features' own units."""
    found = [[feature.difference(c) for feature in features] for c in comparisons]
    return np.array(found, dtype=np.float64).reshape(len(comparisons), len(features))


def _score(count: Count) -> Score:
    def score(prompt: Prompt, answer: Answer) -> float:
        numerator, denominator = count(read_answer(prompt.text, answer.text))
        return numerator / denominator

    return score


def _tokens(argument: str) -> Score:
    if not argument:
        raise UsageError("needs a model, as in tokens:smollm2 (a name, a folder or a hub id)")
    from szpo.models import loading

    count = loading.token_counter(argument)
    return lambda prompt, answer: float(count(answer.text))


def meanings() -> dict[str, str]:
    """A description of every feature, by name; those of installed packages come last."""
    found = {name: f"{each.more}; {each.unit} ({each.group})" for name, each in BY_NAME.items()}
    found |= WITH_ARGUMENT
    for name, point in plugins.names("szpo.features").items():
        found.setdefault(name, f"of {point.value.split(':')[0]}")
    return found


def parse(text: str, *, functions: bool = True) -> tuple[Feature, ...]:
    """Parse the features that a text names; ``all`` stands for every entry of the dictionary.

    ``functions``: allow a function of any package; give False for a text from a record.

    >>> [feature.name for feature in parse("length, keyword:sea+sun")]
    ['length', 'keyword:sea+sun']
    """
    parts = [part.replace("\\,", ",").strip() for part in re.split(r"(?<!\\),", text)]
    named = [one for part in parts for one in (BY_NAME if part == "all" else (part,)) if one]
    if not named:
        raise UsageError(f"no feature is named; there are: {', '.join(meanings())}")
    twice = next((one for one in named if named.count(one) > 1), None)
    if twice is not None:
        raise UsageError(f"feature {twice!r} is named twice; name it once")
    return tuple(_feature(one, functions) for one in named)


def _feature(text: str, functions: bool) -> Feature:
    name, colon, argument = text.partition(":")
    name = name.strip()
    known = meanings()
    if name not in known and not (colon and functions):
        close = difflib.get_close_matches(name, known, n=1)
        hint = f' did you mean "{close[0]}"?' if close else ""
        raise UsageError(
            f"no feature {name!r};{hint} docs/reference/features.md has all; one of your own is "
            "written in full, such as keyword:sea+sun or regex:^Once"
        )
    try:
        if name in BY_NAME:
            if colon:
                raise UsageError("takes nothing after a colon")
            return Feature(text, _score(BY_NAME[name].count))
        if name == "tokens":
            return Feature(text, _tokens(argument))
        if name in known and name not in WITH_ARGUMENT:  # with the whole prompt, not only its text
            maker = plugins.load("szpo.features", name, "feature")
            return Feature(text, maker(argument if colon else None))
    except UsageError as error:
        raise UsageError(f"feature {text!r}: {error}") from error
    return Feature(text, _score(build(text)[0].count))
