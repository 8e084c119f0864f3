"""What one panelist sees at once, as safe HTML, and the ballot that answers it.

A text passes two filters. markdown-it parses it with HTML switched off, so tags stay text, and
links and images are written out as text. nh3 then keeps the elements in `TAGS` and drops all
others. Neither filter knows which policy wrote a text. Both answers of a pair are formatted, or
neither is.

No word is lost: if any letter, digit or symbol of a text would not be shown, the text is not
formatted at all.

What is shown, with its order and sides, knows only sides A and B. Which policy a
letter stands for is recorded with the seat in the ledger. Page and API store a vote, extend a seat
and answer a poller in one way.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from typing import Annotated, Any, Final, Literal

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from markupsafe import Markup
from pydantic import Field

from szpo.errors import UsageError
from szpo.ledger.database import Record
from szpo.models.answer_shares import is_cut
from szpo.runs.budget import WORDS_PER_MINUTE
from szpo.runs.status import RoundStatus, redact_for_panelists
from szpo.types import Answer, Assignment, Comparison, Prompt
from szpo.voting import casting
from szpo.voting.casting import Receipt, VoteConflictError, VoteRequest
from szpo_ui.markup import plain, prose, whole
from szpo_ui.requests import Body, Seat, Tab
from szpo_ui.site import Site

LEAST_SHARE: Final = 0.25
"""A vote before this share of the reading time counts as fast."""
LONGEST_GATE_S: Final = 30.0
"""A vote after this many seconds never counts as fast."""
SHORT_TALK: Final = 150
"""The earlier turns of a conversation are unfolded if they have at most this many words."""

Letter = Literal["A", "B", "tie"]
Plain = str | bool | int | Annotated[float, Field(allow_inf_nan=False)] | None


class Ballot(VoteRequest):
    """A vote as a page or a program sends it; it holds nothing that the server knows itself."""

    assignment: Seat
    tab: Tab
    skip_reason: str | None = Field(None, min_length=1, max_length=200)
    details: dict[str, Plain | dict[str, Letter]] = Field(default_factory=dict, max_length=32)
    """Further facts; the page sends ``notes`` on single rows, and how many rows were ``seen``."""


class At(Body):
    """A page's tab, and the seat that the page shows."""

    tab: str = Field(pattern=r"^[A-Za-z0-9-]{8,64}$")
    seat: str | None = Field(None, pattern=r"^[A-Za-z0-9_.:-]{1,64}$")


def cast(site: Site, panelist: str, ballot: Ballot) -> tuple[Record, Receipt | VoteConflictError]:
    """Store a vote within the caller's transaction.

    Returns the seat's row, and the vote's receipt or why it was refused. The server adds how much
    there was to read, and whether the vote was too fast for that.
    """
    rows = casting.read_seat(site.ledger, ballot.assignment, panelist)
    if not rows:
        raise UsageError("vote: there is no such comparison for this panelist")
    seat = rows[-1]
    read = site.comparison(seat["comparison"])
    assert read is not None, seat["comparison"]
    differ, words = [i for i, row in enumerate(read.rows) if not row.identical], to_read(read)
    # The client's reading time is not trusted: the time since the texts were served is its upper
    # bound. If that time is negative, the clock was set back and the bound is unknown.
    had_ms = (site.ledger.clock() - seat["served_us"]) / 1000
    read_ms: float | None = ballot.dwell_ms
    if had_ms >= 0:
        read_ms = had_ms if read_ms is None else min(read_ms, had_ms)
    fast = ballot.choice != "skip" and read_ms is not None and read_ms < 1000 * gate_s(words)
    noted: dict[str, Any] = {"rows": len(differ), "words": words, "fast": fast}
    details = {name: value for name, value in ballot.details.items() if value is not None}
    if isinstance(notes := details.get("notes"), dict):
        details["notes"] = {i: notes[i] for i in map(str, differ) if i in notes}
    if isinstance(seen := details.get("seen"), int):
        details["seen"] = min(seen, len(differ))
    request = ballot.model_copy(update={"details": details or None})
    version, now = site.service.rubric_version, site.ledger.clock()
    try:
        return seat, casting.store(
            site.ledger, request, rows, noted=noted, rubric_version=version, at_us=now
        )
    except VoteConflictError as refusal:
        return seat, refusal


