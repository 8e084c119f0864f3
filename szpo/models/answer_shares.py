"""Answers that nobody can judge: cut off, repeated, empty, off topic, alike, foreign.

Which language a text is in, by its script and its commonest words; enough to tell them apart. It
says nothing (None) of a text with too few known words, so that names, numbers and code count for
no language.

Answers that end at their last full sentence, where the token limit would cut them. What is cut off
are tokens, before anybody reads the answer: texts, scores, KL and training see the same shortened
answer. Such an answer has no end token, since the model did not end it. The rule is for a reader's
eye: when in doubt, a mark ends nothing, and an earlier sentence is the last one.

They come from a model that is too small, too hot or cut too short, and panelists who see them
leave. Shares above `BOUNDS` keep a run with people from opening its first round. Pure.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

from szpo import metrics
from szpo.metrics import Share, share
from szpo.types import Answer

if TYPE_CHECKING:
    from szpo.models.batched_lora import AdaptedModel


COMMON: Final[Mapping[str, frozenset[str]]] = {
    name: frozenset(words.split())
    for name, words in {
        "English": "a the and is of to in it you that was for with are this my i be have what how "
        "about on as an your me they",
        "German": "der die das und ist nicht ein eine einen ich du es mit für auf den dem sie wie "
        "von zu im am was über mir wir sind auch",
        "French": "le la les de et est un une des je tu il elle que dans pour pas sur du au qui "
        "ce avec nous vous sont moi",
        "Spanish": "el la los las y es un una que de en por para con no se del yo tu qué como su "
        "lo al muy",
        "Italian": "il lo la gli e è un una che di in per con non si del io tu cosa come su i "
        "della sono mi",
        "Portuguese": "o a os as e é um uma que de em por para com não se do da eu você como no "
        "na ao muito",
        "Dutch": "de het een en is van ik je dat in op te met voor niet zijn wat hoe er aan ook "
        "maar wij over",
    }.items()
}
"""For languages in Latin letters some of the commonest words."""
SCRIPTS: Final[Mapping[str, str]] = {
    "HIRAGANA": "Japanese", "KATAKANA": "Japanese", "CJK": "Chinese", "HANGUL": "Korean",
    "CYRILLIC": "Cyrillic", "ARABIC": "Arabic", "GREEK": "Greek", "HEBREW": "Hebrew",
    "THAI": "Thai", "DEVANAGARI": "Devanagari",
}  # fmt: skip
FEWEST: Final = 2
"""Known words, or letters of a script, from which a language is named."""
_WORD: Final = re.compile(r"[^\W\d_]+")

Tokens: TypeAlias = tuple[tuple[int, ...], ...]
END: Final = re.compile(
    # Possessive, and from the first mark of a run alone: else a run takes quadratic time.
    "(?<![.!?…。！？؟।])(?P<marks>[.!?…。！？؟।]++)(?P<closers>[\"'”’»›)\\]}*_」』）]*+)"
)
"""Closing marks, and the quotes, brackets and emphasis that close after them."""
WIDE: Final = frozenset("。！？")
"""Marks of scripts without spaces between sentences."""
LEAD: Final = re.compile(r"[\w.'’-]*\Z")
"""The word that a mark ends."""
BEGINS: Final = re.compile(r"(?:\A|\n|[.!?:;])[\s#>*_•(\[–-]*\Z")
"""What stands before a list's number: the begin of a line, or the end of another item."""
NUMBER: Final = re.compile(r"(?:\d{1,3}|[ivxIVX]{1,4})\Z")
NEVER: Final = re.compile(
    "(?:[DMS]r|Mr?s|Mx|Prof|[MS]t|Sgt|Capt|Lt|Col|Gen|Rep|Sen|Gov|Hon|Rev|Messrs|vs|cf|approx|"
    r"Fig|No|Nr|Vol|Eq|Sec|bzw|ca)\Z"
)
"""Short forms after which the sentence goes on; "No" also is a sentence, see `_ends`."""
MAYBE: Final = re.compile(r"(?:etc|Inc|Ltd|Co|Corp|Jr|al|usw|ff)\Z")
"""Short forms that end a sentence unless a small letter follows."""
GRAM: Final = 3
"""Length n of the word n-grams whose repetition is counted."""
REPEATED_FROM: Final = 0.25
"""A text repeats itself if at least this share of its n-grams occurred before."""
LONGEST_WORD: Final = 30
"""Most letters of a word; a longer one is text without spaces, and its letters count as words."""
BOUNDS: Final[Mapping[str, float]] = MappingProxyType(
    {"cut": 0.5, "repeated": 0.25, "empty": 0.1, "off_topic": 0.25, "language": 0.5, "equal": 0.5}
)
"""Highest shares of such answers with which a first round opens."""
NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "cut": "cut off",
        "repeated": "repeated",
        "empty": "empty",
        "off_topic": "off topic",
        "language": "in another language than their prompt",
        "equal": "equal to another answer",
    }
)
"""The kinds of answers in words."""
MENDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "cut": "raise generation.max_new_tokens",
        "repeated": "take a larger model (model.name)",
        "empty": "take another model (model.name)",
        "off_topic": "take a larger model (model.name)",
        "language": "take a model that writes the prompts' language (model.name)",
        "equal": "raise generation.temperature, or take prompts that leave more open",
    }
)
"""What mends each kind."""


