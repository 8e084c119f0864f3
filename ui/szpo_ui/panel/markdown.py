"""Markdown of model texts as HTML that a page can trust: it looks as meant and does nothing.

A text passes two filters. markdown-it parses it with HTML switched off, so that tags in it stay
text, and writes links and images out as text. What it makes goes through nh3, which lets the
elements of `TAGS` through and drops everything else. Neither filter knows which policy wrote a
text, and both answers of a pair pass them together.

No word is lost on the way: a text of which a letter, a digit or a sign would not be shown is not
formatted at all.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from markupsafe import Markup

from szpo_ui.web.diff import Piece, compare
from szpo_ui.web.markup import plain, prose

MOST_LETTERS: Final = 10_000
"""Longer texts are shown as they are: to format takes up to 16 µs a letter."""
CACHED: Final = 256
"""Pairs whose HTML is stored; a page is drawn again with every request."""
TAGS: Final = frozenset((
    "p", "br", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "pre", "code", "em",
    "strong", "s", "hr", "table", "thead", "tbody", "tr", "th", "td", "span",
))  # fmt: skip
ATTRIBUTES: Final = {
    "*": set[str](),  # else nh3 lets some through on every element
    **{tag: {"dir"} for tag in TAGS},
    "ol": {"dir", "start"},
    "span": {"title"},
}
CLASSES: Final = {"span": {"sz-sign", "sz-diff", "sz-label", "sz-code-name"}}
_UNMARKED: Final = frozenset(
    ("paragraph_open", "paragraph_close", "inline", "text", "softbreak", "hardbreak")
)
"""Kinds of tokens of a text in which nothing is marked up."""

_SIGNS: Final = re.compile(r"[*_`~\[|#>\\<]|^[ \t]*(?:[-+=]|\d+[.)])", re.MULTILINE)
"""What every text with some Markdown has; to parse the others would cost time for nothing."""

Leaf = Callable[[str], str]
"""HTML of a stretch of visible text; it is called in the order of the text."""
Mark = Callable[[str], Sequence[Piece]]
"""The pieces of a visible text, some of them marked; joined, they are the text."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A text as tokens, and the stretches of text that a reader sees, in order."""

    tokens: tuple[Token, ...]
    stretches: tuple[str, ...]

    @property
    def marked_up(self) -> bool:
        """Something in it is more than plain paragraphs."""
        every = (t for token in self.tokens for t in (token, *(token.children or ())))
        return any(token.type not in _UNMARKED for token in every)

    @property
    def visible(self) -> str:
        """All that a reader sees, one stretch a line."""
        return "\n".join(self.stretches)


@lru_cache(maxsize=CACHED)
def pair(a: str, b: str) -> tuple[Markup, Markup] | None:
    r"""Two texts as formatted HTML with their differences marked, both or neither.

    Returns:
        None where neither has anything to format, or one of them would not be shown whole.

    >>> pair("**Yes**, two.", "Yes, two.")[0]
    Markup('<p dir="auto"><strong>Yes</strong>, two.</p>\n')
    >>> pair("Yes.", "No.") is None
    True
    """
    parsed = _parse_all((a, b))
    if parsed is None:
        return None
    left, right = parsed
    marked_left, marked_right = compare(left.visible, right.visible)
    return _render(left, marked_left), _render(right, marked_right)


@lru_cache(maxsize=CACHED)
def single(text: str) -> Markup | None:
    """One text as formatted HTML; None where `pair` gives none."""
    found = with_marks((text,), lambda visible: [Piece(visible)])
    return None if found is None else found[0]


def with_marks(texts: Sequence[str], mark: Mark) -> list[Markup] | None:
    r"""Texts as formatted HTML, all or none, with what ``mark`` finds in each of them marked.

    Returns:
        None where none has anything to format, or one of them would not be shown whole.

    >>> with_marks(["**Yes**"], lambda visible: [Piece(visible, differs=True)])
    [Markup('<p dir="auto"><strong><span class="sz-diff">Yes</span></strong></p>\n')]
    """
    parsed = _parse_all(texts)
    return None if parsed is None else [_render(each, mark(each.visible)) for each in parsed]


def _parse_all(texts: Sequence[str]) -> list[Parsed] | None:
    """The texts as tokens; None where there is nothing to format, or one is to stay as it is."""
    if not any(_SIGNS.search(text) for text in texts):
        return None
    parsed = [found for text in texts if (found := _parse(text)) is not None]
    is_whole = len(parsed) == len(texts)
    return parsed if is_whole and any(each.marked_up for each in parsed) else None


