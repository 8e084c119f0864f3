"""The sentences that the panelist's pages show, and how they say a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from szpo.config import sentences

if TYPE_CHECKING:  # it loads NumPy, which would delay a run's first page
    from szpo.types import Choice

_EVERYWHERE: Final = {
    "marks": ("D",), "view": ("F",), "guideline": ("I",), "break": ("P",), "help": ("?",)
}  # fmt: skip
KEYS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "batch": {
        "A": ("←", "1"), "tie": ("2", "0"), "B": ("→", "3"), "confirm": ("Enter",),
        "clear": ("Esc",), "step": ("J", "K"), "note": ("Q", "W", "E"), "skip": ("S",),
        "change": ("U",), **_EVERYWHERE,
    },
    "rows": {
        "A": ("←", "1"), "tie": ("↓", "2"), "B": ("→", "3"), "back": ("↑", "K"),
        "forward": ("J",), "send": ("Enter",), "skip": ("S",), "harmful": ("H",), "undo": ("U",),
        **_EVERYWHERE,
    },
}  # fmt: skip
"""The keys of each shortcut, by what a verdict is on."""


@dataclass(frozen=True, slots=True, eq=False)
class Sentences:
    """All sentences for panelists, by the tables of their file."""

    lang: str
    """The value of HTML's ``lang``."""
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

    def consent(self, moves: bool) -> list[str]:
        """The text of consent; see `szpo.config.sentences.consent`."""
        return sentences.consent(self.page, moves=moves)

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


ENGLISH: Final = Sentences(**sentences.ENGLISH)


def of_record(recorded: dict[str, Any] | None) -> Sentences:
    """The sentences that a run recorded, completed by the English ones; None: these alone."""
    return ENGLISH if recorded is None else Sentences(**sentences.complete(recorded)[0])