def find_language(text: str) -> str | None:
    """The language of a text, or its script's name; None where it cannot be told.

    >>> [find_language(t) for t in ("Wie war der Tag?", "今日は雨です", "what is it", "w20 w21")]
    ['German', 'Japanese', 'English', None]
    """
    words = [word.casefold() for word in _WORD.findall(text)]
    letters = "".join(words)
    kinds = Counter(
        SCRIPTS[kind]
        for letter in letters
        if ord(letter) > 0x2FF
        and (kind := unicodedata.name(letter, "").partition(" ")[0]) in SCRIPTS
    )
    if kinds.total() >= max(FEWEST, len(letters) / 2):
        return "Japanese" if kinds["Japanese"] else kinds.most_common(1)[0][0]
    hits = {name: sum(word in common for word in words) for name, common in COMMON.items()}
    best = max(hits, key=lambda name: hits[name])
    alone = sum(n == hits[best] for n in hits.values()) == 1
    return best if alone and hits[best] >= FEWEST else None


def in_another(prompts: Sequence[str], answers: Sequence[str]) -> tuple[int, int]:
    """How many answers are in another language than their prompt, and of how many both are known.

    A prompt that is too short to tell is taken to be in the language of all prompts together, if
    its letters can be of that language.

    >>> in_another(["Wie war der Tag?", "Regen"], ["It was the best", "Er ist der beste"])
    (1, 2)
    >>> in_another(["Why?", "今日は雨です"], ["It is the rain", "雨です"])
    (0, 1)
    """
    every = find_language(" ".join(prompts))
    latin = None if every in SCRIPTS.values() else every
    pairs = [
        (find_language(prompt) or (latin if prompt.isascii() else every), find_language(answer))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    known = [asked != said for asked, said in pairs if asked and said]
    return sum(known), len(known)


def sentence_ends(text: str, *, open_end: bool = False) -> list[int]:
    """The places in a text after each full sentence, with the quotes that close after its mark.

    Decimals, list numbers, initials and usual short forms end no sentence; nor does a mark before
    a small letter in quotes or after "…". With ``open_end`` the text was cut off, and a number
    with a point at its end may go on as a decimal or a list.

    >>> text = 'Dr. Li paid 3.50. "Why?" she asked. 2. Next, the'
    >>> [text[:end] for end in sentence_ends(text)]
    ['Dr. Li paid 3.50.', 'Dr. Li paid 3.50. "Why?" she asked.']
    """
    return [m.end() for m in END.finditer(text) if _ends(text, m, open_end=open_end)]


def _ends(text: str, mark: re.Match[str], *, open_end: bool) -> bool:
    marks, rest = mark["marks"], text[mark.end() :]
    after = rest.lstrip()
    if rest and len(after) == len(rest) and not WIDE & set(marks):
        return False  # no space follows: a decimal, an address, a file's name
    goes_on = after[:1].islower()
    if marks != ".":
        return not (goes_on and (mark["closers"] or "…" in marks or ".." in marks))
    word = LEAD.search(text, 0, mark.start()).group()  # type: ignore[union-attr]
    if open_end and not after and word[-1:].isdigit():
        return False
    if NUMBER.match(word) and BEGINS.search(text, 0, mark.start() - len(word)):
        return False
    if (len(word) == 1 and word.isalpha() and word != "I") or re.search(r"\.\w\Z", word):
        return False
    if word == "No":
        return not after[:1].isdigit()
    return not (NEVER.match(word) or (goes_on and (mark["closers"] or MAYBE.match(word))))


def is_cut(answer: Answer) -> bool:
    """Whether the token limit ended an answer in the middle of a sentence.

    >>> is_cut(Answer("It rains. And", "length")), is_cut(Answer("It rains.", "length"))
    (True, False)
    """
    text = answer.text.rstrip()
    return answer.end == "length" and sentence_ends(text)[-1:] != [len(text)]


def cut_rows(adapted: AdaptedModel, rows: Sequence[Sequence[int]]) -> Tokens:
    """Cut each answer after its last full sentence; those that ended themselves stay whole."""

    def decode(tokens: Sequence[int]) -> str:
        text: str = adapted.tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    stops = frozenset(adapted.stop_tokens)
    return tuple(
        tuple(row) if row and row[-1] in stops else tuple(row[: cut(row, decode)]) for row in rows
    )


def cut(tokens: Sequence[int], decode: Callable[[Sequence[int]], str]) -> int:
    """How many tokens to keep: up to the last full sentence that ends with a token, else all."""
    text = decode(tokens)
    ends = frozenset(sentence_ends(text.rstrip(), open_end=True))
    kept, end = len(tokens), 0
    for count in range(len(tokens), 0, -1) if ends else ():
        begin = decode(tokens[:count]).rstrip()
        if end and len(begin) != end:
            break
        if len(begin) in ends and text.startswith(begin):
            kept, end = count, len(begin)  # a space after the mark goes too
    return kept


@dataclass(frozen=True, slots=True)
class AnswerShares:
    """Shares of answers that nobody can judge, each with its 95 % interval."""

    cut: Share
    """Ended by the token limit in the middle of a sentence."""
    repeated: Share
    """Repeat themselves; see `repeats`."""
    empty: Share
    """Without a visible character."""
    off_topic: Share | None = None
    """Likelier after another prompt than after their own; None if not measured."""
    language: Share | None = None
    """In another language than their prompt, of those that can be told; None if not measured."""
    equal: Share | None = None
    """Equal to another answer to their prompt; None if not measured."""

    def list_shares(self) -> tuple[tuple[str, Share], ...]:
        """The shares that were measured, by their keys in `BOUNDS`."""
        bounds = ((name, getattr(self, name)) for name in BOUNDS)
        return tuple((name, value) for name, value in bounds if value is not None)

    def list_beyond(self) -> tuple[tuple[str, Share], ...]:
        """The shares above their bounds; empty without answers."""
        return tuple(
            (name, value)
            for name, value in self.list_shares()
            if value.value is not None and value.value > BOUNDS[name]
        )

    def beyond(self) -> tuple[str, ...]:
        """The shares above their bounds, in words."""
        return tuple(
            f"{value.hits:g} of {value.of:g} {NAMES[name]}, bound {BOUNDS[name]:.0%}"
            for name, value in self.list_beyond()
        )


def measure(
    answers: Sequence[Answer],
    margins: Sequence[float] | None = None,
    prompts: Sequence[str] | None = None,
) -> AnswerShares:
    """The shares of some answers.

    Args:
        answers: The answers.
        margins: The margin of each answer (`szpo.policies.text_guards`), nats, nan for an empty
            one; None: not measured.
        prompts: Each answer's prompt, to compare languages; None: not measured.

    >>> shares = measure([Answer("Yes."), Answer("no no no no no", "length"), Answer(" ")])
    >>> [(name, value.hits) for name, value in shares.list_shares()]
    [('cut', 1), ('repeated', 1), ('empty', 1)]
    """
    count = len(answers)
    off = None
    if margins is not None:
        known = [margin for margin in margins if not math.isnan(margin)]
        off = share(sum(margin < 0 for margin in known), len(known))
    return AnswerShares(
        cut=share(sum(map(is_cut, answers)), count),
        repeated=share(sum(repeats(answer.text) for answer in answers), count),
        empty=share(sum(not answer.text.strip() for answer in answers), count),
        off_topic=off,
        language=None
        if prompts is None
        else share(*in_another(prompts, [answer.text for answer in answers])),
    )


def warn(prompts: Sequence[str], rows: Sequence[Sequence[Answer]]) -> str:
    """What is wrong with most answers (several to each prompt), and what mends it; or empty.

    >>> warn(["How was the day?"], [[Answer("It was the", "length")]])
    'of the base answers 1 of 1 cut off: raise generation.max_new_tokens'
    """
    flat = [answer for row in rows for answer in row]
    asked = [prompt for prompt, row in zip(prompts, rows, strict=True) for _ in row]
    texts = [Counter(answer.text for answer in row) for row in rows]
    twice = sum(n for row in texts for n in row.values() if n > 1)
    several = any(len(row) > 1 for row in rows)
    shares = replace(
        measure(flat, prompts=asked), equal=share(twice, len(flat)) if several else None
    )
    said = [
        f"{value.hits:g} of {value.of:g} {NAMES[name]}: {MENDS[name]}"
        for name, value in shares.list_beyond()
    ]
    return f"of the base answers {'; '.join(said)}" if said else ""


def repeats(text: str) -> bool:
    """Whether a text repeats itself: a quarter of its three-word runs or more occurred before.

    >>> repeats("I am fine. I am fine. I am fine."), repeats("The cat saw the dog and it ran.")
    (True, False)
    """
    words = [
        each
        for word in metrics.words(text)
        for each in ([word] if len(word) <= LONGEST_WORD else word)
    ]
    return metrics.repetition(" ".join(words), GRAM) >= REPEATED_FROM
