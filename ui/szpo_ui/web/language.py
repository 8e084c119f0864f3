"""The panelist's sentences in every language, and the choice of a reader's language.

`CODE.toml` beside this file holds every sentence of one language; ``{name}`` is a placeholder. To
add a language, add such a file and nothing else.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:  # it loads NumPy, which would delay a run's first page
    from szpo.types import Choice

KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "A": ("←", "1"), "tie": ("2", "0"), "B": ("→", "3"), "confirm": ("Enter",),
    "clear": ("Esc",), "step": ("J", "K"), "note": ("Q", "W", "E"), "marks": ("D",),
    "view": ("F",), "skip": ("S",), "change": ("U",), "guideline": ("I",), "break": ("P",),
    "help": ("?",),
}  # fmt: skip
"""The keys of each shortcut, the same in every language."""
LONGEST_HEADER: Final = 200
"""Most characters of a browser's Accept-Language header to read."""


@dataclass(frozen=True, slots=True)
class Language:
    """All sentences for panelists in one language, from its file."""

    code: str
    """The name of its file and the language's code in browsers, such as ``de``."""
    name: str
    """The language's name in the language itself."""
    short: str
    """The name in a few letters, for the button in the header."""
    tag: str
    """The value of HTML's ``lang``."""
    native: bool
    """Whether a native speaker has read the sentences."""
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
    """Sentences of the pages before the panel: login, a study's open link, a run's set-up."""

    def consent(self, second: bool) -> list[str]:
        """The text of consent; ``second``: some comparisons are shown to a second person."""
        return [*self.page["consent"], *([self.page["consent_second"]] if second else [])]

    def roughly(self, seconds: float) -> str:
        """An estimated duration, rounded, in words.

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
        """An elapsed time, rounded, in words.

        >>> ENGLISH.spent(0.4), ENGLISH.spent(400)
        ('under a minute', 'about 7 minutes')
        """
        return self.times["under"] if seconds < 60 else self.roughly(seconds)


def _read_all() -> dict[str, Language]:
    """Every language of the folder by code, English first."""
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
    """The language that a reader has chosen, else the best available one for their browser.

    ``header`` is an Accept-Language header (RFC 9110, 12.5.4). If no language in it is available,
    the result is English.

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
    """The weight after a language's name, 0 to 1; 1 if it is missing, 0 if it is invalid.

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