def extend(site: Site, panelist: str, seat: str, tab: str | None = None) -> int | None:
    """Hold a seat, and those on its sheet, for another full term.

    Returns the seat's end, or None if others may have the seat. With a ``tab``, only an
    unanswered seat of that tab (or of none) is extended.
    """
    rows = casting.read_seat(site.ledger, seat, panelist)
    if not rows:
        raise UsageError("extend: there is no such comparison for this panelist")
    if tab and (rows[-1]["choice"] or rows[-1]["tab"] not in (None, tab)):
        return None
    if (sheet := rows[-1]["sheet"]) is not None:
        for row in site.ledger.query(
            "SELECT a.assignment FROM assignments a LEFT JOIN votes v USING (assignment) "
            "WHERE a.panelist = ? AND a.sheet = ? AND v.vote IS NULL AND a.assignment <> ?",
            (panelist, sheet, seat),
        ):
            site.service.extend(row["assignment"])
    return site.service.extend(seat)


def poll(site: Site, panelist: str, at: At | None = None) -> tuple[dict[str, Any], str]:
    """The status for a poller, and a tag that changes with it; this reserves no seat.

    A page also gets the key of its screen, and the seconds for which its seat is still held.
    """
    status = redact_for_panelists(site.status.read())
    if at is None:
        return asdict(status), status.version
    site.tabs.note(panelist, at.tab)
    rows = casting.read_seat(site.ledger, at.seat, panelist) if at.seat else []
    seat = rows[-1] if rows and rows[-1]["choice"] is None else None
    elsewhere = seat is not None and is_elsewhere(site, seat, at.tab)
    until = None if seat is None else seat["expires_us"]
    found = {
        **asdict(status),
        "key": key(status, elsewhere=elsewhere),
        "lease_s": None if until is None else lease_s(site, until),
    }
    return found, f"{status.version}-{elsewhere:d}-{until}"


def key(status: RoundStatus, *, elsewhere: bool = False) -> str:
    """The key that the poller compares while a panelist reads.

    It has no counts, so other people's votes do not redraw the page.
    """
    return "elsewhere" if elsewhere else f"{status.state}.{status.step}"


def is_elsewhere(site: Site, seat: Record, tab: str) -> bool:
    """Whether a panelist's seat is open in another tab that still sends requests."""
    other = seat["tab"]
    return other not in (None, tab) and site.tabs.is_alive(seat["panelist"], other)


def lease_s(site: Site, expires_us: int) -> float:
    """Seconds for which a seat is still held, at least 0."""
    return round(max(0, expires_us - site.ledger.clock()) / 1e6, 1)


def gate_s(words: int) -> float:
    """A vote on so many words is fast before this many seconds, a quarter of the reading time.

    >>> gate_s(238), gate_s(10_000)
    (15.0, 30.0)
    """
    return min(LONGEST_GATE_S, LEAST_SHARE * 60 * words / WORDS_PER_MINUTE)


def to_read(comparison: Comparison) -> int:
    """Number of words in prompts, unfolded conversations and answers of the pairs that differ."""
    texts: list[str] = []
    for row in comparison.rows:
        if not row.identical:
            texts += [row.plus.text, row.minus.text, row.prompt.text]
            if is_unfolded(row.prompt):
                texts += [text for _, text in row.prompt.turns[:-1]]
    return sum(len(text.split()) for text in texts)


def is_unfolded(prompt: Prompt) -> bool:
    """Whether the earlier turns are a short conversation, which is then shown unfolded."""
    turns = prompt.turns[:-1]
    spoken = any(role != "system" for role, _ in turns)
    return spoken and sum(len(text.split()) for _, text in turns) <= SHORT_TALK


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

Leaf = Callable[[str], str]
"""Makes HTML of a stretch of visible text; called in the order of the text."""


@lru_cache(maxsize=CACHED)
def formatted(*texts: str) -> tuple[Markup, ...] | None:
    r"""The texts as HTML; None if none of them has Markdown, or one would lose a character.

    >>> formatted("**Yes**, two.", "Yes, two.")[0]
    Markup('<p dir="auto"><strong>Yes</strong>, two.</p>\n')
    >>> formatted("Yes.", "No.") is None
    True
    """
    if not any(_SIGNS.search(text) for text in texts):
        return None
    parsed = [found for text in texts if (found := _parse(text)) is not None]
    if len(parsed) < len(texts) or not any(map(_is_marked_up, parsed)):
        return None
    return tuple(
        Markup(clean_html(_html(tokens, lambda text: str(prose(text))))) for tokens in parsed
    )


def _is_marked_up(tokens: Sequence[Token]) -> bool:
    """Whether there is more than plain paragraphs."""
    every = (t for token in tokens for t in (token, *(token.children or ())))
    return any(token.type not in _UNMARKED for token in every)


