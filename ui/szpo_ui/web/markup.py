"""Templates that escape everything, and text from a model or an operator made safe as HTML.

`prose` is the only way of such text into a page. Everything is escaped. What would be invisible,
or would reorder the text around it, is shown by a sign instead: a control character as its
picture, a bidirectional override by its number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from szpo.visible_text import HIDDEN
from szpo_ui.web.diff import Piece
from szpo_ui.web.language import LANGUAGES

STATIC = resources.files("szpo_ui") / "static"


def environment(
    filters: Mapping[str, Callable[..., Any]], names: Mapping[str, Any]
) -> Environment:
    """The templates of the package with a page's own filters and names; ``prose`` is in both.

    A name that a template does not know is an error.
    """
    made = Environment(
        loader=PackageLoader("szpo_ui"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(prose=prose, **filters)
    made.globals.update(names)
    return made


@cache
def entrance(name: str, code: str = "en", *, translated: bool = True) -> str:
    """A page for those who are not let in yet: ``login``, ``join`` or ``setup``, as HTML.

    ``code`` is its language. A page that is not ``translated`` is the operator's, in English.
    """
    language = LANGUAGES[code]
    return (
        environment(filters={}, names={})
        .get_template(f"entrance/{name}.html")
        .render(
            language=language,
            t=language.entrance,
            translated=translated,
            spoken={each.code: {"tag": each.tag, **each.entrance} for each in LANGUAGES.values()},
        )
    )


def static(name: str) -> str:
    """The text of a static file."""
    return (STATIC / name).read_text(encoding="utf-8")


def style(*pages: str) -> str:
    """The style of a page, such as ``panel``, ``operate``: what all share, then these files."""
    return "\n".join(static(f"{name}.css") for name in ("common", *pages))


def head(*pages: str, viewport: str = "") -> str:
    """What stands in the head of a page of Gradio's: its style inline, so nothing is fetched."""
    return (
        f'<meta name="viewport" content="width=device-width, initial-scale=1{viewport}">\n'
        f"<style>{style(*pages)}</style>\n"
    )


def prose(text: str | Iterable[Piece]) -> Markup:
    r"""Escaped HTML of a text, or of a text in pieces; the only way of such text into a page.

    >>> prose('<b onclick="x">')
    Markup('&lt;b onclick=&#34;x&#34;&gt;')
    >>> prose("a\x00")
    Markup('a<span class="sz-sign" title="U+0000">␀</span>')
    """
    if not isinstance(text, str):
        mark = Markup('<span class="sz-diff">{}</span>').format
        return Markup("").join(mark(prose(p.text)) if p.differs else prose(p.text) for p in text)
    return Markup(HIDDEN.sub(_sign, escape(plain(text))))


def whole(text: str, *, cut: bool) -> str:
    """The text without the half character that a ``cut`` at the limit of tokens leaves at its end.

    >>> whole("so nice \ufffd", cut=True), whole("a \ufffd", cut=False)
    ('so nice ', 'a \ufffd')
    """
    return text.rstrip("\ufffd") if cut else text


def plain(text: str) -> str:
    r"""The text with Unix line ends and without halves of surrogate pairs.

    >>> plain("a\r\nb\ud800")
    'a\nb�'
    """
    text = text.replace("\r\n", "\n")
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _sign(hidden: re.Match[str]) -> str:
    code = ord(hidden[0])
    picture = chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else f"⟨{code:04X}⟩"
    return f'<span class="sz-sign" title="U+{code:04X}">{picture}</span>'
