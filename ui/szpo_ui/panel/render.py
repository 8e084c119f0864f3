"""The panelist's page as HTML: templates that escape everything, filled from a `Screen`.

Texts of models, prompts and operators go through `szpo_ui.web.markup.prose`; whatever else is not
markup is escaped by the templates themselves. A name that a template does not know is an error.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache, partial
from types import SimpleNamespace
from typing import Any, Final

from jinja2 import Environment
from markupsafe import Markup

from szpo.config.run_sections import Panel
from szpo_ui.panel.screens import Screen
from szpo_ui.web import language as texts
from szpo_ui.web.language import ENGLISH, Language
from szpo_ui.web.markup import environment

MOST_DOTS: Final = 12
"""Votes up to this number are drawn as one dot each."""


DEFAULTS: Final = {
    "question": "question", "guideline": "guideline_default",
    "guideline_full": "guideline_full_default",
}  # fmt: skip
"""The sentence of the page that stands for a setting where the operator wrote none."""


def rubric(panel: Panel, language: Language) -> Panel:
    """The settings with the question and the guidelines that stand on the page in a language."""
    default = Panel()
    shown = {
        name: language.page[code]
        for name, code in DEFAULTS.items()
        if getattr(panel, name) == getattr(default, name)
    }
    return panel.model_copy(update=shown)


def page(screen: Screen, asked: Panel, language: Language = ENGLISH) -> str:
    """The whole screen as one HTML text; ``asked`` is the panel's `rubric`."""
    template = _environment(language.code).get_template("panel/page.html")
    return template.render(s=screen, rubric=asked, view=asked.view)


def skeleton() -> str:
    """The page until the first screen arrives; the script puts its one word into the language."""
    return _environment(ENGLISH.code).get_template("panel/loading.html").render()


def failure(error: str, language: Language = ENGLISH) -> str:
    """The screen for an error of the server, with its number."""
    template = _environment(language.code).get_template("panel/error.html")
    return template.render(error=error)


def say(language: Language, code: str, **what: object) -> Markup:
    """A sentence of the page with its blanks filled, escaped.

    >>> say(ENGLISH, "round_of", round=3, rounds="<b>")
    Markup('Round 3 of &lt;b&gt;')
    """
    template: Any = language.page[code]
    return Markup(template).format(**what)


def time_tag(at_us: int) -> Markup:
    """A time of day; the script puts it into the reader's own zone."""
    when = datetime.fromtimestamp(at_us // 1_000_000, UTC)
    form = f'<time datetime="{when:%Y-%m-%dT%H:%M:%SZ}">{when:%H:%M} UTC</time>'
    return Markup(form)


@cache
def _environment(code: str) -> Environment:
    """The templates with the sentences of one language."""
    language = texts.LANGUAGES[code]
    labels = {str(choice): label for choice, label in language.choices.items()}

    return environment(
        filters={"time": time_tag, "label": labels.__getitem__},
        names={
            "say": partial(say, language),
            "t": SimpleNamespace(**language.page),  # of a dict, t.clear would be its method
            "language": language,
            "languages": tuple(texts.LANGUAGES.values()),
            "shortcuts": [(keys, language.shortcuts[name]) for name, keys in texts.KEYS.items()],
            "most_dots": MOST_DOTS,
        },
    )
