"""The panelist's page as HTML: templates that escape everything, filled from a `Screen`.

Texts of models, prompts and operators go through `szpo_ui.web.markup.prose`. The templates escape
everything else that is not markup. An unknown name in a template is an error.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache, partial
from types import SimpleNamespace
from typing import Final

from jinja2 import Environment
from markupsafe import Markup, escape

from szpo.config.run_sections import Panel
from szpo_ui.panel.screens import Screen
from szpo_ui.web.markup import environment
from szpo_ui.web.sentences import ENGLISH, KEYS, Sentences

MOST_DOTS: Final = 12
"""Up to this number of votes, each is drawn as a dot."""


def page(screen: Screen, asked: Panel, sentences: Sentences = ENGLISH) -> str:
    """The whole screen as one HTML text; ``asked`` is `Site.rubric`."""
    template = _environment(sentences).get_template("panel/page.html")
    return template.render(s=screen, rubric=asked)


def skeleton(sentences: Sentences) -> str:
    """The page before the first screen arrives."""
    return _environment(sentences).get_template("panel/loading.html").render()


def failure(error: str, sentences: Sentences = ENGLISH) -> str:
    """The screen for a server error, with the error's number."""
    template = _environment(sentences).get_template("panel/error.html")
    return template.render(error=error)


def say(sentences: Sentences, code: str, **what: object) -> Markup:
    """A sentence of the page with its placeholders filled and escaped.

    >>> say(ENGLISH, "round_of", round=3, rounds="<b>")
    Markup('Round 3 of &lt;b&gt;')
    """
    return escape(sentences.page[code]).format(**what)


def time_tag(at_us: int) -> Markup:
    """A time of day; the script converts it to the reader's time zone."""
    when = datetime.fromtimestamp(at_us // 1_000_000, UTC)
    form = f'<time datetime="{when:%Y-%m-%dT%H:%M:%SZ}">{when:%H:%M} UTC</time>'
    return Markup(form)


@lru_cache
def _environment(sentences: Sentences) -> Environment:
    """The templates with the sentences that they show."""
    labels = {str(choice): label for choice, label in sentences.choices.items()}
    return environment(
        filters={"time": time_tag, "label": labels.__getitem__},
        names={
            "say": partial(say, sentences),
            "t": SimpleNamespace(**sentences.page),  # t.clear of a dict would be a method
            "sentences": sentences,
            "shortcuts": {
                kind: [(keys, sentences.shortcuts[name]) for name, keys in found.items()]
                for kind, found in KEYS.items()
            },
            "most_dots": MOST_DOTS,
        },
    )