def _parse(text: str) -> Parsed | None:
    """The text as tokens; None where some of it would not be shown."""
    if len(text) > MOST_LETTERS:
        return None
    text = plain(text).replace("\0", "\u2400")  # the parser would make it U+FFFD
    tokens, stretches = _parser().parse(text), list[str]()
    for token in tokens:
        if token.type.startswith("heading"):
            token.tag = f"h{min(int(token.tag[1:]) + 2, 6)}"  # h1 and h2 are the page's
        if token.level == 0 and token.nesting == 1:
            token.attrSet("dir", "auto")

    def collect(stretch: str) -> str:
        stretches.append(stretch)
        return ""

    _html(tokens, collect)
    if text.strip() and not any(stretch.strip() for stretch in stretches):
        return None  # such as a lone "#"
    numbers = (token.info for token in tokens if token.type == "list_item_open")
    if _content(text) != _content("".join((*stretches, *numbers))):
        return None
    return Parsed(tuple(tokens), tuple(stretches))


def _content(text: str) -> Counter[str]:
    """How often each character occurs, but those that Markdown is written with."""
    return Counter(c for c in text if c not in string.punctuation and not c.isspace())


def _render(found: Parsed, pieces: Sequence[Piece]) -> Markup:
    """HTML of a parsed text, of which the pieces, joined, are what a reader sees."""
    stretches = _split(pieces, found.stretches)
    made = _html(found.tokens, lambda _: str(prose(next(stretches))))
    return Markup(clean(made))


def clean(html: str) -> str:
    """The HTML without anything but `TAGS`, their `ATTRIBUTES` and their `CLASSES`."""
    return nh3.clean(
        html,
        tags=set(TAGS),
        attributes=ATTRIBUTES,
        allowed_classes=CLASSES,
        link_rel=None,
        url_schemes=set(),
    )


def _split(pieces: Sequence[Piece], stretches: Sequence[str]) -> Iterator[list[Piece]]:
    """Each stretch in pieces of its own; between two of them stands one line feed."""
    differs, at = [piece.differs for piece in pieces for _ in piece.text], 0
    for text in stretches:
        letters = zip(text, differs[at : at + len(text)], strict=True)
        yield [
            Piece("".join(c for c, _ in run), marked)
            for marked, run in groupby(letters, key=itemgetter(1))
        ]
        at += len(text) + 1


def _html(tokens: Sequence[Token], leaf: Leaf) -> str:
    return _parser().renderer.render(tokens, _parser().options, {"leaf": leaf})  # type: ignore[no-any-return]


class _Rules(RendererHTML):
    """How tokens become HTML where `leaf` of the environment makes that of their text."""

    def text(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        return _leaf(env, tokens[idx].content)

    def code_inline(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any
    ) -> str:
        return f"<code>{_leaf(env, tokens[idx].content)}</code>"

    def fence(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        name = tokens[idx].info.strip()
        head = f'<span class="sz-code-name">{_leaf(env, name)}</span>' if name else ""
        code = tokens[idx].content.removesuffix("\n")
        return f'<pre dir="ltr">{head}<code>{_leaf(env, code)}</code></pre>\n'

    def link_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        env.setdefault("links", []).append(tokens[idx])
        return '<span class="sz-label">'

    def link_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        link = env["links"].pop()
        named = link.info != "auto"  # else the address is the text
        return "</span>" + (_leaf(env, f" ({_address(link, 'href')})") if named else "")

    def image(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        return _leaf(env, f"![{tokens[idx].content}]({_address(tokens[idx], 'src')})")


def _address(token: Token, name: str) -> str:
    title = token.attrGet("title")
    return f"{token.attrGet(name)}" + (f' "{title}"' if title else "")


def _leaf(env: Any, text: str) -> str:
    made: str = env["leaf"](text) if text else ""
    return made


@cache
def _parser() -> MarkdownIt:
    """CommonMark with tables and strikethrough.

    HTML, entities and references would hide a part of the text, indented code make code of a poem.
    """
    made = MarkdownIt("commonmark", {"html": False, "breaks": True}, renderer_cls=_Rules)
    made.enable(["table", "strikethrough"])
    made.disable(["html_block", "html_inline", "entity", "reference", "code"])
    # Addresses are only shown, so that none is refused and none is encoded anew.
    for name, rule in (("validateLink", bool), ("normalizeLink", str), ("normalizeLinkText", str)):
        setattr(made, name, rule)
    return made