def _parse(text: str) -> Sequence[Token] | None:
    """The text as tokens; None if it is too long or would lose a character."""
    if len(text) > MOST_LETTERS:
        return None
    text = plain(text).replace("\0", "\u2400")  # the parser would replace it by U+FFFD
    tokens, stretches = _parser().parse(text), list[str]()
    for token in tokens:
        if token.type.startswith("heading"):
            token.tag = f"h{min(int(token.tag[1:]) + 2, 6)}"  # the page itself uses h1 and h2
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
    return tokens


def _content(text: str) -> Counter[str]:
    """How often each character occurs, without white space and ASCII punctuation."""
    return Counter(c for c in text if c not in string.punctuation and not c.isspace())


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


def _html(tokens: Sequence[Token], leaf: Leaf) -> str:
    return _parser().renderer.render(tokens, _parser().options, {"leaf": leaf})  # type: ignore[no-any-return]


class _Rules(RendererHTML):
    """Renders tokens; the environment's ``leaf`` makes the HTML of their text."""

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
        named = link.info != "auto"  # an automatic link shows its address already
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

    HTML, entities and references would hide part of the text. Indented code would turn an indented
    poem into code.
    """
    made = MarkdownIt("commonmark", {"html": False, "breaks": True}, renderer_cls=_Rules)
    made.enable(["table", "strikethrough"])
    made.disable(["html_block", "html_inline", "entity", "reference", "code"])
    # Addresses are only shown as text, so none is refused or encoded.
    for name, rule in (("validateLink", bool), ("normalizeLink", str), ("normalizeLinkText", str)):
        setattr(made, name, rule)
    return made


@dataclass(frozen=True, slots=True)
class Text:
    """The shown part of a text as the model wrote it; ``cut``: it hit the token limit."""

    text: str
    cut: bool
    formatted: Markup | None = None
    """The text as HTML if it has Markdown; None if it is shown as written."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt and its two answers; ``row`` is its index in the comparison, before shuffling."""

    seat: str
    row: int
    prompt: str
    earlier: tuple[tuple[str, Text], ...]
    """The turns before the last one, each with its role; the model's turns are formatted."""
    a: Text
    b: Text
    same: bool
    unfolded: bool
    """The earlier turns are a short conversation, so they are shown unfolded."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A comparison, or several of one row: pairs that differ, pairs that do not, reading time."""

    pairs: tuple[Pair, ...]
    same: tuple[Pair, ...]
    words: int
    """Words in the prompts, unfolded conversations and answers of the pairs that differ."""
    minutes: int
    """Reading time in minutes, rounded up; 0 if it is under one."""
    gate_s: float
    """A vote sooner than this many seconds counts as fast."""
    formatted: bool
    """Some text is shown as formatted Markdown."""


def sheet(shown: Sequence[tuple[Comparison, Assignment]]) -> Sheet:
    """The comparisons with the order of prompts and the sides that their seats recorded."""
    pairs = [
        _pair(seat.id, i, row.prompt, *seat.sides(row))
        for comparison, seat in shown
        for i, row in ((i, comparison.rows[i]) for i in seat.prompt_order)
    ]
    words = sum(to_read(comparison) for comparison, _ in shown)
    return Sheet(
        pairs=tuple(pair for pair in pairs if not pair.same),
        same=tuple(pair for pair in pairs if pair.same),
        words=words,
        minutes=0 if words < WORDS_PER_MINUTE else math.ceil(words / WORDS_PER_MINUTE),
        gate_s=gate_s(words),
        formatted=any(
            text.formatted is not None
            for pair in pairs
            for text in (pair.a, pair.b, *(text for _, text in pair.earlier))
        ),
    )


def _pair(seat: str, row: int, prompt: Prompt, a: Answer, b: Answer) -> Pair:
    written = [whole(each.text, cut=is_cut(each)) for each in (a, b)]
    left, right = (
        Text(text, is_cut(each), html)
        for each, text, html in zip(
            (a, b), written, formatted(*written) or (None, None), strict=True
        )
    )
    return Pair(
        seat=seat,
        row=row,
        prompt=prompt.text,
        earlier=tuple(_turn(role, text) for role, text in prompt.turns[:-1]),
        a=left,
        b=right,
        same=a.text == b.text,
        unfolded=is_unfolded(prompt),
    )


def _turn(role: str, text: str) -> tuple[str, Text]:
    html = formatted(text) if role == "assistant" else None
    return role, Text(text, cut=False, formatted=html[0] if html else None)
