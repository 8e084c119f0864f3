"""UltraFeedback-style files (Cui et al. 2023): several rated completions of an instruction.

A record has ``prompt`` or ``instruction``, and ``completions``, each with a text under
``response``, ``text`` or ``content`` and a rating. Records with ``chosen`` and ``rejected`` are
read as TRL's format.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

from szpo.data import trl
from szpo.data.pairs import Preferences, make_pairs, make_prompt, require_text
from szpo.errors import UsageError

TEXTS = ("response", "text", "content")
RATINGS = ("score", "rating", "fine-grained_score", "overall_score")
"""Keys of a completion's own rating, used without annotations; the first that exists counts."""


def read_pairs(record: dict[str, Any], where: str) -> Preferences:
    """Read all n(n − 1)/2 pairs of a record's completions; equal ratings make ties."""
    if "completions" not in record:
        return trl.read_pairs(record, where)
    texts, ratings = [], []
    for place, item in list_completions(record, where):
        texts.append(_words(item, place))
        ratings.append(_rating(item, place))
    return make_pairs(
        read_prompt(record, where), texts, [-rating for rating in ratings], "ranking"
    )


def read_candidates(record: dict[str, Any], where: str) -> tuple[Any, list[str]]:
    """Read the prompt and texts of a record with unrated completions."""
    listed = list_completions(record, where)
    texts = [_words(item, place, blank=True) for place, item in listed]  # a model's may be empty
    return read_prompt(record, where), texts


def read_prompt(record: dict[str, Any], where: str) -> Any:
    """Read a record's prompt, which is a text or a list of messages."""
    key = "prompt" if "prompt" in record else "instruction"
    if record.get(key) is None:
        raise UsageError(f"{where}: needs prompt or instruction")
    return make_prompt(trl.read_turns(record[key], f"{where}: {key}"), record, where)


def list_completions(record: dict[str, Any], where: str) -> list[tuple[str, Any]]:
    """List a record's completions (at least two), each with its place for error messages."""
    listed = record.get("completions")
    if not isinstance(listed, list) or len(listed) < 2:
        raise UsageError(f"{where}: completions must be a list of at least two")
    return [(f"{where}: completion {i}", item) for i, item in enumerate(listed, start=1)]


def _words(item: Any, where: str, *, blank: bool = False) -> str:
    if isinstance(item, str):
        return require_text(item, where, blank=blank)
    for key in TEXTS if isinstance(item, dict) else ():
        if key in item:
            return require_text(item[key], f"{where}: {key}", blank=blank)
    raise UsageError(f"{where} needs its text under {', '.join(TEXTS)}")


def _rating(item: Any, where: str) -> float:
    """Mean rating over the annotated aspects if there are any, else the completion's own rating.

    Some overall scores of UltraFeedback are known to be wrong, so aspects have precedence.
    """
    aspects = item.get("annotations") if isinstance(item, dict) else None
    if isinstance(aspects, dict):
        rated = [a.get("Rating") for a in aspects.values() if isinstance(a, dict)]
        numbers = [value for value in map(_number, rated) if value is not None]
        if numbers:
            return sum(numbers) / len(numbers)
    for key in RATINGS if isinstance(item, dict) else ():
        value = _number(item.get(key))
        if value is not None:
            return value
    raise UsageError(f"{where} has no rating; give a number under {', '.join(RATINGS)}")


def _number(value: Any) -> float | None:
    """A finite number from a number or text; None for anything else, such as "N/A"."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if isfinite(number) else None
