"""The sentences that panelists read, from one file.

``{round}`` in a sentence is a blank that the screen fills.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:  # it takes a while, and a page before the run needs `ENGLISH` at once
    from szpo.config.tables import Panel
    from szpo.types import Choice

DEFAULTS: Final = {
    "question": ("question",), "guideline": ("guideline_default", "guideline_full_default"),
}  # fmt: skip
"""Settings that the operator may leave at their default, with the page's sentences for them."""


@dataclass(frozen=True, slots=True, eq=False)
class Sentences:
    """All sentences for panelists, by the tables of their file."""

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

    def consent(self, *, moves: bool) -> list[str]:
        """The text of consent; ``moves``: votes change the model."""
        page = self.page
        return [page["consent_moves"] if moves else page["consent_still"], *page["consent"]]

    def rubric(self, panel: Panel, *, rows: bool) -> Panel:
        """The settings, with the page's own question and guidelines where none are set.

        ``rows``: panelists judge single rows.
        """
        default, kind = type(panel)(), "_rows" if rows else ""
        shown = {
            name: "\n".join(self.page.get(f"{code}{kind}", self.page[code]) for code in codes)
            for name, codes in DEFAULTS.items()
            if getattr(panel, name) == getattr(default, name)
        }
        return panel.model_copy(update=shown)

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


ENGLISH: Final = Sentences(
    **tomllib.loads((resources.files("szpo.config") / "en.toml").read_text(encoding="utf-8"))
)
