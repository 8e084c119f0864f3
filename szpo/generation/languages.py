"""Which language a text is in, by its script and its commonest words; enough to tell them apart.

It says nothing (None) of a text with too few known words, so that names, numbers and code count
for no language.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

COMMON: Final[Mapping[str, frozenset[str]]] = {
    name: frozenset(words.split())
    for name, words in {
        "English": "the and is of to in it you that was for with are this my i be have what how "
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
        if ord(letter) > 0x2FF and (kind := _script(letter)) in SCRIPTS
    )
    if kinds.total() >= max(FEWEST, len(letters) / 2):
        return "Japanese" if kinds["Japanese"] else kinds.most_common(1)[0][0]
    hits = {name: sum(word in common for word in words) for name, common in COMMON.items()}
    best = max(hits, key=lambda name: hits[name])
    alone = sum(n == hits[best] for n in hits.values()) == 1
    return best if alone and hits[best] >= FEWEST else None


def _script(letter: str) -> str:
    return unicodedata.name(letter, "").split(" ")[0]


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
