r"""Named features of an answer, such as its length: what an operator may fit votes to.

``length``, ``politeness``, ``keyword:sea+sun``, ``regex:PATTERN``, ``tokens:smollm2`` …: names
separated by commas, an argument after a colon, several words of an argument joined by ``+``; a
comma inside an argument is written ``\,``. A feature is a number for one answer to one prompt;
that of a batch is the mean over its D rows, so identical rows add nothing to a difference.

A name that is not built in is looked up in the entry-point group ``szpo.features``: a callable
that takes what follows the colon (None where there is nothing) and gives such a function.
"""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, TypeAlias

import numpy as np

from szpo import plugins
from szpo.errors import UsageError
from szpo.metrics import repetition, words
from szpo.types import Answer, Comparison, Floats, Prompt

Score: TypeAlias = Callable[[Prompt, Answer], float]
"""A number for one answer to one prompt; a pure function of the two."""
Maker: TypeAlias = Callable[[str | None], Score]
"""Builds a score from what follows the colon."""

POLITE = (
    "please", "thank you", "thanks", "sorry", "excuse me", "pardon", "welcome", "kindly",
    "would you", "could you", "may i", "i appreciate", "glad to", "happy to", "my pleasure",
)  # fmt: skip
"""Marks of politeness in English, among those that Danescu-Niculescu-Mizil et al. (2013) list."""
HEDGES = (
    "maybe", "perhaps", "possibly", "probably", "might", "may", "could", "seems", "seem",
    "appears", "i think", "i believe", "i guess", "sort of", "kind of", "rather", "somewhat",
)  # fmt: skip
"""Words that soften a claim in English."""


@dataclass(frozen=True)
class Feature:
    """A feature as it was named, and its function."""

    name: str
    score: Score

    def difference(self, comparison: Comparison) -> float:
        """Mean of plus minus mean of minus over all D rows.

        Raises:
            UsageError: it is not a finite number.
        """
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


@cache
def _vader() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


@lru_cache(maxsize=65_536)  # by far the slowest of them, and answers come more than once
def sentiment(text: str) -> float:
    """VADER's compound sentiment, in [-1, 1]; 0 for a neutral or empty text."""
    return float(_vader().polarity_scores(text)["compound"])


def phrases(text: str, wanted: Sequence[str]) -> int:
    """How often the phrases occur as whole words, any case.

    >>> phrases("Thank you, thanks; maybe.", POLITE)
    2
    """
    line = " " + " ".join(words(text)) + " "
    return sum(line.count(f" {phrase} ") for phrase in wanted)


def sentences(text: str) -> int:
    """Sentences by their closing marks; a text with words has at least one.

    >>> sentences("Rain. Again?! Well"), sentences("3.5 mm of rain"), sentences("")
    (3, 1, 0)
    """
    parts = re.split(r"[.!?]+(?=[\s\"'”’)]|$)", text)
    return sum(bool(words(part)) for part in parts)


def syllables(word: str) -> int:
    """Syllables of an English word by its groups of vowels, at least one.

    >>> [syllables(word) for word in ("rain", "table", "created", "like", "the")]
    [1, 2, 2, 1, 1]
    """
    groups = len(re.findall(r"[aeiouy]+", word))
    silent = word.endswith("e") and not word.endswith(("le", "ee")) and groups > 1
    return max(1, groups - silent)


def reading_ease(text: str) -> float:
    """Flesch's (1948) reading ease of an English text, cut to [-100, 122]; 0 without words.

    206.835 − 1.015 · words per sentence − 84.6 · syllables per word.

    >>> round(reading_ease("The cat sat on the mat."), 3)
    116.145
    """
    found = words(text)
    if not found:
        return 0.0
    per_word = sum(map(syllables, found)) / len(found)
    ease = 206.835 - 1.015 * len(found) / max(sentences(text), 1) - 84.6 * per_word
    return min(max(ease, -100.0), 122.0)


def overlap(prompt: Prompt, answer: Answer) -> float:
    """Share of the question's different words that the answer takes up, in [0, 1]."""
    asked = set(words(prompt.text))
    return len(asked & set(words(answer.text))) / len(asked) if asked else 0.0


def _emoji(text: str) -> int:
    return sum(unicodedata.category(c) == "So" for c in text)


def _per_text(count: Callable[[str], float]) -> Maker:
    """A feature of the answer's text alone, without an argument."""

    def make(argument: str | None) -> Score:
        if argument is not None:
            raise UsageError("takes nothing after a colon")
        return lambda prompt, answer: float(count(answer.text))

    return make


