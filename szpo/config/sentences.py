"""The sentences of the panelist's screen, from one file, of which an operator may name a copy.

A sentence is named by its place, such as ``page.round`` or ``page.consent.0``; ``{round}`` in it
is a blank that the screen fills.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any, Final

from szpo.errors import UsageError

if TYPE_CHECKING:  # it takes a while, and a page before the run needs `ENGLISH` at once
    from szpo.config.tables import Panel

FILE: Final = resources.files("szpo.config") / "en.toml"
"""The file with szpo's own sentences, which a translator copies."""
ENGLISH: Final[dict[str, Any]] = tomllib.loads(FILE.read_text(encoding="utf-8"))
LANG: Final = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")
DEFAULTS: Final = {
    "question": ("question",), "guideline": ("guideline_default", "guideline_full_default"),
}  # fmt: skip
"""Settings that the operator may leave at their default, with the page's sentences for them."""
MOST_NAMED: Final = 5
"""Most sentences that a refusal names."""


def read(path: Path) -> dict[str, Any]:
    """The sentences of an operator's file.

    Raises:
        UsageError: it cannot be read, or its sentences are not those of `FILE`.
    """
    from szpo.config import settings_file  # a page before the run needs `ENGLISH` at once

    if not path.is_file():
        raise UsageError(f"panel.sentences: there is no file {path}; copy {FILE} and translate it")
    found = settings_file.read(path)
    own, told = _flatten(found), f"panel.sentences: {path.name}"
    if lacking := [name for name in _ENGLISH if name not in own]:
        raise UsageError(f"{told} lacks {name_some(lacking)}; copy what is missing from {FILE}")
    if unknown := [name for name in own if name not in _ENGLISH]:
        raise UsageError(f"{told} has {name_some(unknown)}, which no page shows; leave that out")
    if not _fits("lang", own["lang"]):
        raise UsageError(f"{told}: lang is no language tag; give one, such as de or zh-Hans")
    if wrong := [name for name, text in own.items() if not _fits(name, text)]:
        english = _ENGLISH[wrong[0]]
        raise UsageError(f"{told}: {wrong[0]} has other blanks than {english!r}; keep these")
    return found


def rubric(panel: Panel, page: Mapping[str, Any], *, rows: bool) -> Panel:
    """The settings, with a default question and default guidelines from the page's sentences."""
    default, kind = type(panel)(), "_rows" if rows else ""
    shown = {
        name: "\n".join(page.get(f"{code}{kind}", page[code]) for code in codes)
        for name, codes in DEFAULTS.items()
        if getattr(panel, name) == getattr(default, name)
    }
    return panel.model_copy(update=shown)


def consent(page: Mapping[str, Any], *, moves: bool) -> list[str]:
    """The text of consent; ``moves``: votes change the model."""
    return [page["consent_moves"] if moves else page["consent_still"], *page["consent"]]


def complete(recorded: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A record's sentences for this version's screen, and the names of those it lacks.

    These are in English; what this version does not show is left out.
    """
    own, lacking = _flatten(recorded), list[str]()

    def fill(at: Any, name: str) -> Any:
        if isinstance(at, dict):
            return {key: fill(part, f"{name}.{key}".lstrip(".")) for key, part in at.items()}
        if isinstance(at, list):
            return [fill(part, f"{name}.{i}") for i, part in enumerate(at)]
        if name in own and _fits(name, own[name]):
            return own[name]
        lacking.append(name)
        return at

    return fill(ENGLISH, ""), lacking


def _flatten(at: Any, name: str = "") -> dict[str, str]:
    """Every sentence by its name; values that are no text, and empty ones, count as missing."""
    if isinstance(at, str):
        return {name: at} if at.strip() else {}
    if not isinstance(at, dict | list):
        return {}
    found: dict[str, str] = {}
    for key, part in at.items() if isinstance(at, dict) else enumerate(at):
        found |= _flatten(part, f"{name}.{key}".lstrip("."))
    return found


_ENGLISH: Final = _flatten(ENGLISH)


def _fits(name: str, text: str) -> bool:
    """Whether a sentence can stand for the English one: it has the same blanks."""
    if name == "lang":
        return bool(LANG.fullmatch(text))
    try:
        return _blanks(text) == _blanks(_ENGLISH[name])
    except ValueError:  # a lone brace
        return False


def _blanks(text: str) -> set[tuple[Any, ...]]:
    return {tuple(part[1:]) for part in Formatter().parse(text) if part[1] is not None}


def name_some(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
