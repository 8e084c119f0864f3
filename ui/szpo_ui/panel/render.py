"""The panelist's page as HTML: templates that escape everything, filled from a `Screen`.

Texts of models, prompts and operators go through `szpo_ui.web.markup.prose`; whatever else is not
markup is escaped by the templates themselves. A name that a template does not know is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any, Final, Literal

from jinja2 import Environment
from markupsafe import Markup

from szpo_ui.panel import texts
from szpo_ui.panel.screens import Screen
from szpo_ui.web.markup import environment

View = Literal["formatted", "plain"]
MOST_DOTS: Final = 12
"""Votes up to this number are drawn as one dot each."""


def page(
    screen: Screen,
    *,
    question: str,
    guideline: str,
    guideline_full: str,
    view: View = "formatted",
    ack: str = "",
) -> str:
    """The whole screen as one HTML text.

    ``view`` is how texts with Markdown are shown until the panelist chooses. ``ack`` repeats the
    number of the request that it answers, so that the page knows.
    """
    template = _environment().get_template("panel/page.html")
    return template.render(
        s=screen, question=question, guideline=guideline, guideline_full=guideline_full,
        view=view, ack=ack,
    )  # fmt: skip


def skeleton() -> str:
    """The page until the first screen arrives."""
    return _environment().get_template("panel/loading.html").render()


def failure(error: str, ack: str = "") -> str:
    """The screen for an error of the server, with its number."""
    return _environment().get_template("panel/error.html").render(error=error, ack=ack)


def say(code: str, **what: object) -> Markup:
    """A sentence of the page with its blanks filled, escaped.

    >>> say("round_of", round=3, rounds="<b>")
    Markup('Round 3 of &lt;b&gt;')
    """
    template: Any = texts.PAGE[code]
    return Markup(template).format(**what)


def time_tag(at_us: int) -> Markup:
    """A time of day; the script puts it into the reader's own zone."""
    iso = texts.clock_time(at_us)
    return Markup('<time datetime="{}">{} UTC</time>').format(iso, iso[11:16])


def choice_label(choice: str) -> str:
    """What is written on the button of a choice."""
    labels: Mapping[str, str] = {str(key): text for key, text in texts.CHOICES.items()}
    return labels[choice]


@cache
def _environment() -> Environment:
    return environment(
        filters={"time": time_tag, "label": choice_label},
        names={
            "say": say,
            "t": SimpleNamespace(**texts.PAGE),  # of a dict, t.clear would be its method
            "notices": texts.NOTICES,
            "signs": texts.SIGNS,
            "reasons": texts.SKIP_REASONS,
            "shortcuts": texts.SHORTCUTS,
            "roughly": texts.roughly,
            "most_dots": MOST_DOTS,
        },
    )
