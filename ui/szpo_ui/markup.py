"""Templates that escape everything: the pages, and texts of others.

Texts of models, prompts and people get into a page only through `prose`, which escapes them.
Characters that are invisible or
reorder the text around them are shown as a sign: a control character as its picture, a
bidirectional override as its number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from importlib import resources
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from szpo.config.sentences import ENGLISH
from szpo.visible_text import HIDDEN

_EVERYWHERE: Final = {
    "view": ("F",), "guideline": ("I",), "break": ("P",), "help": ("?",)
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

STATIC = resources.files("szpo_ui") / "static"


def environment(
    filters: Mapping[str, Callable[..., Any]], names: Mapping[str, Any]
) -> Environment:
    """The package's templates with a page's own filters and names, and the filter ``prose``.

    An unknown name in a template is an error.
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


@lru_cache
def entrance(name: str) -> str:
    """A page for people without a session: ``login``, ``join``, ``opening`` or ``setup``."""
    template = environment(filters={}, names={}).get_template(f"entrance/{name}.html")
    return template.render(t=ENGLISH.entrance)


def static(name: str) -> str:
    """The text of a static file."""
    return (STATIC / name).read_text(encoding="utf-8")


def style(*pages: str) -> str:
    """The style sheets of a page: ``common``, then the given ones, such as ``panel``."""
    return "\n".join(static(f"{name}.css") for name in ("common", *pages))


def head(*pages: str, viewport: str = "") -> str:
    """HTML for the head of a Gradio page, with inline styles, so nothing is fetched."""
    return (
        f'<meta name="viewport" content="width=device-width, initial-scale=1{viewport}">\n'
        f"<style>{style(*pages)}</style>\n"
    )


def time_tag(at_us: float, form: str = "%H:%M UTC", kind: str = "clock") -> Markup:
    """A time; the script converts it to the reader's time zone, as the page's ``kind`` says."""
    when = datetime.fromtimestamp(at_us / 1e6, UTC)
    return Markup('<time datetime="{}" data-form="{}">{}</time>').format(
        when.isoformat(timespec="seconds"), kind, when.strftime(form)
    )


def prose(text: str) -> Markup:
    r"""Escaped HTML of a text of somebody else; all such text must go through here.

    >>> prose('<b onclick="x">')
    Markup('&lt;b onclick=&#34;x&#34;&gt;')
    >>> prose("a\x00")
    Markup('a<span class="sz-sign" title="U+0000">␀</span>')
    """
    return Markup(HIDDEN.sub(_sign, escape(plain(text))))


def whole(text: str, *, cut: bool) -> str:
    """The text without the incomplete character at its end, which a ``cut`` at the limit leaves.

    >>> whole("so nice \ufffd", cut=True), whole("a \ufffd", cut=False)
    ('so nice ', 'a \ufffd')
    """
    return text.rstrip("\ufffd") if cut else text


def plain(text: str) -> str:
    r"""The text with Unix line ends, and with U+FFFD for each half of a surrogate pair.

    >>> plain("a\r\nb\ud800")
    'a\nb�'
    """
    text = text.replace("\r\n", "\n")
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _sign(hidden: re.Match[str]) -> str:
    code = ord(hidden[0])
    picture = chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else f"⟨{code:04X}⟩"
    return f'<span class="sz-sign" title="U+{code:04X}">{picture}</span>'
