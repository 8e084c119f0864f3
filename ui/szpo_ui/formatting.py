"""Markdown of answers as safe HTML.

A text passes two filters. markdown-it parses it with HTML switched off, so tags stay text, and
links and images are written out as text. nh3 then keeps the elements in `TAGS` and drops all
others. Neither filter knows which policy wrote a text.

No word is lost: if any letter, digit or symbol of a text would not be shown, the text is not
formatted at all.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, Final

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from markupsafe import Markup

from szpo_ui.markup import plain, prose

MOST_LETTERS: Final = 10_000
"""Longer texts are shown as written: formatting takes up to 16 µs a character."""
CACHED: Final = 256
"""Pairs whose HTML is cached, since every request draws the page again."""
TAGS: Final = frozenset((
    "p", "br", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "pre", "code", "em",
    "strong", "s", "hr", "table", "thead", "tbody", "tr", "th", "td", "span",
))  # fmt: skip
ATTRIBUTES: Final = {
    "*": set[str](),  # without this, nh3 allows some attributes on every element
    **{tag: {"dir"} for tag in TAGS},
    "ol": {"dir", "start"},
    "span": {"title"},
}
CLASSES: Final = {"span": {"sz-sign", "sz-label", "sz-code-name"}}
_UNMARKED: Final = frozenset(
    ("paragraph_open", "paragraph_close", "inline", "text", "softbreak", "hardbreak")
)
"""Types of tokens in a text without any Markdown."""
_SIGNS: Final = re.compile(r"[*_`~\[|#>\\<]|^[ \t]*(?:[-+=]|\d+[.)])", re.MULTILINE)
"""Matches in every text with Markdown; texts without a match need no parsing."""


@lru_cache(maxsize=CACHED)
def formatted(*texts: str) -> tuple[Markup, ...] | None:
    r"""The texts as HTML; None if none of them has Markdown, or one would lose a character.

    >>> formatted("**Yes**, two.", "Yes, two.")[0]
    Markup('<p dir="auto"><strong>Yes</strong>, two.</p>\n')
    >>> formatted("Yes.", "No.") is None
    True
    """
    if max(map(len, texts)) > MOST_LETTERS or not any(map(_SIGNS.search, texts)):
        return None
    # The parser would replace NUL by U+FFFD.
    written = [plain(text).replace("\0", "\u2400") for text in texts]
    parsed = [_parser().parse(text) for text in written]
    if not any(map(_is_marked_up, parsed)):
        return None
    made = tuple(map(_html, parsed))
    return made if all(map(_keeps_all, written, parsed, made)) else None


def clean_html(html: str) -> str:
    """The HTML with only `TAGS`, their `ATTRIBUTES` and their `CLASSES` left."""
    return nh3.clean(
        html,
        tags=set(TAGS),
        attributes=ATTRIBUTES,
        allowed_classes=CLASSES,
        link_rel=None,
        url_schemes=set(),
    )


def _is_marked_up(tokens: Sequence[Token]) -> bool:
    """Whether there is more than plain paragraphs."""
    every = (t for token in tokens for t in (token, *(token.children or ())))
    return any(token.type not in _UNMARKED for token in every)


def _html(tokens: Sequence[Token]) -> Markup:
    for token in tokens:
        if token.type.startswith("heading"):
            token.tag = f"h{min(int(token.tag[1:]) + 2, 6)}"  # the page itself uses h1 and h2
        if token.level == 0 and token.nesting == 1:
            token.attrSet("dir", "auto")
    return Markup(clean_html(_parser().renderer.render(tokens, _parser().options, {})))


def _keeps_all(text: str, tokens: Sequence[Token], made: Markup) -> bool:
    """Whether every character is shown, but for white space and ASCII punctuation."""
    shown = made.striptags()
    if text.strip() and not shown:
        return False  # such as a lone "#"
    numbers = (token.info for token in tokens if token.type == "list_item_open")
    return _content(prose(text).striptags()) == _content("".join((shown, *numbers)))


def _content(text: str) -> Counter[str]:
    return Counter(c for c in text if c not in string.punctuation and not c.isspace())


class _Rules(RendererHTML):
    """Writes all text through `prose`, and links and images as text."""

    def text(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        return _leaf(tokens[idx].content)

    def code_inline(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any
    ) -> str:
        return f"<code>{_leaf(tokens[idx].content)}</code>"

    def fence(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        name = tokens[idx].info.strip()
        head = f'<span class="sz-code-name">{_leaf(name)}</span>' if name else ""
        code = tokens[idx].content.removesuffix("\n")
        return f'<pre dir="ltr">{head}<code>{_leaf(code)}</code></pre>\n'

    def link_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        env.setdefault("links", []).append(tokens[idx])
        return '<span class="sz-label">'

    def link_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        link = env["links"].pop()
        named = link.info != "auto"  # an automatic link shows its address already
        return "</span>" + (_leaf(f" ({_address(link, 'href')})") if named else "")

    def image(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        return _leaf(f"![{tokens[idx].content}]({_address(tokens[idx], 'src')})")


def _leaf(text: str) -> str:
    return str(prose(text))  # the renderer would escape what it adds markup to


def _address(token: Token, name: str) -> str:
    title = token.attrGet("title")
    return f"{token.attrGet(name)}" + (f' "{title}"' if title else "")


@cache
def _parser() -> MarkdownIt:
    """CommonMark with tables and strikethrough."""
    # HTML, entities and references would hide part of the text. Indented code would turn an
    # indented poem into code.
    made = MarkdownIt("commonmark", {"html": False, "breaks": True}, renderer_cls=_Rules)
    made.enable(["table", "strikethrough"])
    made.disable(["html_block", "html_inline", "entity", "reference", "code"])
    # Addresses are only shown as text, so none is refused or encoded.
    for name, rule in (("validateLink", bool), ("normalizeLink", str), ("normalizeLinkText", str)):
        setattr(made, name, rule)
    return made