def _overlap(argument: str | None) -> Score:
    if argument is not None:
        raise UsageError("takes nothing after a colon")
    return overlap


def _keyword(argument: str | None) -> Score:
    wanted = [part.strip().lower() for part in (argument or "").split("+") if part.strip()]
    if not wanted or any(words(word) != [word] for word in wanted):
        raise UsageError("needs whole words joined by +, as in keyword:sea+sun")
    return lambda prompt, answer: (
        sum(word in used for word in wanted) / len(wanted)
        if (used := set(words(answer.text)))
        else 0.0
    )


def _regex(argument: str | None) -> Score:
    if not argument:
        raise UsageError("needs a pattern, as in regex:^Once")
    try:
        pattern = re.compile(argument)
    except re.error as error:
        raise UsageError(f"not a regular expression ({error})") from error
    return lambda prompt, answer: float(len(pattern.findall(answer.text)))


def _tokens(argument: str | None) -> Score:
    if not argument:
        raise UsageError("needs a model, as in tokens:smollm2 (a name, a folder or a hub id)")
    from szpo.models import loading

    count = loading.token_counter(argument)
    return lambda prompt, answer: float(count(answer.text))


FEATURES: dict[str, tuple[Maker, str]] = {
    "length": (_per_text(lambda text: len(words(text))), "words"),
    "characters": (_per_text(len), "characters"),
    "tokens": (_tokens, "tokens of a model, as in tokens:smollm2"),
    "sentences": (_per_text(sentences), "sentences"),
    "readability": (_per_text(reading_ease), "Flesch's reading ease (English)"),
    "politeness": (_per_text(lambda text: phrases(text, POLITE)), "polite phrases (English)"),
    "hedges": (_per_text(lambda text: phrases(text, HEDGES)), "softening words (English)"),
    "sentiment": (_per_text(sentiment), "VADER's sentiment, −1 to 1 (English)"),
    "questions": (_per_text(lambda text: text.count("?")), "question marks"),
    "exclamations": (_per_text(lambda text: text.count("!")), "exclamation marks"),
    "numbers": (_per_text(lambda text: len(re.findall(r"\d+", text))), "numbers in digits"),
    "bullets": (
        _per_text(lambda text: len(re.findall(r"(?m)^\s*(?:[-*•]|\d+[.)]) \S", text))),
        "lines of a list",
    ),
    "emoji": (_per_text(_emoji), "pictorial signs"),
    "repetition": (_per_text(repetition), "share of word pairs that repeat earlier ones, 0 to 1"),
    "overlap": (_overlap, "share of the question's words taken up, 0 to 1"),
    "keyword": (_keyword, "share of the named words used, as in keyword:sea+sun"),
    "regex": (_regex, "occurrences of a pattern, as in regex:^Once"),
}
"""Maker and meaning by name; installed packages may add more."""
PLAIN: tuple[str, ...] = tuple(
    name for name in FEATURES if name not in ("tokens", "keyword", "regex")
)
"""The built-in features that need no argument."""


def parse(text: str) -> tuple[Feature, ...]:
    """The features that a text names; ``all`` stands for every built-in one without argument.

    Raises:
        UsageError: no such feature, an argument does not fit, or one is named twice.

    >>> [feature.name for feature in parse("length, keyword:sea+sun")]
    ['length', 'keyword:sea+sun']
    """
    parts = [part.replace("\\,", ",").strip() for part in re.split(r"(?<!\\),", text)]
    named = [one for part in parts for one in (PLAIN if part == "all" else (part,)) if one]
    if not named:
        raise UsageError(f"no feature is named; there are: {list_names()}")
    twice = next((one for one in named if named.count(one) > 1), None)
    if twice is not None:
        raise UsageError(f"feature {twice!r} is named twice; name it once")
    return tuple(_feature(one) for one in named)


def list_names() -> str:
    """The names of all features, those of installed packages included, as one line."""
    added = [name for name in plugins.names("szpo.features") if name not in FEATURES]
    return ", ".join((*FEATURES, *added))


def _feature(text: str) -> Feature:
    name, colon, argument = text.partition(":")
    name = name.strip()
    if name in FEATURES:
        maker = FEATURES[name][0]
    else:
        if name not in plugins.names("szpo.features"):
            close = difflib.get_close_matches(name, FEATURES, n=1)
            hint = f' did you mean "{close[0]}"?' if close else ""
            raise UsageError(f"no feature {name!r};{hint} there are: {list_names()}")
        maker = plugins.load("szpo.features", name, "feature")
    try:
        return Feature(text, maker(argument if colon else None))
    except UsageError as error:
        raise UsageError(f"feature {text!r}: {error}") from error
