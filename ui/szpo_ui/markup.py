"""Templates that escape everything: sentences of the pages, texts, words that differ.

Marks the words that differ between the two answers to a prompt, by difflib. Below a similarity of
one half, nearly everything would be marked, so nothing is. Very long answers are not compared,
since difflib takes quadratic time. The same texts always get the same marks. Recent comparisons
are cached.

Such text gets into a page only through `prose`, which escapes it. Characters that are invisible or
reorder the text around them are shown as a sign: a control character as its picture, a
bidirectional override as its number.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from importlib import resources
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from szpo.config import sentences
from szpo.visible_text import HIDDEN

if TYPE_CHECKING:
    from szpo.types import Choice


SIMILAR: Final = 0.5
"""Differences are marked only in answers that are at least this similar."""
MOST_WORDS: Final = 800
"""Most words and punctuation marks of an answer; longer answers are not compared."""
MOST_LETTERS: Final = 20_000
"""Most characters of an answer; longer answers are not compared."""
MOST_MATCHES: Final = 20_000
"""Most pairs of equal words; very repetitive answers have more and are not compared."""
CACHED: Final = 256
"""Comparisons to cache, at most 64 MiB, since every request draws the page again."""

_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+(?:['’]\w+)*|[^\w\s]|\s+")


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text; ``differs`` if the other answer has something else there."""

    text: str
    differs: bool = False


Pieces: TypeAlias = tuple[Piece, ...]


def compare(a: str, b: str) -> tuple[Pieces, Pieces]:
    """Both texts in pieces, with words that differ marked; joined, the pieces are the text.

    Similarity is 2·matches / number of words in both, without white space.

    >>> [(each.text, each.differs) for each in compare("The sky", "The sea")[1]]
    [('The ', False), ('sea', True)]
    """
    if max(len(a), len(b)) > MOST_LETTERS:
        return _whole(a), _whole(b)
    return _compare_words(a, b)


@lru_cache(maxsize=CACHED)
def _compare_words(a: str, b: str) -> tuple[Pieces, Pieces]:
    tokens = _WORDS.findall(a), _WORDS.findall(b)
    # Space between words is not compared; space at a text's beginning counts as a word.
    left, right = ([i for i, t in enumerate(some) if i == 0 or not t.isspace()] for some in tokens)
    plain = _whole(a), _whole(b)
    if max(len(left), len(right)) > MOST_WORDS:
        return plain
    texts = [tokens[0][i].strip() for i in left], [tokens[1][i].strip() for i in right]
    here, there = Counter(texts[0]), Counter(texts[1])
    if sum(count * there[text] for text, count in here.items()) > MOST_MATCHES:
        return plain
    matcher = SequenceMatcher(None, *texts, autojunk=False)
    # Try a fast upper bound first.
    if matcher.quick_ratio() < SIMILAR or round(matcher.ratio(), 3) < SIMILAR:
        return plain
    blocks = matcher.get_matching_blocks()
    same_a = {left[block.a + i] for block in blocks for i in range(block.size)}
    same_b = {right[block.b + i] for block in blocks for i in range(block.size)}
    return _pieces(tokens[0], set(left) - same_a), _pieces(tokens[1], set(right) - same_b)


def _whole(text: str) -> Pieces:
    return (Piece(text),) if text else ()


def _pieces(tokens: Sequence[str], differ: set[int]) -> Pieces:
    """The tokens joined to pieces; space between two marked words is marked too."""
    marked = [
        {i - 1, i + 1} <= differ if token.isspace() else i in differ
        for i, token in enumerate(tokens)
    ]
    runs = groupby(zip(tokens, marked, strict=True), key=itemgetter(1))
    return tuple(Piece("".join(token for token, _ in run), differs) for differs, run in runs)


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
def entrance(name: str, sentences: Sentences, *, translated: bool = True) -> str:
    """A page for people without a session, as HTML: ``login``, ``join`` or ``setup``.

    If not ``translated``, it is the operator's page, in English.
    """
    template = environment(filters={}, names={}).get_template(f"entrance/{name}.html")
    return template.render(lang=sentences.lang, t=sentences.entrance, translated=translated)


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


def prose(text: str | Iterable[Piece]) -> Markup:
    r"""Escaped HTML of a text, which may be in pieces; all such text must go through here.

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
