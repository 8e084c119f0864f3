"""The panelist's sentences: one file for each language, and the choice of a reader's language.

`CODE.toml` beside this file holds every sentence of one language; ``{name}`` stands for what is
filled in. Whoever adds a language adds such a file, and nothing else.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:  # it loads NumPy, for which a run's first page would wait
    from szpo.types import Choice

KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "A": ("←", "1"), "tie": ("2", "0"), "B": ("→", "3"), "confirm": ("Enter",),
    "clear": ("Esc",), "step": ("J", "K"), "note": ("Q", "W", "E"), "marks": ("D",),
    "view": ("F",), "skip": ("S",), "change": ("U",), "guideline": ("I",), "break": ("P",),
    "help": ("?",),
}  # fmt: skip
"""The keys of each shortcut, which are the same in every language."""
LONGEST_HEADER: Final = 200
"""How many characters of a browser's Accept-Language are read."""


@dataclass(frozen=True, slots=True)
class Language:
    """All that panelists read of szpo in one language, as its file has them."""

    code: str
    """The name of its file, and what a browser calls it: ``de``."""
    name: str
    """The language's own name for itself."""
    short: str
    """The same in a few letters, for the button in the header."""
    tag: str
    """The value of HTML's ``lang``."""
    native: bool
    """A native speaker has read it."""
    choices: Mapping[Choice, str]
    reasons: Mapping[str, str]
    """Reasons to skip a comparison, by the code that is stored."""
    signs: Mapping[str, str]
    times: Mapping[str, str]
    shortcuts: Mapping[str, str]
    page: Mapping[str, Any]
    """Sentences of the templates."""
    notices: Mapping[str, str]
    """Lines above the screen, by code."""
    live: Mapping[str, str]
    """Sentences of the script."""
    entrance: Mapping[str, Any]
    """Of the pages before the panel: login, a study's open link, a run that is being set up."""
    practice: Sequence[Mapping[str, str]]
    """Prompt, better and worse answer of each row of the practice comparison."""

    def consent(self, second: bool) -> list[str]:
        """What people agree to; ``second``: some comparisons are shown to one more person."""
        return [*self.page["consent"], *([self.page["consent_second"]] if second else [])]

    def roughly(self, seconds: float) -> str:
        """An estimated time in round words.

        >>> ENGLISH.roughly(50), ENGLISH.roughly(95), ENGLISH.roughly(4000)
        ('about 50 seconds', 'about 2 minutes', 'about 1 hour')
        """
        if seconds < 90:
            return self.times["seconds"].format(count=max(5, round(seconds / 5) * 5))
        if seconds < 3570:
            return self.times["minutes"].format(count=round(seconds / 60))
        hours = round(seconds / 3600)
        return self.times["hour" if hours == 1 else "hours"].format(count=hours)

    def spent(self, seconds: float) -> str:
        """A time that has passed, in round words.

        >>> ENGLISH.spent(0.4), ENGLISH.spent(400)
        ('under a minute', 'about 7 minutes')
        """
        return self.times["under"] if seconds < 60 else self.roughly(seconds)


def _read_all() -> dict[str, Language]:
    """Every language of the folder, by code; English, which the others follow, first."""
    folder = resources.files("szpo_ui.web")
    found = {}
    for file in folder.iterdir():
        code, _, ending = file.name.partition(".")
        if ending == "toml":
            found[code] = Language(code, **tomllib.loads(file.read_text(encoding="utf-8")))
    return {code: found[code] for code in sorted(found, key=lambda code: (code != "en", code))}


LANGUAGES: Final[Mapping[str, Language]] = _read_all()
ENGLISH: Final = LANGUAGES["en"]


def choose_language(chosen: str, header: str | None) -> Language:
    """The language that a reader has chosen, else the first of their browser's that there is.

    ``header`` is an Accept-Language (RFC 9110, 12.5.4); English where nothing in it is known.

    >>> choose_language("", "fr-CH, de-AT;q=0.8, en;q=0.9").code
    'en'
    >>> choose_language("zh", "de").code
    'zh'
    """
    if chosen in LANGUAGES:
        return LANGUAGES[chosen]
    best, found = 0.0, ENGLISH
    for part in (header or "")[:LONGEST_HEADER].split(","):
        tag, _, quality = part.partition(";")
        language = LANGUAGES.get(tag.strip().partition("-")[0].lower())
        if language is not None and (weight := _weight(quality)) > best:
            best, found = weight, language
    return found


def _weight(quality: str) -> float:
    """The weight behind a language's name, 0 to 1; 1 where none stands there, 0 for nonsense.

    >>> _weight(""), _weight(" q=0.5"), _weight("q=x"), _weight("q=nan")
    (1.0, 0.5, 0.0, 0.0)
    """
    name, _, value = quality.partition("=")
    if not name.strip():
        return 1.0
    try:
        weight = float(value)
    except ValueError:
        return 0.0
    return weight if 0 <= weight <= 1 else 0.0
