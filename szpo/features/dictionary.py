"""The entries: name, group, unit, languages, two phrases, and an exact ratio of integers.

A feature is a pure function of the recorded prompt and answer. What is new here needs no model, no
setting and no clock; `digest` names the whole room, so that a record says which entries it used.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import Any, Final, Literal, TypeAlias

from szpo.features.reading import CAPITALS, NO_LETTER, Reading, read, syllables, words
from szpo.features.word_lists import COMMON, HEDGES, LISTS, OPENINGS, POLITE

Ratio: TypeAlias = tuple[int, int]
"""Numerator and denominator; the denominator is above 0."""
Count: TypeAlias = Callable[[Reading], Ratio]
Languages: TypeAlias = Literal["any", "spaced", "en"]
"""Every language, those that put spaces between words, or English only."""

ROOM: Final = ("reading.py", "word_lists.py", "dictionary.py", "golden.json")
"""The files whose bytes the digest covers, the golden table among them."""
EARLIER: Final = frozenset({"c6b0ff9c242e51b149e178c9e6fad66b1939145eb2876de23e01b65ea25f0ed6"})
"""Digests of earlier versions that count the same and say it in other words."""
TONE_READS: Final = 4_000
"""Characters from the start that VADER reads; its time grows with the square of the text."""
TONE_EMOJI: Final = 100
"""Emoji that VADER reads; of a text with more it reads none, since it puts words for each."""


@dataclass(frozen=True)
class Entry:
    """One feature: how it is counted, and how less and more of it are said."""

    name: str
    group: str
    unit: str
    languages: Languages
    fewer: str
    more: str
    count: Count


def ratios(prompt: str, answer: str, entries: Sequence[Entry] | None = None) -> tuple[Ratio, ...]:
    """The exact value of every entry as (numerator, denominator); entries default to all.

    >>> ratios("How is the sea?", "Calm, today.", [BY_NAME["commas"], BY_NAME["length"]])
    ((1, 2), (2, 1))
    """
    reading = read_answer(prompt, answer)
    return tuple(each.count(reading) for each in (ENTRIES if entries is None else entries))


@lru_cache(maxsize=4096)
def read_answer(prompt: str, answer: str) -> Reading:
    """The reading that all entries share."""
    return read(prompt, answer, len(_LISTED), _PHRASES, _facts)


def holding(prompts: Iterable[str]) -> tuple[Entry, ...]:
    """The entries that hold for answers to these prompts: word lists only where they are English.

    Prompts count as English where at least a quarter of their words are common English ones, and
    as written without spaces where most letters are Chinese, Japanese, Thai, Lao or Khmer.
    """
    found = [word for prompt in prompts for word in words(prompt)]
    common = frozenset(COMMON.split())
    if 4 * sum(word in common for word in found) >= len(found) > 0:
        return ENTRIES
    letters = "".join(found)
    kept = ("any",) if 2 * len(_UNSPACED.findall(letters)) > len(letters) else ("any", "spaced")
    return tuple(each for each in ENTRIES if each.languages in kept)


@cache
def digest() -> str:
    """SHA-256 over names, sources, word lists and the golden table of values, as hexadecimals."""
    found = hashlib.sha256("\n".join(each.name for each in ENTRIES).encode())
    for name in ROOM:
        found.update(resources.files("szpo.features").joinpath(name).read_bytes())
    return found.hexdigest()


def counts_alike(recorded: str) -> bool:
    """Whether the dictionary of this digest counts as this one does."""
    return recorded == digest() or recorded in EARLIER


# ---- counting ----


def _share(number: int, of: int) -> Ratio:
    return (number, of) if of else (0, 1)


def _per_word(number: int, reading: Reading) -> Ratio:
    return _share(number, len(reading.words))


def _marks(marks: str) -> Count:
    return lambda r: (sum(map(r.text.count, marks)), 1)


def _matches(pattern: str) -> Count:
    found = re.compile(pattern)
    return lambda r: (len(found.findall(r.text)), 1)


def _first(reading: Reading) -> Ratio:
    return (len(reading.sentences[0]) if reading.sentences else 0), 1


_FINISHED: Final = re.compile("[.!?。！？…]['\")\\]”’*_]*$")


def _finished(reading: Reading) -> Ratio:
    return int(bool(reading.lines) and _FINISHED.search(reading.lines[-1]) is not None), 1


def _asks_last(reading: Reading) -> Ratio:
    return int(bool(reading.lines) and reading.lines[-1].rstrip("\"'”’)").endswith(("?", "？"))), 1


def _paragraphs(reading: Reading) -> Ratio:
    return (
        len(_BLANK_LINES.findall(reading.text.strip(" \t\r\n"))) + 1 if reading.lines else 0
    ), 1


_BLANK_LINES: Final = re.compile(r"\n[ \t\r]*\n[ \t\r\n]*")


def _lines(starting: str) -> Count:
    found = re.compile(starting)
    return lambda r: (sum(found.match(line) is not None for line in r.lines), 1)


def _reading_ease(reading: Reading) -> Ratio:
    """206.835 − 1.015 · words per sentence − 84.6 · syllables per word (Flesch, 1948).

    Cut to [-100, 122]; 0 without words.
    """
    n, parts = len(reading.words), len(reading.sentences)
    if not n:
        return 0, 1
    spoken = reading.sums[_FACTS.index("syllables")]
    whole = 1000 * n * parts
    ease = 206_835 * n * parts - 1_015 * n * n - 84_600 * spoken * parts
    return min(max(ease, -100 * whole), 122 * whole), whole


def _repetition(reading: Reading) -> Ratio:
    pairs = list(zip(reading.words, reading.words[1:], strict=False))
    return _share(len(pairs) - len(set(pairs)), len(pairs))


def _same_starts(reading: Reading) -> Ratio:
    starts = {sentence[0] for sentence in reading.sentences}
    return _share(len(reading.sentences) - len(starts), len(reading.sentences))


def _overlap(reading: Reading) -> Ratio:
    return _share(len(reading.prompt & reading.different), len(reading.prompt))


def _echo(reading: Reading) -> Ratio:
    return _per_word(sum(word in reading.prompt for word in reading.words), reading)


@cache
def _vader() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


@lru_cache(maxsize=65_536)  # by far the slowest of them, and answers come more than once
def _tone(text: str) -> int:
    read = text[:TONE_READS]
    if sum(map(_vader().emojis.__contains__, read)) > TONE_EMOJI:
        read = "".join(each for each in read if each not in _vader().emojis)
    return round(10_000 * float(_vader().polarity_scores(read)["compound"]))


def _ends(endings: tuple[str, ...], longer: int, but: str) -> Callable[[str], bool]:
    others = frozenset(but.split())
    return lambda word: len(word) > longer and word.endswith(endings) and word not in others


def _listed(number: int) -> Count:
    return lambda r: _per_word(r.listed[number], r)


def _phrases(number: int) -> Count:
    return lambda r: (r.listed[number], 1)


def _opening(wanted: str) -> Count:
    known = frozenset(wanted.split())
    return lambda r: (int(bool(r.words) and r.words[0] in known), 1)


# ---- the entries ----

_PICTURES: Final = (
    "[¦©®°\u2100\u2101\u2103-\u2106\u2108\u2109\u2114\u2116\u2117\u211e-\u2123\u2195-\u2199"
    "\u219c-\u219f\u21a7-\u21ad\u21af-\u21cd\u2300-\u2307\u230c-\u231f\u2322-\u2328\u232b-\u237b"
    "\u23b4-\u23db\u23e2-\u2426\u249c-\u24e9\u2500-\u25b6\u25b8-\u25c0\u25c2-\u25f7\u2600-\u266e"
    "\u2670-\u2767\u2794-\u27bf\u2800-\u28ff\u2b00-\u2b2f\u2b4d-\u2b73\u2b76-\u2bff\u3012\u3013"
    "\u3020\ufffc\ufffd\U0001f000-\U0001f3fa\U0001f400-\U0001faff]"
)
_UNSPACED: Final = re.compile("[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
_NAMES: Final[re.Pattern[str]] = re.compile(
    r"(?<=[a-z0-9,;:)] )[A-Z\xc0-\xd6\xd8-\xde][a-z\xdf-\xf6\xf8-\xff]"
)
_NOT_ING: Final = (
    "thing something nothing everything anything during morning evening spring king bring sing "
    "ring wing string ceiling swing sling"
)
_NOT_LY: Final = "only family early lovely lonely friendly daily holy ugly silly reply supply july"
_NOT_ED: Final = (
    "need seed feed speed indeed hundred bleed breed weed exceed proceed succeed sacred"
)

_NOUNS: Final = (
    "tion", "tions", "sion", "ment", "ments", "ness", "ity", "ities", "ance", "ence"
)  # fmt: skip
_IN_A_WORD: Final[dict[str, Callable[[str], int]]] = {
    "letters": lambda word: min(len(word), 20),
    "long": lambda word: len(word) >= 7,
    "syllables": syllables,
    "few syllables": lambda word: min(syllables(word), 8),
    "abstract": _ends(_NOUNS, 5, "moment comment cement question station"),
    "ly": _ends(("ly",), 3, _NOT_LY),
    "ing": _ends(("ing",), 4, _NOT_ING),
    "ed": _ends(("ed",), 3, _NOT_ED),
    "positive": lambda word: _vader().lexicon.get(word, 0) > 0,
    "negative": lambda word: _vader().lexicon.get(word, 0) < 0,
}
"""What is counted in a single word; lengths are cut so that one odd word does not decide."""
_FACTS: Final = tuple(_IN_A_WORD)


@lru_cache(maxsize=65_536)  # answers share most of their words
def _facts(word: str) -> tuple[int, ...]:
    return tuple(int(count(word)) for count in _IN_A_WORD.values())


def _in_words(name: str) -> Count:
    place = _FACTS.index(name)
    return lambda r: _per_word(r.sums[place], r)


_LISTED: Final = (*(row[4] for row in LISTS), POLITE, HEDGES)
_PHRASES: Final[dict[str, list[tuple[int, tuple[str, ...]]]]] = {}
for _number, _row in enumerate(_LISTED):
    for _phrase in dict.fromkeys(_row.split()):
        _head, *_rest = _phrase.split("_")
        _PHRASES.setdefault(_head, []).append((_number, tuple(_rest)))

_WORDS: Final = "share of words"
_YES: Final = "0 or 1"

_COUNTED: Final[tuple[tuple[str, str, str, Languages, str, str, Count], ...]] = (
    ("length", "length", "words", "spaced", "shorter", "longer", lambda r: (len(r.words), 1)),
    ("characters", "length", "characters", "any", "fewer characters", "more characters",
     lambda r: (len(r.text), 1)),
    ("sentences", "sentences", "sentences", "any", "fewer sentences", "more sentences",
     lambda r: (len(r.sentences), 1)),
    ("sentence-length", "sentences", "words per sentence", "spaced", "shorter sentences",
     "longer sentences", lambda r: _share(len(r.words), len(r.sentences))),
    ("first-sentence", "sentences", "words", "spaced", "a shorter first sentence",
     "a longer first sentence", _first),
    ("finished", "sentences", _YES, "any", "breaks off more often",
     "ends with a closing mark more often",
     _finished),
    ("lines", "layout", "lines", "any", "fewer lines", "more lines", lambda r: (len(r.lines), 1)),
    ("paragraphs", "layout", "paragraphs", "any", "fewer paragraphs", "more paragraphs",
     _paragraphs),
    ("bullets", "layout", "lines of a list", "any", "fewer lines of a list",
     "more lines of a list", _lines(r"(?:[-*•]|[0-9]+[.)]) [^ \t]")),
    ("headings", "layout", "headings", "any", "fewer headings", "more headings",
     _lines("#{1,6} |[^.!?:]{1,60}:$")),
    ("bold", "layout", "marked passages", "any", "fewer bold or slanted passages",
     "more bold or slanted passages",
     _matches(r"\*\*?[^*\n]{1,200}\*|(?<![^ \n])_[^_\n]{1,200}_")),
    ("code", "layout", "marked pieces", "any", "less code", "more code",
     _matches(r"`{1,3}[^`]{1,2000}`|https?://")),
    ("comma", "commas", _YES, "any", "more answers without a comma",
     "fewer answers without a comma", lambda r: (int(any(c in r.text for c in ",，、،")), 1)),
    ("commas", "commas", "commas per word", "spaced", "fewer commas", "more commas",
     lambda r: _per_word(r.text.count(",") + r.text.count("،"), r)),
    ("questions", "questions", "question marks", "any", "fewer questions", "more questions",
     _marks("?？؟")),
    ("asks-last", "questions", _YES, "any", "ends with a question less often",
     "ends with a question more often", _asks_last),
    ("exclamations", "excitement", "exclamation marks", "any", "fewer exclamation marks",
     "more exclamation marks", _marks("!！")),
    ("shouting", "excitement", "words in capitals", "any", "fewer words in capitals",
     "more words in capitals",
     _matches(rf"(?<![^{NO_LETTER}])[{CAPITALS}]{{2,}}(?![^{NO_LETTER}])")),
    ("emoji", "excitement", "pictorial signs", "any", "fewer emoji and signs",
     "more emoji and signs", _matches(_PICTURES)),
    ("semicolons", "punctuation", "semicolons", "any", "fewer semicolons", "more semicolons",
     _marks(";；؛")),
    ("colons", "punctuation", "colons", "any", "fewer colons", "more colons", _marks(":：")),
    ("dashes", "punctuation", "dashes", "any", "fewer dashes", "more dashes",
     _matches("—|–|--+| - ")),
    ("hyphens", "punctuation", "hyphenated words", "any", "fewer hyphenated words",
     "more hyphenated words", lambda r: (sum("-" in word for word in r.words), 1)),
    ("brackets", "punctuation", "opening brackets", "any", "fewer brackets", "more brackets",
     _marks("([{（")),
    ("ellipses", "punctuation", "ellipses", "any", "fewer ellipses (…)", "more ellipses (…)",
     _matches(r"\.\.+|…")),
    ("capitals", "names and numbers", "capitalised words within sentences per word", "spaced",
     "fewer names (capitals within sentences)", "more names (capitals within sentences)",
     lambda r: _per_word(len(_NAMES.findall(r.text)), r)),
    ("numbers", "names and numbers", "numbers in digits", "any", "fewer numbers in digits",
     "more numbers in digits", _matches("[0-9]+")),
    ("word-length", "readability", "characters per word", "spaced", "shorter words",
     "longer words", _in_words("letters")),
    ("long-words", "readability", _WORDS, "spaced", "fewer long words", "more long words",
     _in_words("long")),
    ("syllables", "readability", "syllables per word", "en", "fewer syllables per word",
     "more syllables per word", _in_words("few syllables")),
    ("readability", "readability", "Flesch's reading ease", "en", "harder to read",
     "easier to read", _reading_ease),
    ("abstract", "readability", _WORDS, "en", "fewer abstract nouns (-tion, -ness)",
     "more abstract nouns (-tion, -ness)",
     _in_words("abstract")),
    ("variety", "variety", "different words per word", "spaced", "fewer different words",
     "more different words", lambda r: _per_word(len(r.different), r)),
    ("repetition", "variety", "share of word pairs", "spaced", "repeats itself less",
     "repeats itself more", _repetition),
    ("same-starts", "variety", "share of sentences", "spaced",
     "fewer sentences that begin alike", "more sentences that begin alike", _same_starts),
    ("overlap", "prompt", "share of the prompt's words", "spaced", "takes up the prompt less",
     "takes up the prompt more", _overlap),
    ("echo", "prompt", _WORDS, "spaced", "fewer words of the prompt", "more words of the prompt",
     _echo),
    ("sentiment", "tone", "VADER's compound, −1 to 1", "en", "more negative in tone",
     "more positive in tone", lambda r: (_tone(r.text), 10_000)),
    ("positive-words", "tone", _WORDS, "en", "fewer positive words", "more positive words",
     _in_words("positive")),
    ("negative-words", "tone", _WORDS, "en", "fewer negative words", "more negative words",
     _in_words("negative")),
    ("politeness", "politeness", "polite phrases", "en", "fewer polite phrases",
     "more polite phrases", _phrases(len(LISTS))),
    ("hedges", "hedges", "softening phrases", "en", "fewer hedges (maybe, seems)",
     "more hedges (maybe, seems)", _phrases(len(LISTS) + 1)),
    ("adverbs", "emphasis", _WORDS, "en", "fewer adverbs in -ly", "more adverbs in -ly",
     _in_words("ly")),
    ("ing-words", "tense", _WORDS, "en", "fewer words in -ing", "more words in -ing",
     _in_words("ing")),
    ("ed-words", "tense", _WORDS, "en", "fewer words in -ed", "more words in -ed",
     _in_words("ed")),
    ("quotes", "story", "quotation marks", "any", "fewer quotation marks", "more quotation marks",
     _marks('"“”„«»「」')),
)  # fmt: skip

ENTRIES: Final[tuple[Entry, ...]] = (
    *(Entry(*row) for row in _COUNTED),
    *(
        Entry(name, group, _WORDS, "en", fewer, more, _listed(number))
        for number, (name, group, fewer, more, _) in enumerate(LISTS)
    ),
    *(
        Entry(name, "openings", _YES, "en", fewer, more, _opening(wanted))
        for name, fewer, more, wanted in OPENINGS
    ),
)
"""The dictionary in its fixed order."""
BY_NAME: Final = {each.name: each for each in ENTRIES}
GROUPS: Final = Counter(each.group for each in ENTRIES)
"""Entries by group."""
